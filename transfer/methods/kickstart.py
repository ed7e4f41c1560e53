"""Kickstarting: a fresh student imitates the source with a weight that falls to 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.func import functional_call

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import Distribution, NetworkConfig, Outputs, PolicyNetwork, build_network
from graft.agents.training.algorithm import NotNegative
from graft.agents.training.backend import Batch, Grads
from graft.envs.core.schema import Schemas
from graft.transfer.divergence import added, evaluating, gradient, kl
from graft.transfer.method import FRESH_WEIGHTS, METHODS, Built, State, Step, TransferMethod
from graft.transfer.state import group, named
from graft.transfer.transplant import NewChannels, match_names, transplant

TEACHER = "teacher"
SHARED = "shared"
FACTOR = "factor"


@METHODS.register("kickstart")
@dataclass(frozen=True, kw_only=True)
class Kickstart(TransferMethod):
    """Adds the gradient of strength * factor * mean KL(teacher || student) on the states of the current minibatch.

    The factor falls linearly from 1 to 0 over the first ``share`` of the budget. The teacher is the source,
    transplanted to the target with its heads by name; only actions that both know count (`kl`). Both policies are in
    eval mode. The student is a fresh network of the source's architecture; nothing is carried into it, so there is no
    transplant report. The state holds ``teacher.<tensor>``, ``shared`` (A,) and ``factor``.

    Attributes:
        strength: of the loss at the start, per nat; 0 is training from scratch.
        share: of the budget over which it is annealed, in (0, 1].
        new_channels, rename, strict: of the teacher's transplant, as in `FromSource`.
    Source: Schmitt et al. 2018, with the cross-entropy, whose gradient is the same, and a weight that population-based
        training finds.
    """

    strength: NotNegative = 1.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    new_channels: NewChannels = "attributes"
    rename: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False

    provides: ClassVar[frozenset[str]] = frozenset({"fresh_weights"})
    conflicts: ClassVar[Mapping[str, str]] = FRESH_WEIGHTS

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """A fresh network of the source's architecture; raises as `transplant` with heads by name."""
        assert source is not None, "a method that uses a source is always given one"
        teacher = self._teacher(source, target, architecture.distribution)
        return Built(build_network(target, teacher.config, seed), None)

    def _teacher(self, source: Checkpoint, target: Schemas, distribution: Distribution | None) -> PolicyNetwork:
        """The source on the target; the seed is for rows of new actions."""
        network, _ = transplant(
            source,
            target,
            heads="by_name",
            new_channels=self.new_channels,
            rename=self.rename,
            strict=self.strict,
            seed=0,
            distribution=distribution,
        )
        return network

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        assert source is not None, "a method that uses a source is always given one"
        teacher = self._teacher(source, network.schemas, network.config.distribution)
        match = match_names(source.schemas.action.names, network.schemas.action.names, self.rename)
        return {
            **named(TEACHER, {name: t.clone() for name, t in teacher.state_dict().items()}),
            SHARED: torch.tensor([bool(origin) for origin in match.sources]),
            FACTOR: torch.ones(()),
        }

    def schedule(self, network: PolicyNetwork, state: State, progress: float) -> State:
        return {**state, FACTOR: torch.tensor(max(0.0, 1.0 - progress / self.share))}

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        weight = self.strength * float(state[FACTOR])
        if weight == 0:
            return Step(grads, state)
        device = next(network.parameters()).device
        if state[SHARED].device != device:
            state = {name: t if name == FACTOR else t.to(device) for name, t in state.items()}
        with evaluating(network):
            with torch.no_grad():
                teacher: Outputs = functional_call(network, group(state, TEACHER), (batch.observations,))
            student: Outputs = network(batch.observations)
        actions, played = network.schemas.action, network.config.distribution
        penalty = weight * kl(teacher, student, played, state[SHARED], actions.sizes).mean()
        return Step(added(grads, gradient(penalty, network)), state, penalty.detach())
