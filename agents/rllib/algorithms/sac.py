"""SAC of RLlib, on arrays instead of episode objects, with an actor that a transfer method changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac import SAC, SACConfig
from ray.rllib.algorithms.sac.sac_learner import QF_LOSS_KEY, QF_TWIN_LOSS_KEY
from ray.rllib.algorithms.sac.torch.sac_torch_learner import SACTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from graft.agents.checkpoints.learner_state import optimiser_state, restore_optimiser
from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.networks.normaliser import commit_statistics
from graft.agents.rllib.algorithm import ALGORITHMS, Algorithm
from graft.agents.rllib.algorithm_mixin import AlgorithmMixin, merged
from graft.agents.rllib.critics import SACModule
from graft.agents.rllib.learner import TransferLearner
from graft.agents.rllib.module import NetworkModule
from graft.agents.rllib.replay import ReplayBuffer, TransitionRunner, sample_transitions
from graft.agents.rllib.runner import Fragment
from graft.agents.training.algorithm import SACOptions
from graft.agents.training.learning_rates import scale_rates
from graft.errors import GraftError

CRITICS = "critics"
"""Key of ``learner_config_dict`` under which the options of the critics are."""

ACTOR, CRITIC, ALPHA = "policy", "qf", "alpha"
"""RLlib's names of the losses, and so of the optimisers."""

PULSE = 1000
"""Env steps, at most, between two records, and two calls of the schedule, as with Stable-Baselines3."""

AT_ONCE = 16
"""Minibatches, at most, that are drawn and sent to the learners in one piece."""

NO_ENTROPY = 1e-30
"""Stands for a coefficient of 0, which has no logarithm."""


