"""Base class of the quadratic penalties: parameters are held near anchors by their importance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.algorithm import NotNegative
from graft.agents.training.backend import Batch, Grads
from graft.agents.training.rollouts import Rollouts
from graft.errors import GraftError
from graft.transfer.method import Consolidated, FromSource, State, Step, TaskPosition
from graft.transfer.state import Tensors, group, named
from graft.transfer.transplant import Meaning, carried

MEANINGS: dict[str, Meaning] = {"anchor": "weights", "omega": "importances", "total": "importances"}
"""How names in the state begin -> what the numbers are."""


def normalised(omega: Tensors) -> tuple[Tensors, torch.Tensor]:
    """Importances scaled to mean 1 over all entries of all tensors, and the mean they had; zeros stay zeros."""
    mean = torch.stack([t.double().sum() for t in omega.values()]).sum() / sum(t.numel() for t in omega.values())
    return {name: (t / mean if mean > 0 else t.clone()).to(t) for name, t in omega.items()}, mean.float()


@dataclass(frozen=True, kw_only=True)
class Regulariser(FromSource):
    """Fine-tuning with the penalty (strength / 2) * sum_k sum_i omega_ki * (theta_i - anchor_ki)^2.

    Its gradient is added in closed form, before clipping. omega_k has mean 1 over the parameters that are held: those
    of the encoder, and of the policy head where all tasks share it. Heads of other tasks and the value head are free.

    The state holds, for every anchor k (a number), ``anchor.<k>.<parameter>``, ``omega.<k>.<parameter>`` and the raw
    mean ``raw.<k>`` that was divided by.

    Attributes:
        strength: of the penalty; 0 is fine-tuning.
    """

    strength: NotNegative = 1.0

    provides: ClassVar[frozenset[str]] = frozenset({"needs_source_weights", "remembers_tasks"})

    def held(self, network: PolicyNetwork) -> list[str]:
        """Names of the parameters that the penalty may hold."""
        parts = ("encoder.", "policy.") if self.shares_heads else ("encoder.",)
        return [name for name, _ in network.named_parameters() if name.startswith(parts)]

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """The source's state, moved to the parameters of ``network`` by name.

        New slices have no importance; those that ``new_channels=attributes`` made of others have the mean of theirs.

        Raises:
            GraftError: the source was not consolidated, or nothing that trains is held.
        """
        state = super().init(network, source)
        if source is None:
            return state
        if not state:
            raise GraftError(f"{type(self).__name__} needs a source that it has consolidated.")
        moved = {name: t for name, t in state.items() if name.count(".") < 2}  # not of a parameter
        for prefix in sorted({".".join(name.split(".", 2)[:2]) for name in state if name not in moved}):
            found = carried(
                source,
                group(state, prefix),
                network.schemas,
                new_channels=self.new_channels,
                rename=self.rename,
                meaning=MEANINGS.get(prefix.split(".")[0]),
            )
            moved |= named(prefix, found)
        self.check_held(network, moved)
        return moved

    def check_held(self, network: PolicyNetwork, state: State) -> None:
        """Raises GraftError where no anchor of ``state`` holds a parameter that trains."""
        trainable = {name for name, p in network.named_parameters() if p.requires_grad}
        if not any(trainable & group(state, f"anchor.{k}").keys() for k in anchors(state)):
            raise GraftError(f"{type(self).__name__} has nothing to hold: none of the parameters it knows of trains.")

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        indices = anchors(state)
        if self.strength == 0 or not indices:
            return Step(grads, state)
        parameters = {name: p.detach() for name, p in network.named_parameters() if name in grads}
        changed, penalty = dict(grads), torch.zeros((), device=next(network.parameters()).device)
        for k in indices:
            anchor = {n: t for n, t in group(state, f"anchor.{k}").items() if n in parameters}
            omega = group(state, f"omega.{k}")
            names = list(anchor)
            if not names:  # all that is held is frozen for now
                continue
            here = penalty.device
            apart = torch._foreach_sub([parameters[n] for n in names], [anchor[n].to(here) for n in names])
            pull = torch._foreach_mul([omega[n].to(here) for n in names], apart)
            added = torch._foreach_add([changed[n] for n in names], pull, alpha=self.strength)
            changed.update(zip(names, added, strict=True))
            penalty = penalty + sum(torch.dot(a.flatten(), b.flatten()) for a, b in zip(apart, pull, strict=True))
        return Step(changed, state, self.strength / 2 * penalty)

    def anchored(self, network: PolicyNetwork, state: State, omega: Tensors, k: int) -> State:
        """``state`` with the anchor k at the network's present parameters, held by ``omega`` (normalised here)."""
        parameters = dict(network.named_parameters())
        scaled, mean = normalised(omega)
        anchor = {name: parameters[name].detach().clone() for name in omega}
        return {**state, **named(f"anchor.{k}", anchor), **named(f"omega.{k}", scaled), f"raw.{k}": mean}

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        omega = self.importances(network, rollouts.observations)
        return Consolidated(network, self.anchored(network, state, omega, where.task))

    def importances(self, network: PolicyNetwork, observations: torch.Tensor) -> Tensors:
        """Raw importance of every held parameter, by name, from states (N, *obs_shape) of the task that ends."""
        raise NotImplementedError


def anchors(state: State) -> list[int]:
    """The numbers of the anchors in ``state``."""
    return sorted(int(name.removeprefix("raw.")) for name in state if name.startswith("raw."))
