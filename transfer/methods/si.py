"""Synaptic intelligence (SI): weights are held by their contribution to the fall of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.algorithm import NotNegative, Positive
from graft.agents.training.backend import Batch, Grads
from graft.agents.training.rollouts import Rollouts
from graft.errors import GraftError
from graft.transfer.method import METHODS, Consolidated, State, Step, TaskPosition
from graft.transfer.regulariser import Regulariser
from graft.transfer.state import Tensors, group, named


@METHODS.register("si")
@dataclass(frozen=True, kw_only=True)
class SI(Regulariser):
    """Importance: the path integral of the loss over the task, per parameter, summed over tasks around the latest end.

    While a task is learned, w_i adds up -g_i * dtheta_i over all updates, with the gradient g of the *task's* loss
    before clipping and without the penalty. At its end omega_i += max(0, w_i) / (Delta_i^2 + xi), Delta being the
    distance that the parameter moved. The sum over tasks has mean 1 in the penalty, whose factor here is strength / 2
    (the paper's is c). The source must be trained with this method.

    Attributes:
        xi: keeps the denominator from vanishing.
    Source: Zenke et al. 2017, "Continual learning through synaptic intelligence", eqs. 3 to 5.
    """

    strength: NotNegative = 0.01
    xi: Positive = 0.1

    states: ClassVar[int] = 0
    provides: ClassVar[frozenset[str]] = Regulariser.provides | {"watches_source"}

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """Anchor and importances so far, and an empty path that begins here."""
        here = {n: p.detach().clone() for n, p in network.named_parameters() if n in self.held(network)}
        path = {name: torch.zeros_like(t) for name, t in here.items()}
        return {**super().init(network, source), **named("path.0", path), **named("start.0", here)}

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        """Add the penalty's gradient, and the step since the last gradients to the path."""
        held = [name for name in group(state, "path.0") if name in grads]
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        path = self._path(network, state)
        step = super().gradients(grads, network, state, batch)
        # A gradient that was not added to will be clipped in place.
        last = {name: grads[name].clone() if step.grads[name] is grads[name] else grads[name] for name in held}
        followed = {
            **named("path.0", path),
            **named("theta.0", {name: parameters[name].clone() for name in held}),
            **named("grad.0", last),
        }
        return step._replace(state={**step.state, **followed})

    def _path(self, network: PolicyNetwork, state: State) -> Tensors:
        """The path so far with the step that has been made since the last gradients."""
        path, theta, last = group(state, "path.0"), group(state, "theta.0"), group(state, "grad.0")
        if not theta:
            return path
        parameters, names = dict(network.named_parameters()), list(theta)
        here = next(network.parameters()).device  # the state may have been loaded, or made before training moved there
        path, theta, last = ({**t, **{n: t[n].to(here) for n in names}} for t in (path, theta, last))
        step = torch._foreach_sub([parameters[n].detach() for n in names], [theta[n] for n in names])
        added = torch._foreach_addcmul([path[n] for n in names], [last[n] for n in names], step, value=-1.0)
        return {**path, **dict(zip(names, added, strict=True))}

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        """Raises GraftError where the task was not watched."""
        path, start, total = self._path(network, state), group(state, "start.0"), group(state, "total.0")
        if not path:
            raise GraftError("SI must watch a task while it is learned, and this network was trained without it.")
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        omega = {
            name: total.get(name, 0.0) + w.clamp(min=0) / ((parameters[name] - start[name]).square() + self.xi)
            for name, w in path.items()
        }
        return Consolidated(network, {**self.anchored(network, {}, omega, 0), **named("total.0", omega)})
