"""RMA: a teacher that observes the dynamics, and a student that estimates them from recent history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.learner_state import optimiser_state, restore_optimiser
from graft.agents.networks.encoders.branches import Branches
from graft.agents.networks.normaliser import normalisers
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.algorithm import Count, Positive
from graft.agents.training.backend import Batch, Grads
from graft.envs.adapters.gymnasium.privileged import DYNAMICS, HISTORY
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.divergence import evaluating
from graft.transfer.method import METHODS, PART, Built, FromSource, Heads, State, Step
from graft.transfer.state import group, named, without

STUDENT, BEGUN = "student", "begun"

BUFFER = "buffer"
"""Prefix of what only the second phase needs: ``states`` (N, D) with their ``hashes`` (N,), and the latest rollout's,
``new_states`` and ``new_hashes``, from which the student has not learned yet."""

MOMENTS = "moments"
"""Prefix of its optimiser's state."""

UPDATES, ERROR, SPREAD = "updates", "error", "spread"

MINIBATCH = 256
CHUNK = 8192
"""States per forward pass without gradients."""

MEMORY = 0.8
"""What is left of older errors when a rollout's are added."""

LOW = 0.3
"""A coefficient of determination below this is worth a warning."""

STREAM = 0x5107DE
"""Seeds the minibatches, with the number of updates so far added."""

R2_TAG = "transfer/latent_r2"


@METHODS.register("rma")
@dataclass(frozen=True, kw_only=True)
class RMA(FromSource):
    """The source is learned in two phases on a task with ``show: [state, dynamics, history]``.

    First a teacher learns; the branch of its encoder that reads the dynamics gives the latent z. Then only the branch
    that reads the history trains, by regression instead of the algorithm: the policy plays with the estimate, and
    between two rollouts Adam minimises mean ||phi(history) - z||^2 on states of the whole phase. The target needs only
    ``show: [state, history]``; there, everything trains.

    ``transfer/latent_r2`` is 1 - sum ||phi - z||^2 / sum ||z - mean z||^2 on states that the student has not learned
    from yet, of about the last five rollouts: 1 is perfect, and 0 what the mean latent gives. The end of a training
    where it is below 0.3 comes with a warning.

    Attributes:
        teaching: share of the source's budget of the first phase.
        updates: minibatches of 256 states in the second phase, spread evenly over it.
        learning_rate: of their Adam; the algorithm's does not count.
        buffer: the most states that are kept; of more, a random sample of the whole phase.
        heads: carried by name unless others are asked for.
    Source: Kumar et al. 2021, section III, eq. 1-3. There the latent has 8 numbers (here it is the branch's output),
        and each of 1,000 iterations learns from its own 80,000 states only, at a rate of 5e-4.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"watches_source"})

    heads: Heads = "by_name"
    teaching: Annotated[float, Field(gt=0, lt=1)] = 0.75
    updates: Count = 6000
    learning_rate: Positive = 3e-3
    buffer: Count = 100_000

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

    def schedule(self, network: PolicyNetwork, state: State, progress: float) -> State:
        """The teacher does not read the history, and the student not the dynamics; between rollouts it learns."""
        if STUDENT not in state:
            return state
        student = progress >= self.teaching
        _read_by(network, student, starts=student and not bool(state[STUDENT]))
        state = {**state, STUDENT: torch.tensor(student), BEGUN: torch.tensor(True)}
        if not student or f"{BUFFER}.new_states" not in state:
            return state
        share = (progress - self.teaching) / (1 - self.teaching)
        with evaluating(network):
            return self._taught(_branches(network), self._gathered(_branches(network), state), share)

    def _gathered(self, block: Branches, state: State) -> State:
        """The latest rollout's states are measured, then join the buffer."""
        held, state = group(state, BUFFER), without(state, BUFFER)
        states, hashes = held["new_states"], held["new_hashes"]
        if "states" in held:
            unseen = ~torch.isin(hashes, held["hashes"])
            states, hashes = states[unseen], hashes[unseen]
        count = len(states)
        if "states" in held:
            states, hashes = torch.cat([held["states"], states]), torch.cat([held["hashes"], hashes])
        if count:
            error, spread = _errors(block, states, count)
            known = [MEMORY * state.get(name, torch.zeros_like(error)).to(error) for name in (ERROR, SPREAD)]
            state = {**state, ERROR: known[0] + error, SPREAD: known[1] + spread}
        if len(hashes) > self.buffer:  # hashes are as good as random numbers, so that the largest are a fair sample
            chosen = hashes.topk(self.buffer).indices.sort().values
            states, hashes = states[chosen], hashes[chosen]
        return {**state, **named(BUFFER, {"states": states, "hashes": hashes})}

    def _taught(self, block: Branches, state: State, share: float) -> State:
        """The student after the updates that are due when ``share`` of the second phase is over."""
        done, states = int(state.get(UPDATES, torch.tensor(0))), state[f"{BUFFER}.states"]
        generator = torch.Generator().manual_seed(STREAM + done)
        parameters = list(block.parts[HISTORY].parameters())
        optimiser = torch.optim.Adam(parameters, lr=self.learning_rate)
        if moments := group(state, MOMENTS):
            restore_optimiser(optimiser, moments, optimiser_state(optimiser)[1])
        due = round(self.updates * share)
        for _ in range(done, due):
            rows = torch.randint(len(states), (MINIBATCH,), generator=generator).to(states.device)
            loss = squared_error(block, states[rows]).mean()
            for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = slope
            optimiser.step()
        optimiser.zero_grad()
        moments = {name: tensor.clone() for name, tensor in optimiser_state(optimiser)[0].items()}
        return {**without(state, MOMENTS), **named(MOMENTS, moments), UPDATES: torch.tensor(max(done, due))}

    def measures(self, state: State) -> dict[str, float]:
        """How well the student knows the latent, once it has been measured."""
        spread = float(state.get(SPREAD, torch.tensor(0.0)))
        return {R2_TAG: 1 - float(state[ERROR]) / spread} if spread > 0 else {}

    def remarks(self, state: State) -> list[str]:
        """A warning where the student knows little, or was never measured."""
        known = self.measures(state).get(R2_TAG)
        if not bool(state.get(STUDENT, False)) or (known is not None and known >= LOW):
            return []
        if known is None:
            return [
                "rma's student could not be measured: its phase was a single rollout, or the dynamics never differ."
            ]
        return [
            f"rma's student hardly knows the dynamics: R2 = {known:.2f} of the latent on new states (1 is perfect, 0 "
            f"the mean latent). More env steps, a smaller teaching, or more updates may help."
        ]

    def lasting(self, state: State) -> State:
        """Without the buffer and the optimiser's state."""
        return without(without(state, BUFFER), MOMENTS)

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
        """In the second phase none; the minibatch's states are kept, each of them once."""
        if not bool(state.get(STUDENT, False)):
            return Step(grads, state)
        states, hashes = state.get(f"{BUFFER}.new_states"), state.get(f"{BUFFER}.new_hashes")
        own = _hashes(batch.observations)
        if states is None or hashes is None:
            states, hashes = batch.observations[:0], own[:0]
        unseen = ~torch.isin(own, hashes)
        if not unseen.any():
            return Step({}, state)
        new = {
            "new_states": torch.cat([states, batch.observations[unseen]]).detach(),
            "new_hashes": torch.cat([hashes, own[unseen]]),
        }
        return Step({}, {**state, **named(BUFFER, new)})


