"""Mixin for RLlib's learners: a transfer method's hooks, and gradient averaging over several learners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from graft.agents.checkpoints.learner_state import freezing, optimiser_state, restore_freezing, restore_optimiser
from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.checkpoints.snapshotter import RandomState
from graft.agents.networks.normaliser import commit_statistics
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.rllib.module import NetworkModule
from graft.agents.training.backend import Batch, CriticLayers, Hooks
from graft.agents.training.critics import CriticState
from graft.agents.training.divergence import DivergenceCheck, total_norm
from graft.agents.training.learning_rates import scale_rates
from graft.agents.training.memory import keep_freed_memory

HOOKS = "hooks"  # key of ``learner_config_dict`` under which the method's hooks are, a `Reference`
ADAM_EPSILON = 1e-5  # as Stable-Baselines3 gives it to PPO (Huang et al. 2022, detail 3 of 37)


class TransferLearner(TorchLearner):
    """Losses, clipping and optimiser steps stay RLlib's.

    - The method changes gradients between backward and clipping; its learning rates are parameter groups of the
      optimiser; its schedule runs between two updates.
    - Several learners average their gradients before the method sees them, and again after it changed them, as it may
      read a minibatch that the others don't have. RLlib's wrapper for that (DDP) needs a fixed set of trained
      parameters, and a schedule may unfreeze some.
    - Every epoch shuffles all states. Where the first blocks are frozen and no method needs raw observations, they run
      once per update instead of once per epoch.
    - Observation statistics are committed after an update, when all of its samples were used.
    - In a squad, partner policies have a loss and an optimiser each, and as many minibatches. An encoder that they
      share is trained by the method's optimiser, on the sum of all losses.
    """

    _batch: Batch | None = None
    _minibatch: Mapping[str, Any] = {}
    _losses: Sequence[torch.Tensor] = ()
    failure: Exception | None = None
    """What ended an update of this learner; the other learners only have torch's error of a lost connection."""

    def _module_of(self, policy: str) -> NetworkModule:
        return cast(NetworkModule, self.module[policy].unwrapped())

    @property
    def network(self) -> PolicyNetwork:
        return self._module_of(DEFAULT_MODULE_ID).network

    @property
    def networks(self) -> dict[str, PolicyNetwork]:
        """All trained networks by policy: `network` first, then the partners."""
        others = sorted({*self.module.keys()} - {DEFAULT_MODULE_ID})
        return {policy: self._module_of(policy).network for policy in (DEFAULT_MODULE_ID, *others)}

    @property
    def partners(self) -> dict[str, PolicyNetwork]:
        return {policy: network for policy, network in self.networks.items() if policy != DEFAULT_MODULE_ID}

    @property
    def hooks(self) -> Hooks:
        return cast(Hooks, self.config.learner_config_dict[HOOKS].value)

    def build(self) -> None:
        self.divergence = DivergenceCheck()
        keep_freed_memory()
        super().build()

    def configure_optimizers_for_module(self, module_id: str, config: AlgorithmConfig | None = None) -> None:
        """Adam, with the method's learning rates; a partner's own parameters at the algorithm's."""
        assert config is not None
        # Frozen parameters are included: they have no gradient, so they are skipped until a schedule unfreezes them.
        parameters = list(self.network.parameters())
        if module_id != DEFAULT_MODULE_ID:
            shared = set(parameters)
            parameters = [p for p in self._module_of(module_id).network.parameters() if p not in shared]
        optimiser = torch.optim.Adam(parameters, eps=ADAM_EPSILON, fused=True)
        if module_id == DEFAULT_MODULE_ID:
            scale_rates(optimiser, self.network, self.hooks.rates)
        rate = config.lr
        self.register_optimizer(module_id=module_id, optimizer=optimiser, params=parameters, lr_or_lr_schedule=rate)

    def _make_modules_ddp_if_necessary(self) -> None:
        """Learners average their gradients themselves."""

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, num_epochs: int = 1, minibatch_size: int | None = None, **_: Any
    ) -> Iterator[MultiAgentBatch]:
        """Shuffled minibatches, in a new order in every epoch; the last one may be smaller."""
        made = self._make_batch_if_necessary(training_data=training_data)  # type: ignore[no-untyped-call]
        wholes = {policy: made.policy_batches[policy] for policy in self.networks if policy in made.policy_batches}
        columns = {policy: self._columns(policy, whole) for policy, whole in wholes.items()}
        first = next(iter(wholes))
        count = max(1, -(-len(wholes[first]) // (minibatch_size or len(wholes[first]))))
        try:
            for _epoch in range(num_epochs):
                orders = {policy: torch.randperm(len(whole)).to(self.device) for policy, whole in wholes.items()}
                chosen = {policy: torch.tensor_split(order, count) for policy, order in orders.items()}
                chosen[first] = torch.split(orders[first], minibatch_size or len(wholes[first]))
                for k in range(count):
                    parts = {
                        policy: SampleBatch({name: column[which[k]] for name, column in columns[policy].items()})
                        for policy, which in chosen.items()
                        if len(which[k])
                    }
                    yield MultiAgentBatch(parts, len(chosen[first][k]))
        finally:
            for policy in wholes:
                self._module_of(policy).input_depth = 0

    def _columns(self, policy: str, whole: SampleBatch) -> dict[str, torch.Tensor]:
        """A policy's batch; observations are replaced by the frozen blocks' output where no method needs them."""
        columns = {name: column for name, column in whole.items() if isinstance(column, torch.Tensor)}
        module = self._module_of(policy)
        raw = policy == DEFAULT_MODULE_ID and self.hooks.gradients is not None  # a method may read them
        if not raw and (depth := module.network.frozen_depth):
            module.network.train()  # so that observation statistics are counted
            columns[Columns.OBS] = module.network.whole_prefix(columns[Columns.OBS], depth)
            module.input_depth = depth
        return columns

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        columns = batch.get(DEFAULT_MODULE_ID)
        self._batch, self._minibatch = None, batch
        if columns is not None:
            self._batch = Batch(columns[Columns.OBS], columns[Columns.ACTIONS], self.critic_layers)
        try:
            return super()._uncompiled_update(batch, **kwargs)
        except Exception as error:
            if self.config.num_learners > 1 and self.failure is None:
                self.failure = error
                torch.distributed.destroy_process_group()  # the others would wait for this one's gradients
            raise

    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Any]:
        """The mean over all learners."""
        gradients = self.library_gradients(loss_per_module)
        self._losses = [loss.detach() for loss in loss_per_module.values()]
        return self._averaged({parameter: grad for parameter, grad in gradients.items() if grad is not None})

    def library_gradients(self, loss_per_module: dict[str, Any]) -> dict[Any, Any]:
        return super().compute_gradients(loss_per_module)

    @property
    def critic_state(self) -> CriticState | None:
        """Critics beside the network, where there are any."""
        return None

    @property
    def critic_layers(self) -> CriticLayers | None:
        return None

    def postprocess_gradients(self, gradients_dict: dict[Any, Any]) -> dict[Any, Any]:
        """The method's change, then RLlib's clipping; raises Unstable where a loss or what is stepped is not finite."""
        changed = self._changed(gradients_dict)
        self.divergence.see(total_norm([*self._losses, *changed.values()]), partial(_flat, self._minibatch))
        return super().postprocess_gradients(changed)

    def _changed(self, gradients_dict: dict[Any, Any]) -> dict[Any, Any]:
        change = self.hooks.gradients
        if change is None:
            return gradients_dict
        named = dict(self.network.named_parameters())
        given = {name: gradients_dict[p] for name, p in named.items() if p in gradients_dict}
        others = {p: grad for p, grad in gradients_dict.items() if p not in set(named.values())}
        # Without a batch (in a squad, all agents of the team may be out of play; or only critics train now) the
        # method's weights don't change:
        # its gradients are dropped, as a partner's loss could move weights that the method protects.
        changed = {} if self._batch is None else change(given, self.network, self._batch)
        for name in given.keys() - changed.keys():
            named[name].grad = None  # or the optimiser would still step it
        mine = self._averaged({named[name]: grad for name, grad in changed.items()})
        return mine | others

    def _averaged(self, gradients: dict[Any, torch.Tensor]) -> dict[Any, torch.Tensor]:
        """The mean over all learners, the same in each of them to the bit; the tensors are changed in place."""
        if self.config.num_learners < 2 or not gradients:
            return gradients
        flat = torch.cat([grad.reshape(-1) for grad in gradients.values()])
        torch.distributed.all_reduce(flat)
        flat /= self.config.num_learners
        parts = torch.split(flat, [grad.numel() for grad in gradients.values()])
        return {p: part.view_as(grad) for (p, grad), part in zip(gradients.items(), parts, strict=True)}

    def after_gradient_based_update(self, *, timesteps: Mapping[str, Any]) -> None:
        super().after_gradient_based_update(timesteps=dict(timesteps))
        for network in self.networks.values():
            commit_statistics(network, self._gathered)
        self.divergence.check_weights(p for network in self.networks.values() for p in network.parameters())

    def _gathered(self, pending: torch.Tensor) -> list[torch.Tensor]:
        if self.config.num_learners < 2:
            return [pending]
        gathered = [torch.empty_like(pending) for _ in range(self.config.num_learners)]
        torch.distributed.all_gather(gathered, pending)
        return gathered

    def schedule(self, progress: float) -> None:
        """The method's. Where it trains by itself, on states that only this learner has, the first learner's weights
        hold for all.
        """
        if self.hooks.schedule is None:
            return
        self.hooks.schedule(self.network, progress)
        if self.config.num_learners > 1:
            weights = [p.detach() for p in self.network.parameters()]
            flat = torch.cat([weight.reshape(-1) for weight in weights])
            if self._learner_index:
                flat.zero_()
            torch.distributed.all_reduce(flat)  # a sum: the ranks that a broadcast goes by may be in another order
            for weight, part in zip(weights, torch.split(flat, [w.numel() for w in weights]), strict=True):
                weight.copy_(part.view_as(weight))

    def save(self) -> SavedState:
        held, rest = optimiser_state(self.get_optimizer())
        state = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        state |= {f"optimiser/{name}": tensor for name, tensor in held.items()}
        values: dict[str, Any] = {"optimiser": rest, **freezing(self.network), "partners": {}}
        if self.hooks.state is not None:
            tensors, values["method"] = self.hooks.state.save()
            state |= {f"method/{name}": tensor for name, tensor in tensors.items()}
        for policy, network in self.partners.items():
            held, values["partners"][policy] = optimiser_state(self.get_optimizer(policy))
            state |= {f"partner {policy}/{name}": tensor for name, tensor in network.state_dict().items()}
            state |= {f"partner's optimiser {policy}/{name}": tensor for name, tensor in held.items()}
        return SavedState({name: tensor.detach().cpu() for name, tensor in state.items()}, values)

    def restore(self, saved: SavedState) -> None:
        self.network.load_exactly(self.on_device(saved, "network"))
        restore_optimiser(self.get_optimizer(), self.on_device(saved, "optimiser"), saved.values["optimiser"])
        restore_freezing(self.network, saved.values["trains"], saved.values["frozen"])
        if self.hooks.state is not None:
            self.restore_method(SavedState(self.on_device(saved, "method"), saved.values["method"]))
        for policy, network in self.partners.items():
            network.load_exactly(self.on_device(saved, f"partner {policy}"))
            held = self.on_device(saved, f"partner's optimiser {policy}")
            restore_optimiser(self.get_optimizer(policy), held, saved.values["partners"][policy])

    def on_device(self, saved: SavedState, group: str) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in saved.group(group).items()}

    def restore_method(self, saved: SavedState) -> None:
        assert self.hooks.state is not None
        self.hooks.state.restore(saved)

    def weights(self) -> dict[str, dict[str, Any]]:
        states = {policy: network.state_dict() for policy, network in self.networks.items()}
        return {policy: {name: t.detach().cpu().numpy() for name, t in s.items()} for policy, s in states.items()}

    def random_state(self) -> RandomState:
        return RandomState(torch.device(self.device))


def _flat(batch: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A minibatch by policy and column."""
    columns = {f"{policy}/{name}": column for policy, of_one in batch.items() for name, column in of_one.items()}
    return {name: column for name, column in columns.items() if isinstance(column, torch.Tensor)}
