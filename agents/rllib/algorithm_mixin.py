"""What all algorithms of RLlib have in this backend: what they count, and how runners get weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from graft.agents.checkpoints.snapshot import Savable
from graft.agents.rllib.learner import TransferLearner
from graft.agents.rllib.rollout_collector import EndedEpisodes
from graft.agents.rllib.runner import BatchRunner, Fragment
from graft.envs.core.faults import Faults

TAGS = {
    "policy_loss": "train/policy_gradient_loss",
    "vf_loss_unclipped": "train/value_loss",
    "vf_explained_var": "train/explained_variance",
    "entropy": "train/entropy",
    "total_loss": "train/loss",
}
"""RLlib's names of what a learner measures -> tags of Graft's records."""

KINDS = tuple(enumerate((np.float64, np.int64, np.int64)))
"""Place and type of the parts of `EndedEpisodes`."""


class AlgorithmMixin(Algorithm):
    """A mixin for RLlib's algorithms, whose ``training_step`` the backend calls until the budget is spent.

    Attributes:
        env_steps: taken in its life; the budget goes by them. budget: env steps, once somebody has said so.
        fragments: of the latest training step, one for each runner. results: what each learner measured in it.
        memory: what it keeps between two training steps, beside learners and runners; None for nothing.
        tags: RLlib's names of what a learner measures -> tags of Graft's records.
    """

    env_steps = 0
    budget: int | None = None
    fragments: tuple[Fragment, ...] = ()
    results: tuple[Any, ...] = ()
    memory: Savable | None = None
    tags: ClassVar[Mapping[str, str]] = TAGS

    def seams(self) -> tuple[EnvRunnerGroup, LearnerGroup]:
        """Runners and learners of an algorithm that was set up."""
        runners, learners = self.env_runner_group, self.learner_group
        assert runners is not None
        assert learners is not None
        return runners, learners

    def weights(self) -> dict[str, dict[str, Any]]:
        """Of the first learner's networks, by policy."""
        _, learners = self.seams()
        found: dict[str, dict[str, Any]] = next(iter(learners.foreach_learner(_weights))).get()  # type: ignore[arg-type]
        return found

    def send_weights(self) -> None:
        """From the first learner to all runners, whatever changed them.

        RLlib's own way is for updates only: it leaves runners alone that have weights of the same number already.
        """
        runners, _ = self.seams()
        weights = self.weights()
        held = ray.put(weights) if runners.num_remote_env_runners() else weights
        runners.foreach_env_runner(partial(load_weights, weights=held))

    def faults(self) -> list[Faults]:
        """Of each runner's environments."""
        runners, _ = self.seams()
        found: list[Faults] = runners.foreach_env_runner(_faults)  # type: ignore[arg-type]  # they are ours
        return found

    def _setup_logdir(self) -> None:
        """RLlib's records go nowhere: Graft keeps its own."""
        self._logdir: Any = ""


def merged(found: Sequence[Fragment], rows: int) -> Fragment:
    """What one runner with ``rows`` environments has sampled bit by bit, without columns."""
    parts = [np.concatenate([np.zeros(0, kind), *(part[i] for part in (f.ended for f in found))]) for i, kind in KINDS]
    return Fragment({}, sum(fragment.env_steps for fragment in found), rows, EndedEpisodes(*parts))


def load_weights(runner: BatchRunner, weights: Any) -> None:
    """Let a runner play with these weights, or those that they are a reference to."""
    runner.load_weights(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)


def _weights(learner: TransferLearner) -> dict[str, dict[str, Any]]:
    networks = learner.networks.items()
    return {policy: {name: t.detach().cpu().numpy() for name, t in n.state_dict().items()} for policy, n in networks}


def _faults(runner: BatchRunner) -> Faults:
    return runner.faults
