"""RLlib's SAC on arrays instead of episode objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac import SAC, SACConfig
from ray.rllib.algorithms.sac.sac_learner import QF_LOSS_KEY, QF_TWIN_LOSS_KEY
from ray.rllib.algorithms.sac.torch.sac_torch_learner import SACTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from graft.agents.checkpoints.learner_state import optimiser_state, restore_optimiser
from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.networks.normaliser import commit_statistics
from graft.agents.rllib.algorithm import ALGORITHMS, Algorithm
from graft.agents.rllib.algorithm_mixin import AlgorithmMixin, merged
from graft.agents.rllib.critics import SACModule
from graft.agents.rllib.learner import HOOKS, TransferLearner
from graft.agents.rllib.module import NetworkModule
from graft.agents.rllib.replay import ReplayBuffer, TransitionRunner
from graft.agents.rllib.runner import Fragment
from graft.agents.training.algorithm import SACOptions
from graft.agents.training.backend import CriticLayers
from graft.agents.training.critics import CriticState, warmup_steps
from graft.agents.training.learning_rates import scale_rates
from graft.agents.training.periodic_evaluation import LOG_PERIOD, log_period
from graft.errors import GraftError

CRITICS = "critics"  # key of ``learner_config_dict`` for the critics' options
ACTOR, CRITIC, ALPHA = "policy", "qf", "alpha"  # RLlib's names of losses and optimisers
MINIBATCHES_PER_UPDATE = 16  # most minibatches that are drawn and sent to the learners at once
HELD = "held"  # in an update's ``timesteps``: whether only the critics train
NO_ENTROPY = 1e-30  # instead of a coefficient of 0, which has no logarithm


class TransferSACLearner(TransferLearner, SACTorchLearner):  # type: ignore[misc]  # RLlib's own bases differ
    """RLlib's SAC learner, whose losses and updates are the library's, with a method's hooks on the actor.

    Both critics read one encoder, so one optimiser trains them, on the sum of their losses. Where that encoder is the
    network's own, it has the gradients of this sum, and is stepped with the rest of the network.
    """

    _held = False

    @property
    def sac_module(self) -> SACModule:
        return cast(SACModule, self.module[DEFAULT_MODULE_ID].unwrapped())

    @property
    def log_alpha(self) -> torch.Tensor:
        return cast(torch.Tensor, self.curr_log_alpha[DEFAULT_MODULE_ID])

    @property
    def critic_state(self) -> CriticState:
        module = self.sac_module
        learned = self.get_optimizer(optimizer_name=ALPHA).param_groups[0]["lr"] > 0
        return CriticState(module.critics, module.target, self.log_alpha, learned, module.critics.shared)

    @property
    def critic_layers(self) -> CriticLayers:
        critics = self.sac_module.critics
        return CriticLayers(critics.encoder, tuple(cast(Any, head)[0].weight for head in critics.heads))

    def configure_optimizers_for_module(self, module_id: str, config: AlgorithmConfig | None = None) -> None:
        """Adam for the actor (with the method's learning rates), the critics and the entropy's coefficient."""
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
            named = {"module_id": module_id, "optimizer_name": name}
            self.register_optimizer(**named, optimizer=optimiser, params=parameters, lr_or_lr_schedule=rate)

    def get_optimizer(
        self, module_id: str = DEFAULT_MODULE_ID, optimizer_name: str = DEFAULT_OPTIMIZER
    ) -> torch.optim.Optimizer:
        name = ACTOR if optimizer_name == DEFAULT_OPTIMIZER else optimizer_name
        return cast(torch.optim.Optimizer, super().get_optimizer(module_id, name))

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, minibatch_size: int | None = None, **_: Any
    ) -> Iterator[MultiAgentBatch]:
        """The minibatches as drawn; the target is updated after each of them, by RLlib only once per update."""
        made = self._make_batch_if_necessary(training_data=training_data)  # type: ignore[no-untyped-call]
        whole = made.policy_batches[DEFAULT_MODULE_ID]
        size = minibatch_size or len(whole)
        for first in range(0, len(whole), size):
            if first:
                self.after_gradient_based_update(timesteps=self._timesteps)
            part = SampleBatch({name: column[first : first + size] for name, column in whole.items()})
            yield MultiAgentBatch({DEFAULT_MODULE_ID: part}, len(part))

    def before_gradient_based_update(self, *, timesteps: Mapping[str, Any]) -> None:
        """Freeze the critics' encoder as far as the actor's is frozen now."""
        super().before_gradient_based_update(timesteps=dict(timesteps))
        self._timesteps = dict(timesteps)
        self._held = bool(timesteps.get(HELD, 0))
        self.sac_module.follow_freezing()

    def compute_loss_for_module(self, *, module_id: str, **given: Any) -> Any:
        """RLlib's losses, those of both critics as one."""
        loss = super().compute_loss_for_module(module_id=module_id, **given)
        both = [self._temp_losses.pop((module_id, key)) for key in (QF_LOSS_KEY, QF_TWIN_LOSS_KEY)]
        self._temp_losses[(module_id, QF_LOSS_KEY)] = sum(both)
        return loss

    def library_gradients(self, loss_per_module: dict[str, Any]) -> dict[Any, Any]:
        """RLlib's, with those of a shared encoder; only the critics' where all else is held."""
        gradients = super().library_gradients(loss_per_module)
        if self.sac_module.critics.shared:
            gradients |= {parameter: parameter.grad for parameter in self.network.encoder.parameters()}
        if self._held:
            self._batch = None  # the method isn't called
            for parameter in [*self.network.parameters(), self.log_alpha]:
                gradients.pop(parameter, None)
                parameter.grad = None  # or the optimiser would still step it
        return gradients

    def after_gradient_based_update(self, *, timesteps: Mapping[str, Any]) -> None:
        """Update the target, then commit observation statistics."""
        super().after_gradient_based_update(timesteps=timesteps)
        commit_statistics(self.sac_module.critics, self._gathered)  # a shared encoder's are committed already
        self.sac_module.copy_buffers()

    def save(self) -> SavedState:
        saved, module = super().save(), self.sac_module
        tensors = {f"critics/{name}": tensor for name, tensor in module.critics.state_dict().items()}
        tensors |= {f"target/{name}": tensor for name, tensor in module.target.state_dict().items()}
        tensors["entropy/log"] = self.log_alpha
        rests = {}
        for name in (CRITIC, ALPHA):
            held, rests[name] = optimiser_state(self.get_optimizer(optimizer_name=name))
            tensors |= {f"optimiser of {name}/{key}": tensor for key, tensor in held.items()}
        kept = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        return SavedState({**saved.tensors, **kept}, {**saved.values, "optimisers": rests})

    def restore(self, saved: SavedState) -> None:
        super().restore(saved)
        self.sac_module.critics.load_state_dict(self.on_device(saved, "critics"))
        self.sac_module.target.load_state_dict(self.on_device(saved, "target"))
        with torch.no_grad():
            self.log_alpha.copy_(saved.tensors["entropy/log"])
        for name, rest in saved.values["optimisers"].items():
            held = self.on_device(saved, f"optimiser of {name}")
            restore_optimiser(self.get_optimizer(optimizer_name=name), held, rest)


class TransferSAC(AlgorithmMixin, SAC):
    """RLlib's SAC with a replay buffer of arrays in the calling process.

    A training step is a hundredth of the budget, at most `LOG_PERIOD` env steps: rollouts, each followed by updates.
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
        super().setup(config)
        self.memory = ReplayBuffer(self._config.options.buffer, self._config.seed or 0)

    @property
    def _config(self) -> TransferSACConfig:
        return cast(TransferSACConfig, self.config)

    def training_step(self) -> None:
        budget = self.budget or LOG_PERIOD * 100
        period = log_period(budget)
        end = min(budget, (self.env_steps // period + 1) * period)
        self.results = ()
        rounds = [self._round()]
        while self.env_steps < end:
            rounds.append(self._round())
        self.fragments = tuple(merged(of_one, of_one[0].rows) for of_one in zip(*rounds, strict=True))

    def _round(self) -> list[Fragment]:
        """A rollout, and the updates that are due after it; what was sampled, without columns."""
        options, (runners, _) = self._config.options, self.actor_groups()
        at_random = self.env_steps < options.learning_starts and not self.critics_carried
        fragments: list[Fragment] = runners.foreach_env_runner(lambda runner: runner.sample_transitions(at_random))  # type: ignore[attr-defined]
        taken = sum(fragment.env_steps for fragment in fragments)
        self.env_steps += taken
        for fragment in fragments:
            self.memory.add(fragment.columns)
        if self.env_steps > options.learning_starts and self.memory.size:
            warmup = warmup_steps(self._config.learner_config_dict[HOOKS].value.critic_warmup, self.budget or 0)
            held = warmup > 0 and self.env_steps <= options.learning_starts + warmup
            self._update(taken if options.gradient_steps < 0 else options.gradient_steps, options.batch, held)
            self.send_weights()
        return [fragment._replace(columns={}) for fragment in fragments]

    def _update(self, steps: int, size: int, held: bool) -> None:
        """``steps`` gradient steps, of the critics only where the rest is held; learners share each minibatch."""
        _, learners = self.actor_groups()
        for first in range(0, steps, MINIBATCHES_PER_UPDATE):
            count = size * min(MINIBATCHES_PER_UPDATE, steps - first)
            ones = np.ones(count, np.float32)
            # RLlib's loss weights transitions and allows n-step returns: here all weights and n are 1.
            states = SampleBatch({**self.memory.sample(count), "weights": ones, "n_step": ones})
            self.results = tuple(
                learners.update(
                    batch=MultiAgentBatch({DEFAULT_MODULE_ID: states}, count),
                    timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps, HELD: int(held)},
                    minibatch_size=size // max(1, self._config.num_learners),
                )
            )


class TransferSACConfig(SACConfig):
    """RLlib's config for `TransferSAC`."""

    options: SACOptions

    def __init__(self) -> None:
        super().__init__(algo_class=TransferSAC)  # type: ignore[no-untyped-call]


@ALGORITHMS.register("sac")
@dataclass(frozen=True, kw_only=True)
class SACAlgorithm(SACOptions, Algorithm):
    """Soft actor-critic (Haarnoja et al. 2018) for Box actions with finite bounds.

    The network is the actor; its value head is not used. Critics, their target and the temperature are a part of their
    own in checkpoints, and move with carried heads; else they start fresh, on an encoder that ``encoder`` chooses.

    Other than in Stable-Baselines3, the critics' loss is Huber's instead of the squared error, and actor, critics and
    coefficient step at the same time, from the same weights, as RLlib has it. Steps of rows out of play are left out.
    Several learners share each minibatch; a learner process pays only where a gradient step takes far longer than
    sending a minibatch.
    """

    module: ClassVar[type[NetworkModule]] = SACModule

    def config(self, num_learners: int, budget: int | None = None) -> AlgorithmConfig:
        """RLlib's config; raises GraftError for a minibatch that the learners can't share evenly."""
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
        config.learners(learner_class=TransferSACLearner)
        config.learners(learner_config_dict={CRITICS: {"shared": self.encoder == "shared", "hidden": self.critic}})
        return config
