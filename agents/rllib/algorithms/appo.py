"""APPO of RLlib, on arrays instead of episode objects: runners need not wait for the learner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import ray
import torch
from pydantic import Field
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPO, APPOConfig
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME, NUM_ENV_STEPS_TRAINED_LIFETIME

from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.rllib.algorithm import ALGORITHMS, Algorithm
from graft.agents.rllib.algorithm_mixin import AlgorithmMixin, load_weights, merged
from graft.agents.rllib.learner import TransferLearner
from graft.agents.rllib.module import NetworkModule
from graft.agents.rllib.runner import BatchRunner, Fragment
from graft.agents.rllib.trajectories import TargetModule, TrajectoryRunner
from graft.agents.training.algorithm import Count, NotNegative, Positive, Share
from graft.envs.core.faults import Faults

PLAY = "play"
"""Tag of what runners in other processes are asked for; RLlib has requests of its own."""

POLL_SECONDS = 0.01
"""Seconds between two looks whether a runner in another process is done."""


class TransferAPPOLearner(TransferLearner, APPOTorchLearner):  # type: ignore[misc]  # RLlib's own bases differ
    """RLlib's APPO learner with a method's hooks; its loss is the library's.

    RLlib's runs its updates in a thread that draws batches from a queue in random order, so that no two trainings are
    alike. Here `update` makes them itself and returns when they are done.
    """

    def build(self) -> None:
        """Called by RLlib, which starts the thread."""
        super().build()  # type: ignore[no-untyped-call]
        self._learner_thread.request_stop()  # type: ignore[attr-defined]
        self._learner_thread.join()

    def update(self, training_data: TrainingData, *, timesteps: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """All epochs over a batch, now."""
        return Learner.update(self, training_data=training_data, timesteps=timesteps, **kwargs)

    @property
    def target_module(self) -> TargetModule:
        """The network and its older copy."""
        found = self.module[DEFAULT_MODULE_ID].unwrapped()
        assert isinstance(found, TargetModule)
        return found

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, num_epochs: int = 1, minibatch_size: int | None = None, **_: Any
    ) -> Iterator[MultiAgentBatch]:
        """Minibatches of whole rows in random order, new in every epoch; the last one may be smaller.

        Args:
            minibatch_size: steps in it that are learned from.
        """
        made = self._make_batch_if_necessary(training_data=training_data)  # type: ignore[no-untyped-call]
        whole = made.policy_batches[DEFAULT_MODULE_ID]
        columns = {name: column for name, column in whole.items() if isinstance(column, torch.Tensor)}
        if self.hooks.schedule is None:  # else the copy's frozen blocks may not be the network's
            columns = self._columns(DEFAULT_MODULE_ID, whole)
        length = self.config.get_rollout_fragment_length()
        states = torch.arange(len(whole), device=self.device).view(-1, length)
        size = max(1, (minibatch_size or len(whole)) // (length - 1))
        try:
            for _epoch in range(num_epochs):
                for chosen in torch.split(torch.randperm(len(states)).to(self.device), size):
                    places = states[chosen].flatten()
                    part = SampleBatch({name: column[places] for name, column in columns.items()})
                    yield MultiAgentBatch({DEFAULT_MODULE_ID: part}, len(places))
        finally:
            self.target_module.input_depth = 0

    def save(self) -> SavedState:
        """What its next updates depend on."""
        saved = super().save()
        old = {f"old/{name}": tensor.detach().cpu() for name, tensor in self.target_module.old.state_dict().items()}
        renewed = self._last_update_ts_by_mid[DEFAULT_MODULE_ID]
        return SavedState({**saved.tensors, **old}, {**saved.values, "renewed": renewed})

    def restore(self, saved: SavedState) -> None:
        """Inverse of `save`."""
        super().restore(saved)
        self.target_module.old.load_exactly({name: t.to(self.device) for name, t in saved.group("old").items()})
        self._last_update_ts_by_mid[DEFAULT_MODULE_ID] = saved.values["renewed"]


class TransferAPPO(AlgorithmMixin, APPO):
    """RLlib's APPO, whose learner takes batches of rows from whoever has sampled them.

    A training step waits for as many fragments as there are runners. A runner in another process plays on with the
    newest weights as soon as its fragment was fetched, while the learner learns, so a fast one gives more of them.
    """

    _ready: Any = None
    _known: dict[int, Faults]
    tags: ClassVar[Mapping[str, str]] = {
        "policy_loss": "train/policy_gradient_loss",
        "vf_loss": "train/value_loss",
        "entropy": "train/entropy",
        "total_loss": "train/loss",
        "mean_IS": "train/importance",
    }

    def training_step(self) -> None:
        """Fragments, an update from them, and new weights."""
        config, (runners, learners) = self.config, self.seams()
        assert isinstance(config, TransferAPPOConfig)
        if runners.num_remote_env_runners():
            found = self._fetched()
        else:
            found = [[fragment] for fragment in runners.foreach_env_runner(_sample)]
        share = config.num_envs_per_env_runner
        self.fragments = tuple(merged(of_one, share) for of_one in found)
        self.env_steps += sum(fragment.env_steps for fragment in self.fragments)
        whole, length = [fragment for of_one in found for fragment in of_one], config.get_rollout_fragment_length()
        batch = _together(whole, length, max(1, config.num_learners))
        self.results = ()
        if batch is None:
            return  # nobody was in play, so there is nothing to learn from
        steps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps, NUM_ENV_STEPS_TRAINED_LIFETIME: self.env_steps}
        self.results = tuple(
            learners.update(
                batch=batch, timesteps=steps, num_epochs=config.num_epochs, minibatch_size=config.minibatch_size
            )
        )
        self.send_weights()

    def _fetched(self) -> list[list[Fragment]]:
        """Of each runner in another process, what it has sampled since the last call."""
        runners, _ = self.seams()
        count = runners.num_remote_env_runners()
        found: list[list[Fragment]] = [[] for _ in range(count)]
        if not runners.num_in_flight_async_reqs(PLAY):
            self._ask(list(range(1, count + 1)))
        while sum(map(len, found)) < count:
            ready: list[tuple[int, Any]] = runners.fetch_ready_async_reqs(tags=PLAY, timeout_seconds=POLL_SECONDS)
            for number, (fragment, faults) in ready:
                found[number - 1].append(fragment)
                self._known[number] = faults
                self._ask([number])
        return found

    def _ask(self, numbers: list[int]) -> None:
        """Let runners play a fragment with the newest weights."""
        runners, _ = self.seams()
        if self._ready is None:
            self.send_weights()
        runners.foreach_env_runner_async(partial(_played, weights=self._ready), PLAY, remote_worker_ids=numbers)

    def send_weights(self) -> None:
        """From the first learner to all runners: those in other processes get them when they begin a fragment."""
        runners, _ = self.seams()
        if not runners.num_remote_env_runners():
            super().send_weights()
            return
        self._ready = ray.put(self.weights())

    def faults(self) -> list[Faults]:
        """Of each runner's environments; while runners in other processes play, as of the latest fragments."""
        runners, _ = self.seams()
        if not runners.num_in_flight_async_reqs(PLAY):
            return super().faults()
        return [self._known.get(number, Faults()) for number in range(1, runners.num_remote_env_runners() + 1)]

    def setup(self, config: Any) -> None:
        """Called by RLlib."""
        self._known = {}
        super().setup(config)


