"""RLlib's APPO on arrays instead of episode objects; runners need not wait for the learner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import ray
import torch
from pydantic import Field
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPO, APPOConfig
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
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

SAMPLE_TAG = "play"  # of asynchronous requests to runners, apart from RLlib's own
POLL_SECONDS = 0.01  # seconds to wait for a fragment before asking again


class TransferAPPOLearner(TransferLearner, APPOTorchLearner):  # type: ignore[misc]  # RLlib's own bases differ
    """RLlib's APPO learner with a method's hooks; its loss is the library's.

    RLlib runs updates in a thread that draws batches from a queue, so no two trainings are alike. Here `update` is
    synchronous.
    """

    def build(self) -> None:
        super().build()
        self._learner_thread.request_stop()  # type: ignore[attr-defined]
        self._learner_thread.join()

    def update(self, training_data: TrainingData, *, timesteps: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        return Learner.update(self, training_data=training_data, timesteps=timesteps, **kwargs)

    @property
    def target_module(self) -> TargetModule:
        return cast(TargetModule, self.module[DEFAULT_MODULE_ID].unwrapped())

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, num_epochs: int = 1, minibatch_size: int | None = None, **_: Any
    ) -> Iterator[MultiAgentBatch]:
        """Shuffled minibatches of whole trajectories; ``minibatch_size`` does not count the last step of each."""
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
        saved = super().save()
        old = {f"old/{name}": tensor.detach().cpu() for name, tensor in self.target_module.target.state_dict().items()}
        renewed = self._last_update_ts_by_mid[DEFAULT_MODULE_ID]
        return SavedState({**saved.tensors, **old}, {**saved.values, "renewed": renewed})

    def restore(self, saved: SavedState) -> None:
        super().restore(saved)
        self.target_module.target.load_exactly(self.on_device(saved, "old"))
        self._last_update_ts_by_mid[DEFAULT_MODULE_ID] = saved.values["renewed"]


class TransferAPPO(AlgorithmMixin, APPO):
    """RLlib's APPO on batches of trajectories.

    A training step waits for as many fragments as there are runners. A remote runner goes on with the newest weights as
    soon as its fragment was fetched, so a fast one contributes more of them.
    """

    _sent: Any = None
    _known: Mapping[int, Faults] = {}  # replaced, never changed
    tags: ClassVar[Mapping[str, str]] = {
        "policy_loss": "train/policy_gradient_loss",
        "vf_loss": "train/value_loss",
        "entropy": "train/entropy",
        "total_loss": "train/loss",
        "mean_IS": "train/importance",
    }

    def training_step(self) -> None:
        config, (runners, learners) = self.config, self.actor_groups()
        assert isinstance(config, TransferAPPOConfig)
        remote = runners.num_remote_env_runners()
        fragments = self._fetch_fragments() if remote else [[fragment] for fragment in self.sample_all()]
        share = config.num_envs_per_env_runner
        self.fragments = tuple(merged(of_one, share) for of_one in fragments)
        self.env_steps += sum(fragment.env_steps for fragment in self.fragments)
        whole, length = [fragment for of_one in fragments for fragment in of_one], config.get_rollout_fragment_length()
        batch = _together(whole, length, max(1, config.num_learners))
        self.results = ()
        if batch is None:
            return  # no row was in play
        steps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps, NUM_ENV_STEPS_TRAINED_LIFETIME: self.env_steps}
        self.results = tuple(
            learners.update(
                batch=batch, timesteps=steps, num_epochs=config.num_epochs, minibatch_size=config.minibatch_size
            )
        )
        self.send_weights()

    def _fetch_fragments(self) -> list[list[Fragment]]:
        """The fragments of each remote runner since the last call."""
        runners, _ = self.actor_groups()
        count = runners.num_remote_env_runners()
        fragments: list[list[Fragment]] = [[] for _ in range(count)]
        if not runners.num_in_flight_async_reqs(SAMPLE_TAG):
            self._request(list(range(1, count + 1)))
        while sum(map(len, fragments)) < count:
            ready: list[tuple[int, Any]] = runners.fetch_ready_async_reqs(tags=SAMPLE_TAG, timeout_seconds=POLL_SECONDS)
            for number, (fragment, faults) in ready:
                fragments[number - 1].append(fragment)
                self._known = {**self._known, number: faults}
                self._request([number])
        return fragments

    def _request(self, numbers: list[int]) -> None:
        """Ask runners for a fragment, played with the newest weights."""
        runners, _ = self.actor_groups()
        if self._sent is None:
            self.send_weights()
        runners.foreach_env_runner_async(partial(_played, weights=self._sent), SAMPLE_TAG, remote_worker_ids=numbers)

    def send_weights(self) -> None:
        """From the first learner to all runners; remote ones get them with the next request."""
        runners, _ = self.actor_groups()
        if not runners.num_remote_env_runners():
            super().send_weights()
            return
        self._sent = ray.put(self.weights())

    def faults(self) -> list[Faults]:
        """Of each runner's environments; of remote runners that are sampling, as of their latest fragments."""
        runners, _ = self.actor_groups()
        if not runners.num_in_flight_async_reqs(SAMPLE_TAG):
            return super().faults()
        return [self._known.get(number, Faults()) for number in range(1, runners.num_remote_env_runners() + 1)]