class TransferSACLearner(TransferLearner, SACTorchLearner):  # type: ignore[misc]  # RLlib's own bases differ
    """RLlib's SAC learner, whose losses and updates are the library's, with a method's hooks on the actor.

    Both critics read one encoder, so one optimiser trains them, on the sum of their losses.
    """

    @property
    def sac_module(self) -> SACModule:
        """Actor and critics."""
        found = self.module[DEFAULT_MODULE_ID].unwrapped()
        assert isinstance(found, SACModule)
        return found

    @property
    def log_alpha(self) -> torch.Tensor:
        """Logarithm of the entropy's coefficient, (1,)."""
        found = self.curr_log_alpha[DEFAULT_MODULE_ID]
        assert isinstance(found, torch.Tensor)
        return found

    def configure_optimizers_for_module(self, module_id: str, config: AlgorithmConfig | None = None) -> None:
        """Adam for the actor, with the method's learning rates, for the critics and for the entropy's coefficient."""
        assert isinstance(config, SACConfig)
        module, network = self.sac_module, self.network
        module.make_critics(**config.learner_config_dict[CRITICS], seed=config.seed or 0)
        trained: dict[str, tuple[list[Any], float]] = {
            ACTOR: (list(network.parameters()), config.actor_lr),
            CRITIC: (module.critics.trained(), config.critic_lr),
            ALPHA: ([self.log_alpha], config.alpha_lr),
        }
        for name, (parameters, rate) in trained.items():
            optimiser = torch.optim.Adam(parameters, lr=rate)
            if name == ACTOR:
                scale_rates(optimiser, network, self.hooks.rates)
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=optimiser,
                params=parameters,
                lr_or_lr_schedule=rate,
            )

    def get_optimizer(
        self, module_id: str = DEFAULT_MODULE_ID, optimizer_name: str = DEFAULT_OPTIMIZER
    ) -> torch.optim.Optimizer:
        """By name; the actor's, which trains the network, where none is given."""
        name = ACTOR if optimizer_name == DEFAULT_OPTIMIZER else optimizer_name
        found: torch.optim.Optimizer = super().get_optimizer(module_id, name)
        return found

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, minibatch_size: int | None = None, **_: Any
    ) -> Iterator[MultiAgentBatch]:
        """The minibatches as they were drawn; RLlib moves the target once per update, and here after each of them."""
        made = self._make_batch_if_necessary(training_data=training_data)  # type: ignore[no-untyped-call]
        whole = made.policy_batches[DEFAULT_MODULE_ID]
        size = minibatch_size or len(whole)
        for first in range(0, len(whole), size):
            if first:
                self.after_gradient_based_update(timesteps=self._timesteps)
            part = SampleBatch({name: column[first : first + size] for name, column in whole.items()})
            yield MultiAgentBatch({DEFAULT_MODULE_ID: part}, len(part))

    def before_gradient_based_update(self, *, timesteps: Mapping[str, Any]) -> None:
        """RLlib's own; the critics' encoder is frozen as far as the actor's is now."""
        super().before_gradient_based_update(timesteps=dict(timesteps))
        self._timesteps = dict(timesteps)
        self.sac_module.follow_freezing()

    def compute_loss_for_module(self, *, module_id: str, **given: Any) -> Any:
        """RLlib's, which keeps each part for its optimiser."""
        loss = super().compute_loss_for_module(module_id=module_id, **given)
        both = [self._temp_losses.pop((module_id, key)) for key in (QF_LOSS_KEY, QF_TWIN_LOSS_KEY)]
        self._temp_losses[(module_id, QF_LOSS_KEY)] = sum(both)
        return loss

    def after_gradient_based_update(self, *, timesteps: Mapping[str, Any]) -> None:
        """RLlib's own, which moves the target; then the statistics of observations."""
        super().after_gradient_based_update(timesteps=timesteps)
        commit_statistics(
            self.sac_module.critics, self._gathered
        )  # nothing is left to do where the actor's encoder is read
        self.sac_module.copy_what_does_not_train()

    def save(self) -> SavedState:
        """What its next updates depend on."""
        saved, module = super().save(), self.sac_module
        found = {f"critics/{name}": tensor for name, tensor in module.critics.state_dict().items()}
        found |= {f"target/{name}": tensor for name, tensor in module.target.state_dict().items()}
        found["entropy/log"] = self.log_alpha
        rests = {}
        for name in (CRITIC, ALPHA):
            held, rests[name] = optimiser_state(self.get_optimizer(optimizer_name=name))
            found |= {f"optimiser of {name}/{key}": tensor for key, tensor in held.items()}
        kept = {name: tensor.detach().cpu() for name, tensor in found.items()}
        return SavedState({**saved.tensors, **kept}, {**saved.values, "optimisers": rests})

    def restore(self, saved: SavedState) -> None:
        """Inverse of `save`."""
        super().restore(saved)

        def part(name: str) -> dict[str, torch.Tensor]:
            return {key: tensor.to(self.device) for key, tensor in saved.group(name).items()}

        self.sac_module.critics.load_state_dict(part("critics"))
        self.sac_module.target.load_state_dict(part("target"))
        with torch.no_grad():
            self.log_alpha.copy_(part("entropy")["log"])
        for name, rest in saved.values["optimisers"].items():
            restore_optimiser(self.get_optimizer(optimizer_name=name), part(f"optimiser of {name}"), rest)