def _sample(runner: Any) -> Any:
    return runner.sample()


def _played(runner: BatchRunner, weights: Any) -> tuple[Fragment, Faults]:
    load_weights(runner, weights)
    return runner.sample(), runner.faults


def _together(fragments: Sequence[Fragment], length: int, learners: int) -> MultiAgentBatch | None:
    """The rows of all fragments, as many for each learner; where these can't share them, the last are left out."""
    columns = {name: np.concatenate([f.columns[name] for f in fragments]) for name in fragments[0].columns}
    rows = len(next(iter(columns.values()))) // length
    count = (rows - rows % learners) * length
    if not count:
        return None
    states = SampleBatch({name: column[:count] for name, column in columns.items()})
    return MultiAgentBatch({DEFAULT_MODULE_ID: states}, count)


class TransferAPPOConfig(APPOConfig):
    """RLlib's, for `TransferAPPO`."""

    def __init__(self) -> None:
        super().__init__(algo_class=TransferAPPO)  # type: ignore[no-untyped-call]

    def get_default_learner_class(self) -> type[TorchLearner]:
        """The one with a method's hooks."""
        return TransferAPPOLearner

    def get_rollout_fragment_length(self, worker_index: int = 0) -> int:
        """Steps of a row as the loss reads it: those that were played, and what they came to."""
        return int(self.rollout_fragment_length) + 1