def _played(runner: BatchRunner, weights: Any) -> tuple[Fragment, Faults]:
    load_weights(runner, weights)
    return runner.sample(), runner.faults


def _together(fragments: Sequence[Fragment], length: int, learners: int) -> MultiAgentBatch | None:
    """All trajectories; the last few are dropped where learners can't share them evenly."""
    columns = {name: np.concatenate([f.columns[name] for f in fragments]) for name in fragments[0].columns}
    rows = len(next(iter(columns.values()))) // length
    count = (rows - rows % learners) * length
    if not count:
        return None
    states = SampleBatch({name: column[:count] for name, column in columns.items()})
    return MultiAgentBatch({DEFAULT_MODULE_ID: states}, count)


class TransferAPPOConfig(APPOConfig):
    """RLlib's config for `TransferAPPO`."""

    def __init__(self) -> None:
        super().__init__(algo_class=TransferAPPO)  # type: ignore[no-untyped-call]

    def get_rollout_fragment_length(self, worker_index: int = 0) -> int:
        """Steps of a trajectory as the loss reads it: those played, and one for the observation after them."""
        return int(self.rollout_fragment_length) + 1


@ALGORITHMS.register("appo")
@dataclass(frozen=True, kw_only=True)
class APPOAlgorithm(Algorithm):
    """Asynchronous proximal policy optimisation, with V-trace (Luo et al. 2020, Espeholt et al. 2018).

    For actions of every kind. Remote runners go on sampling while the learner learns, with weights that are an update
    or more old, which V-trace and an older copy of the network (in the policy's ratio) correct for. Which fragments
    meet in an update depends on timing: two such trainings with one seed differ, and one that is resumed loses the
    fragments that were being played. Without remote runners (``num_env_runners: 0``) a seed fixes everything.

    The loss is RLlib's; its buffer of earlier batches is not used: each batch is learned from ``epochs`` times.

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

    def config(self, num_learners: int, budget: int | None = None) -> AlgorithmConfig:
        learners = max(1, num_learners)
        whole = max(1, self.num_envs // learners)
        rows = max(1, min(self.minibatch // self.num_steps // learners, whole))
        config = TransferAPPOConfig()
        config.env_runners(env_runner_cls=TrajectoryRunner, rollout_fragment_length=self.num_steps)
        config.learners(learner_class=TransferAPPOLearner, add_default_connectors_to_learner_pipeline=False)
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
            # RLlib multiplies this by the circular buffer's options, and counts batches of all learners.
            target_network_update_freq=self.target_update * learners,
            tau=1.0,
            circular_buffer_num_batches=1,
            circular_buffer_iterations_per_batch=1,
            use_circular_buffer=False,
            num_gpu_loader_threads=0,
        )
        config.use_env_runner_state_server = False
        return config
