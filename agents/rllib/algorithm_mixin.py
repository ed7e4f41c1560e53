"""Mixin for RLlib's algorithms: env-step counting, and sending weights to runners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from graft.agents.checkpoints.snapshot import Savable
from graft.agents.rllib.rollout_collector import EndedEpisodes
from graft.agents.rllib.runner import BatchRunner, Fragment
from graft.envs.core.faults import Faults


class AlgorithmMixin(Algorithm):
    """The backend calls ``training_step`` of these algorithms until the budget is spent.

    Attributes:
        env_steps: taken so far. budget: env steps of the whole training, once the backend has set it.
        critics_carried: whether critics beside the network are those of a source.
        fragments: of the latest training step, one for each runner. results: metrics of each learner in it.
        memory: state between training steps beside learners and runners (a replay buffer), or None.
        tags: RLlib's names of what a learner measures -> tags of Graft's records.
    """

    env_steps = 0
    budget: int | None = None
    critics_carried = False
    fragments: tuple[Fragment, ...] = ()
    results: tuple[Any, ...] = ()
    memory: Savable | None = None
    tags: ClassVar[Mapping[str, str]] = {
        "policy_loss": "train/policy_gradient_loss",
        "vf_loss_unclipped": "train/value_loss",
        "vf_explained_var": "train/explained_variance",
        "entropy": "train/entropy",
        "total_loss": "train/loss",
    }

    def actor_groups(self) -> tuple[EnvRunnerGroup, LearnerGroup]:
        assert self.env_runner_group is not None
        assert self.learner_group is not None
        return self.env_runner_group, self.learner_group

    def sample_all(self) -> tuple[Fragment, ...]:
        return tuple(self.actor_groups()[0].foreach_env_runner(lambda runner: runner.sample()))

    def weights(self) -> dict[str, dict[str, Any]]:
        """Weights of the first learner's networks, by policy."""
        learners: Any = self.actor_groups()[1]
        return cast(dict[str, dict[str, Any]], next(iter(learners.foreach_learner(lambda one: one.weights()))).get())

    def send_weights(self) -> None:
        """From the first learner to all runners; RLlib's own way skips those with weights of the same version."""
        runners, weights = self.actor_groups()[0], self.weights()
        sent = ray.put(weights) if runners.num_remote_env_runners() else weights
        runners.foreach_env_runner(lambda runner: load_weights(runner, sent))  # type: ignore[arg-type]

    def faults(self) -> list[Faults]:
        found: list[Faults] = self.actor_groups()[0].foreach_env_runner(lambda runner: runner.faults)  # type: ignore[attr-defined]
        return found

    def _setup_logdir(self) -> None:
        """RLlib writes no records of its own: Graft does."""
        self._logdir: Any = ""


def merged(fragments: Sequence[Fragment], rows: int) -> Fragment:
    kinds = (np.float64, np.int64, np.int64)
    ended = (
        np.concatenate([np.zeros(0, kind), *(fragment.ended[i] for fragment in fragments)])
        for i, kind in enumerate(kinds)
    )
    return Fragment({}, sum(fragment.env_steps for fragment in fragments), rows, EndedEpisodes(*ended))


def load_weights(runner: BatchRunner, weights: Any) -> None:
    """Load weights, or those that an object reference points to."""
    runner.load_weights(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