@ALGORITHMS.register("appo")
@dataclass(frozen=True, kw_only=True)
class APPOAlgorithm(Algorithm):
    """Asynchronous proximal policy optimisation, with V-trace (Luo et al. 2020, Espeholt et al. 2018).

    For actions of every kind. Runners in processes of their own play on while the learner learns, with weights that are
    an update or more old; V-trace and an older copy of the network, which the policy's ratio is taken against, make up
    for that. Which fragments meet in an update then depends on who was done first: two such trainings with one seed
    differ, and one that goes on from a snapshot loses the fragments that were being played. Without runners of their
    own (``num_env_runners: 0``) playing and learning take turns, and a seed fixes everything.

    RLlib's loss as it is; its buffer of earlier batches is left out: each batch is learned from ``epochs`` times in a
    row, then it is gone.

    Attributes:
        num_steps: steps of each environment per fragment. minibatch: states per gradient step, in whole fragments of an
            environment, at least one. epochs: passes over each batch. learning_rate: of Adam. gamma: discount.
        entropy: weight of the entropy bonus. clip: of the probability ratio. value: weight of the value loss.
        max_grad_norm: gradients are clipped to this norm.
        target_update: batches (``num_envs`` * ``num_steps`` env steps) between two renewals of the older copy.
        rho: largest weight of a step in V-trace's returns, and in the policy's advantages.
    """

    module: ClassVar[type[NetworkModule]] = TargetModule

    num_steps: Count = 32
    minibatch: Annotated[int, Field(ge=1)] = 256
    epochs: Count = 2
    learning_rate: Positive = 2e-3
    gamma: Share = 0.97
    entropy: NotNegative = 0.01
    clip: Positive = 0.4
    value: NotNegative = 0.5
    max_grad_norm: Positive = 0.5
    target_update: Count = 1
    rho: Positive = 1.0

    def config(self, num_learners: int) -> AlgorithmConfig:
        """RLlib's config; several learners share each minibatch."""
        learners = max(1, num_learners)
        whole = max(1, self.num_envs // learners)
        rows = max(1, min(self.minibatch // self.num_steps // learners, whole))
        config = TransferAPPOConfig()
        config.env_runners(env_runner_cls=TrajectoryRunner, rollout_fragment_length=self.num_steps)
        config.learners(add_default_connectors_to_learner_pipeline=False)
        config.training(
            lr=self.learning_rate,
            gamma=self.gamma,
            train_batch_size_per_learner=whole * self.num_steps,
            minibatch_size=rows * self.num_steps,
            num_epochs=self.epochs,
            entropy_coeff=self.entropy,
            clip_param=self.clip,
            vf_loss_coeff=self.value,
            vtrace_clip_rho_threshold=self.rho,
            vtrace_clip_pg_rho_threshold=self.rho,
            use_kl_loss=False,
            grad_clip=self.max_grad_norm,
            grad_clip_by="global_norm",
            # The copy's age is counted in what these multiply to, and in batches of all learners.
            target_network_update_freq=self.target_update * learners,
            tau=1.0,
            circular_buffer_num_batches=1,
            circular_buffer_iterations_per_batch=1,
            use_circular_buffer=False,
            num_gpu_loader_threads=0,
        )
        config.use_env_runner_state_server = False
        return config
