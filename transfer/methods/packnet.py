"""PackNet: each task keeps its largest weights for good; later tasks train the others."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch, Grads
from graft.agents.training.rollouts import Rollouts
from graft.errors import GraftError
from graft.transfer.method import METHODS, PART, Consolidated, FromSource, State, Step, TaskPosition
from graft.transfer.state import group, named
from graft.transfer.transplant import carried

OWNER = "owner"
"""Prefix in the state of owners by parameter: 0 for free weights, k + 1 for those kept by the task of index k."""


def weights(network: PolicyNetwork) -> dict[str, torch.nn.Parameter]:
    """The encoder's parameters that are packed: matrices and kernels, not biases nor normalisation."""
    parameters = network.encoder.named_parameters(prefix="encoder")
    return {name: parameter for name, parameter in parameters if parameter.dim() >= 2}


def largest(weight: torch.Tensor, among: torch.Tensor, count: int) -> torch.Tensor:
    """Booleans of the shape of ``weight``: the ``count`` of largest magnitude where ``among``; of equals the first."""
    magnitude = weight.detach().abs().masked_fill(~among, -1).flatten()
    order = magnitude.sort(descending=True, stable=True).indices
    chosen = torch.zeros_like(among).flatten()
    chosen[order[:count]] = True
    return chosen.view_as(among)


@METHODS.register("packnet")
@dataclass(frozen=True, kw_only=True)
class PackNet(FromSource):
    """After a task, the share 1 / (tasks left + 1) of each layer's free weights is kept and never trains again.

    Those of largest magnitude are kept; the rest become zero and free, and the kept ones train on for ``retrain`` env
    steps, without the others. The next task uses all and trains the free ones, from zero. Biases, normalisation and
    its running statistics train in the first task only, as in Continual World. Heads always train: an earlier task's
    outputs stay the same, bit for bit, where every task has its own.

    What must stay has gradients of zero, which Adam without weight decay and without old moments leaves as it is.

    Attributes:
        retrain: env steps after a task is packed.
    Source: Mallya & Lazebnik 2018; shares and biases as in Continual World (Wolczyk et al. 2021). The number of weights
        to keep is rounded, half to even; among equal magnitudes the first in memory is kept.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"needs_source_weights", "needs_task", "zeroes_gradients"})
    conflicts: ClassVar[Mapping[str, str]] = {
        "zeroes_gradients": "keeps weights from moving, and so does the other",
        "remembers_tasks": "keeps by zero gradients what the other remembers",
    }

    retrain: Annotated[int, Field(ge=0)] = 20_000

    @property
    def retraining(self) -> int:
        return self.retrain

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """The source's owners, for the target's weights; where the source has none, everything is free.

        ``packed`` (int64): how many tasks have kept weights; ``retraining`` (bool): whether the last of them retrains;
        ``owner.*``: see `OWNER`. Input slices of new names are free, and so is a tensor not carried over whole.
        """
        owner = {name: torch.zeros(p.shape, dtype=torch.int16) for name, p in weights(network).items()}
        packed = torch.tensor(0)
        if source is not None and "packed" in source.parts.get(PART, {}):
            state = source.parts[PART]
            packed = state["packed"].clone()
            owner |= self._moved(group(state, OWNER), network, source)
        return {"packed": packed, "retraining": torch.tensor(False), **named(OWNER, owner)}

    def _moved(
        self, old: dict[str, torch.Tensor], network: PolicyNetwork, source: Checkpoint
    ) -> dict[str, torch.Tensor]:
        """Owners for the target's names; slices made of similar names are free, so that no owners are averaged."""
        target = network.schemas
        numbers = {name: owner.float() for name, owner in old.items()}
        try:
            moved = carried(source, numbers, target, new_channels="zero", rename=self.rename)
        except GraftError:
            # No observation has the same name, so all of the stem is free.
            for stem in network.encoder.stems:
                numbers.pop(f"encoder.{stem.name}", None)
            moved = carried(source, numbers, target, new_channels="zero", rename=self.rename)
        return {name: owner.to(torch.int16) for name, owner in moved.items()}

    def schedule(self, network: PolicyNetwork, state: State, progress: float) -> State:
        if int(state["packed"]) and not network.encoder.holds_statistics:
            network.encoder.hold_statistics()
        return state

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        packed, masks = int(state["packed"]), group(state, OWNER)
        if packed == 0:
            return Step(grads, state)
        trains = packed if bool(state["retraining"]) else 0
        masked = {}
        for name, g in grads.items():
            if name in masks:
                g = g.where(masks[name].to(g.device) == trains, 0)
            elif name.startswith("encoder."):
                g = torch.zeros_like(g)
            masked[name] = g
        return Step(masked, state)

    @torch.no_grad()
    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        owner = group(state, OWNER) or group(self.init(network, None), OWNER)
        kept: dict[str, torch.Tensor] = {}
        for name, parameter in weights(network).items():
            free = owner[name].to(parameter.device) == 0
            count = round(int(free.sum()) / (where.tasks - where.task))
            chosen = largest(parameter, free, count)
            parameter.masked_fill_(free & ~chosen, 0)
            kept[name] = owner[name].masked_fill(chosen.to(owner[name].device), where.task + 1)
        progress = {"packed": torch.tensor(where.task + 1), "retraining": torch.tensor(True)}
        return Consolidated(network, progress | named(OWNER, kept))

    @torch.no_grad()
    def view(self, network: PolicyNetwork, state: State, task: int) -> PolicyNetwork:
        """A copy with the encoder's weights of tasks 0 to ``task``, and the free ones if that is not packed yet."""
        seen, masks = copy.deepcopy(network), group(state, OWNER)
        packed = int(state["packed"]) if masks else 0
        for name, parameter in weights(seen).items():
            if name in masks:
                owner = masks[name].to(parameter.device)
                parameter.masked_fill_((owner > task + 1) | ((owner == 0) & (task < packed)), 0)
        return seen
