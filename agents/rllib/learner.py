"""What a transfer method needs of RLlib's learners, whatever the algorithm, and what keeps several of them alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

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
from graft.agents.networks.policy_network import PREFIX_CHUNK, PolicyNetwork, Unstable
from graft.agents.rllib.module import NetworkModule
from graft.agents.training.backend import Batch, Hooks
from graft.agents.training.learning_rates import scale_rates

HOOKS = "hooks"
"""Key of ``learner_config_dict`` under which the method's hooks are, `Held`."""

ADAM_EPSILON = 1e-5
"""As Stable-Baselines3 gives it to PPO (Huang et al. 2022, detail 3 of 37)."""


class TransferLearner(TorchLearner):
    """A mixin for RLlib's learners, whose losses, clipping and steps stay theirs.

    - The method's gradients come between backward and clipping, its learning rates in groups of the optimiser, its
      schedule between two updates.
    - Several learners average their gradients here, in one piece, before the method sees them, and once more what it
      made of them, as it may look at a minibatch that the others don't have. RLlib's own wrapper for that (DDP) wants
      the same parameters to train from beginning to end, and a schedule may thaw some.
    - Every epoch is a new order of all states. Where the first blocks are frozen and no method asks for raw
      observations, they run once per update instead of once per epoch.
    - What normalisation counted becomes part of its statistics after an update, when all samples of it were used.
    - In a squad, partners learn beside the policy that the method is about: each by a loss and an optimiser of its own,
      in as many minibatches. Where they share its encoder, that is the method's and its optimiser's, and its gradients
      are the sum of all losses'.
    """

    _batch: Batch | None = None
    failure: Exception | None = None
    """What ended an update here; a learner that others left has an error of torch's own."""

    def _module_of(self, policy: str) -> NetworkModule:
        found = self.module[policy].unwrapped()
        assert isinstance(found, NetworkModule)
        return found

    @property
    def network(self) -> PolicyNetwork:
        """What the method is about."""
        return self._module_of(DEFAULT_MODULE_ID).network

    @property
    def networks(self) -> dict[str, PolicyNetwork]:
        """All that are trained, by policy: the method's first, then its partners'."""
        others = sorted({*self.module.keys()} - {DEFAULT_MODULE_ID})
        return {policy: self._module_of(policy).network for policy in (DEFAULT_MODULE_ID, *others)}

    @property
    def partners(self) -> dict[str, PolicyNetwork]:
        """Those beside `network`."""
        return {policy: network for policy, network in self.networks.items() if policy != DEFAULT_MODULE_ID}

    @property
    def hooks(self) -> Hooks:
        """The method's."""
        found: Hooks = self.config.learner_config_dict[HOOKS].value
        return found

    def configure_optimizers_for_module(self, module_id: str, config: AlgorithmConfig | None = None) -> None:
        """Adam, with the method's learning rates; a partner's own parameters at the algorithm's."""
        assert config is not None
        # Frozen parameters are included: they have no gradient, so they are skipped until a schedule thaws them.
        parameters = list(self.network.parameters())
        if module_id != DEFAULT_MODULE_ID:
            shared = set(parameters)
            parameters = [p for p in self._module_of(module_id).network.parameters() if p not in shared]
        optimiser = torch.optim.Adam(parameters, lr=config.lr, eps=ADAM_EPSILON)
        if module_id == DEFAULT_MODULE_ID:
            scale_rates(optimiser, self.network, self.hooks.rates)
        self.register_optimizer(
            module_id=module_id, optimizer=optimiser, params=parameters, lr_or_lr_schedule=config.lr
        )

    def _make_modules_ddp_if_necessary(self) -> None:
        """Learners average their gradients themselves."""

    def _create_iterator_if_necessary(
        self,
        *,
        training_data: TrainingData,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        **_: Any,
    ) -> Iterator[MultiAgentBatch]:
        """Minibatches of a batch of states in random order, new in every epoch; the last one may be smaller."""
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
        """Those of a policy's batch, with what its frozen blocks make of observations, where that is all there is."""
        columns = {name: column for name, column in whole.items() if isinstance(column, torch.Tensor)}
        module = self._module_of(policy)
        raw = policy == DEFAULT_MODULE_ID and self.hooks.gradients is not None  # a method asks for them
        if not raw and (depth := module.network.frozen_depth):
            columns[Columns.OBS] = self._prefix(module.network, columns[Columns.OBS], depth)
            module.input_depth = depth
        return columns

    @torch.no_grad()
    def _prefix(self, network: PolicyNetwork, obs: torch.Tensor, depth: int) -> torch.Tensor:
        network.train()  # as in the passes that it stands for: statistics are counted
        return torch.cat([network.prefix(part, depth) for part in torch.split(obs, PREFIX_CHUNK)])

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        columns = batch.get(DEFAULT_MODULE_ID)
        self._batch = None if columns is None else Batch(columns[Columns.OBS], columns[Columns.ACTIONS])
        try:
            return super()._uncompiled_update(batch, **kwargs)
        except Exception as error:
            if self.config.num_learners > 1 and self.failure is None:
                self.failure = error
                torch.distributed.destroy_process_group()  # the others would wait for this one's gradients
            raise

    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Any]:
        """Of the loss, the mean over all learners.

        Raises:
            Unstable: it is not finite; RLlib would learn nothing from such a minibatch, and not say so.
        """
        if not all(bool(torch.isfinite(loss)) for loss in loss_per_module.values()):
            raise Unstable("the loss is not a finite number any more; a smaller learning rate may help")
        found = super().compute_gradients(loss_per_module, **kwargs)
        return self._averaged({parameter: grad for parameter, grad in found.items() if grad is not None})

    def postprocess_gradients(self, gradients_dict: dict[Any, Any]) -> dict[Any, Any]:
        """What the method makes of them, clipped."""
        change = self.hooks.gradients
        if change is None:
            return super().postprocess_gradients(gradients_dict)
        named = dict(self.network.named_parameters())
        given = {name: gradients_dict[p] for name, p in named.items() if p in gradients_dict}
        others = {p: grad for p, grad in gradients_dict.items() if p not in set(named.values())}
        # In a squad, nobody of the method's team may have been in play, so that it has nothing to judge by. What it is
        # about stays then: it may be there to keep just those weights that a partner would move.
        changed = {} if self._batch is None else change(given, self.network, self._batch)
        for name in given.keys() - changed.keys():
            named[name].grad = None  # or the optimiser would still step it
        mine = self._averaged({named[name]: grad for name, grad in changed.items()})
        return super().postprocess_gradients(mine | others)

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
        """RLlib's own, then the statistics of observations."""
        super().after_gradient_based_update(timesteps=dict(timesteps))
        for network in self.networks.values():
            commit_statistics(network, self._gathered)

    def _gathered(self, pending: torch.Tensor) -> list[torch.Tensor]:
        """That of every learner, in their order."""
        if self.config.num_learners < 2:
            return [pending]
        found = [torch.empty_like(pending) for _ in range(self.config.num_learners)]
        torch.distributed.all_gather(found, pending)
        return found

    def schedule(self, progress: float) -> None:
        """The method's, before a rollout."""
        if self.hooks.schedule is not None:
            self.hooks.schedule(self.network, progress)

    def save(self) -> SavedState:
        """What its next updates depend on: weights, what is frozen, the optimiser, and what the method remembers."""
        held, rest = optimiser_state(self.get_optimizer())
        found = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        found |= {f"optimiser/{name}": tensor for name, tensor in held.items()}
        values: dict[str, Any] = {"optimiser": rest, **freezing(self.network), "partners": {}}
        if self.hooks.state is not None:
            tensors, values["method"] = self.hooks.state.save()
            found |= {f"method/{name}": tensor for name, tensor in tensors.items()}
        for policy, network in self.partners.items():
            held, values["partners"][policy] = optimiser_state(self.get_optimizer(policy))
            found |= {f"partner {policy}/{name}": tensor for name, tensor in network.state_dict().items()}
            found |= {f"partner's optimiser {policy}/{name}": tensor for name, tensor in held.items()}
        return SavedState({name: tensor.detach().cpu() for name, tensor in found.items()}, values)

    def restore(self, saved: SavedState) -> None:
        """Inverse of `save`."""
        parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in saved.tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor.to(self.device)
        self.network.load_exactly(parts["network"])
        restore_optimiser(self.get_optimizer(), parts["optimiser"], saved.values["optimiser"])
        restore_freezing(self.network, saved.values["trains"], saved.values["frozen"])
        if self.hooks.state is not None:
            self.hooks.state.restore(SavedState(parts["method"], saved.values["method"]))
        for policy, network in self.partners.items():
            network.load_exactly(parts[f"partner {policy}"])
            held, rest = parts[f"partner's optimiser {policy}"], saved.values["partners"][policy]
            restore_optimiser(self.get_optimizer(policy), held, rest)

    def randomness(self) -> RandomState:
        """The random numbers of its process."""
        return RandomState(torch.device(self.device))