class TransferSAC(AlgorithmMixin, SAC):
    """RLlib's SAC with a replay buffer of arrays, in the process that calls it.

    A training step takes a hundredth of the budget, at most `PULSE` env steps: many rollouts, each followed by updates.
    """

    memory: ReplayBuffer
    tags: ClassVar[Mapping[str, str]] = {
        "policy_loss": "train/actor_loss",
        "qf_loss": "train/critic_loss",
        "alpha_value": "train/ent_coef",
        "alpha_loss": "train/ent_coef_loss",
        "total_loss": "train/loss",
    }

    def setup(self, config: Any) -> None:
        """Called by RLlib."""
        super().setup(config)
        self.memory = ReplayBuffer(self._config.options.buffer, self._config.seed or 0)

    @property
    def _config(self) -> TransferSACConfig:
        assert isinstance(self.config, TransferSACConfig)
        return self.config

    def training_step(self) -> None:
        """Rollouts and updates up to the next record."""
        budget = self.budget or PULSE * 100
        period = max(1, min(PULSE, budget // 100))
        end = min(budget, (self.env_steps // period + 1) * period)
        self.results = ()
        found = [self._round()]
        while self.env_steps < end:
            found.append(self._round())
        self.fragments = tuple(merged(of_one, of_one[0].rows) for of_one in zip(*found, strict=True))

    def _round(self) -> list[Fragment]:
        """A rollout, and the updates that are due after it; what was sampled, without columns."""
        options, (runners, _) = self._config.options, self.seams()
        at_random = self.env_steps < options.learning_starts
        fragments: list[Fragment] = runners.foreach_env_runner(partial(sample_transitions, at_random=at_random))
        taken = sum(fragment.env_steps for fragment in fragments)
        self.env_steps += taken
        for fragment in fragments:
            self.memory.add(fragment.columns)
        if self.env_steps > options.learning_starts and self.memory.size:
            self._update(taken if options.gradient_steps < 0 else options.gradient_steps, options.batch)
            self.send_weights()
        return [fragment._replace(columns={}) for fragment in fragments]

    def _update(self, steps: int, size: int) -> None:
        """Gradient steps of everybody; several learners share each minibatch."""
        _, learners = self.seams()
        for first in range(0, steps, AT_ONCE):
            count = size * min(AT_ONCE, steps - first)
            ones = np.ones(count, np.float32)
            # RLlib's loss weighs transitions and looks several steps ahead; here all are alike, and one step is.
            states = SampleBatch({**self.memory.sample(count), "weights": ones, "n_step": ones})
            self.results = tuple(
                learners.update(
                    batch=MultiAgentBatch({DEFAULT_MODULE_ID: states}, count),
                    timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps},
                    minibatch_size=size // max(1, self._config.num_learners),
                )
            )


class TransferSACConfig(SACConfig):
    """RLlib's, for `TransferSAC`."""

    options: SACOptions

    def __init__(self) -> None:
        super().__init__(algo_class=TransferSAC)  # type: ignore[no-untyped-call]

    def get_default_learner_class(self) -> type[TorchLearner]:
        """The one with a method's hooks."""
        return TransferSACLearner


@ALGORITHMS.register("sac")
@dataclass(frozen=True, kw_only=True)
class SACAlgorithm(SACOptions, Algorithm):
    """Soft actor-critic (Haarnoja et al. 2018) for Box actions with finite bounds.

    The network is the actor. What carries over into a transfer is what the network holds: its encoder and, where heads
    are carried, its policy head. The critics are no part of it, so they end with the training; their layers start
    fresh, on an encoder that the option of this name chooses. The value head is not used and gets no gradient.

    As with Stable-Baselines3, but as RLlib has it the critics' loss is Huber's instead of the squared error, and actor,
    critics and coefficient take their steps at once, from the same weights. Steps of rows out of play are left out.
    The replay buffer is in the calling process; several learners share each minibatch, and a learner process is worth
    its price only where a gradient step takes far longer than sending a minibatch there.
    """

    module: ClassVar[type[NetworkModule]] = SACModule

    def config(self, num_learners: int) -> AlgorithmConfig:
        """RLlib's config.

        Raises:
            GraftError: a minibatch that the learners can't share evenly.
        """
        learners = max(1, num_learners)
        if self.batch % learners:
            raise GraftError(
                f"batch={self.batch} can't be shared out evenly among {learners} learners; give a multiple."
            )
        fixed = None if self.entropy == "auto" else self.entropy
        config = TransferSACConfig()
        config.options = self
        config.env_runners(env_runner_cls=TransitionRunner, rollout_fragment_length=self.train_freq)
        config.training(
            actor_lr=self.learning_rate,
            critic_lr=self.learning_rate,
            alpha_lr=self.learning_rate if fixed is None else 0.0,
            initial_alpha=1.0 if fixed is None else max(fixed, NO_ENTROPY),
            gamma=self.gamma,
            tau=self.tau,
            train_batch_size_per_learner=self.batch // learners,
            replay_buffer_config={"no_local_replay_buffer": True},
        )
        config.learners(learner_config_dict={CRITICS: {"shared": self.encoder == "shared", "hidden": self.critic}})
        return config