@torch.no_grad()
def _read_by(network: PolicyNetwork, student: bool, starts: bool) -> None:
    """Who reads which part, and what the algorithm trains; where the student ``starts``, it takes over the teacher's
    weights of the latent.
    """
    block = _branches(network)
    read, other = (HISTORY, DYNAMICS) if student else (DYNAMICS, HISTORY)
    if starts:
        block.weight(HISTORY).copy_(block.weight(DYNAMICS))
    block.weight(other).zero_()
    network.requires_grad_(not student)
    for part, encoder in block.parts.items():
        for normaliser in normalisers(encoder):
            normaliser.held = student and part != HISTORY
    for part, trains in ((read, True), (other, False)):
        block.parts[part].requires_grad_(trains)
        block.weight(part).requires_grad_(trains and not student)


def squared_error(block: Branches, observations: torch.Tensor) -> torch.Tensor:
    """||phi(history) - z||^2 of each of N states, (N,); z has no gradient."""
    with torch.no_grad():
        latent = block.branch(DYNAMICS, observations)
    return (block.branch(HISTORY, observations) - latent).square().sum(-1)


@torch.no_grad()
def _errors(block: Branches, states: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the last ``count`` states: sums of ||phi - z||^2 and of ||z - mean z||^2, the mean over all states."""
    latent = torch.cat([block.branch(DYNAMICS, chunk) for chunk in torch.split(states, CHUNK)]).double()
    error = torch.cat([squared_error(block, chunk) for chunk in torch.split(states[-count:], CHUNK)]).double()
    return error.sum(), (latent[-count:] - latent.mean(0)).square().sum()


def _hashes(observations: torch.Tensor) -> torch.Tensor:
    """A number for each of N observations, (N,) int64: equal where these are equal to the bit, else as good as random.

    Source: multilinear hashing, Dietzfelbinger 1996; integers overflow.
    """
    words = observations.float().flatten(1).contiguous().view(torch.int32).long()
    generator = torch.Generator().manual_seed(STREAM)
    factors = torch.randint(-(2**63), 2**63 - 1, (words.shape[1],), generator=generator).to(words.device) | 1
    return (words * factors).sum(1)


def _branches(network: PolicyNetwork) -> Branches:
    block = network.encoder.blocks[0]
    assert isinstance(block, Branches)
    return block
