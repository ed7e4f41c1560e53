"""RMA: a teacher that observes the dynamics, and a student that estimates them from recent history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoders.branches import Branches
from graft.agents.networks.normaliser import normalisers
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.backend import Batch, Grads
from graft.envs.adapters.gymnasium.privileged import DYNAMICS, HISTORY
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.divergence import evaluating, gradient
from graft.transfer.method import METHODS, PART, Built, FromSource, State, Step

STUDENT, BEGUN = "student", "begun"


@METHODS.register("rma")
@dataclass(frozen=True, kw_only=True)
class RMA(FromSource):
    """The source is learned in two phases on a task with ``show: [state, dynamics, history]``.

    First a teacher learns; the branch of its encoder that reads the dynamics gives the latent z. Then only the branch
    that reads the history trains, by the gradient of mean ||phi(history) - z||^2 instead of the algorithm's, on states
    that the policy meets with the estimate. The target needs only ``show: [state, history]``; there, everything trains.

    Attributes:
        teaching: share of the source's budget of the first phase.
        heads: carried by name unless others are asked for.
    Source: Kumar et al. 2021, section III, eq. 1-3, where the latent has 8 numbers; here it is the branch's output.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"watches_source"})

    heads: Literal["fresh", "by_name", "shared"] = "by_name"
    teaching: Annotated[float, Field(gt=0, lt=1)] = 0.75

    def check(self, source: Schemas) -> None:
        parts = dict(source.observation.parts)
        if not {DYNAMICS, HISTORY} <= parts.keys():
            shown = ", ".join(parts) or source.observation.kind
            raise GraftError(
                f"rma learns from a source that shows its dynamics and its history, and this one shows {shown}; give "
                f"the source show: [state, dynamics, history]."
            )

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """While the source is learned: ``student``, whether the second phase has begun, and ``begun``, whether any has.

        Raises:
            GraftError: the branches of dynamics and history differ in width.
        """
        block = network.encoder.blocks[0]
        if source is not None or not isinstance(block, Branches) or not {DYNAMICS, HISTORY} <= set(block.parts):
            return {}
        if block.weight(DYNAMICS).shape != block.weight(HISTORY).shape:
            raise GraftError("rma needs branches of equal width for dynamics and history; give both the same options.")
        return {STUDENT: torch.tensor(False), BEGUN: torch.tensor(False)}

    @torch.no_grad()
    def schedule(self, network: PolicyNetwork, state: State, progress: float) -> State:
        """The teacher does not read the history, and the student not the dynamics."""
        if STUDENT not in state:
            return state
        block, student = _branches(network), progress >= self.teaching
        read, other = (HISTORY, DYNAMICS) if student else (DYNAMICS, HISTORY)
        if student and not bool(state[STUDENT]):
            block.weight(HISTORY).copy_(block.weight(DYNAMICS))
        block.weight(other).zero_()
        network.requires_grad_(not student)
        for part, encoder in block.parts.items():
            for normaliser in normalisers(encoder):
                normaliser.held = student and part != HISTORY
        for part, trains in ((read, True), (other, False)):
            block.parts[part].requires_grad_(trains)
            block.weight(part).requires_grad_(trains and not student)
        return {STUDENT: torch.tensor(student), BEGUN: torch.tensor(True)}

    def finish(self, network: PolicyNetwork, state: State) -> PolicyNetwork:
        for normaliser in normalisers(network):
            normaliser.held = False
        return network.requires_grad_(True)

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """Raises as `FromSource.build`, and where the source's training ended in the first phase."""
        learned = {} if source is None else source.parts.get(PART, {})
        if bool(learned.get(BEGUN, False)) and not bool(learned[STUDENT]):
            raise GraftError(
                f"rma's student never began: no rollout started after {self.teaching:g} of the source's budget; give "
                f"the source more env steps, or teaching a smaller share."
            )
        return super().build(source, target, architecture, seed)

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        if not bool(state.get(STUDENT, False)):
            return Step(grads, state)
        block = _branches(network)
        with evaluating(network):
            error = block.branch(HISTORY, batch.observations) - block.branch(DYNAMICS, batch.observations).detach()
            loss = error.square().sum(-1).mean()
        return Step(gradient(loss, network), state, loss.detach())


def _branches(network: PolicyNetwork) -> Branches:
    block = network.encoder.blocks[0]
    assert isinstance(block, Branches)
    return block
