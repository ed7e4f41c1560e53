"""Auxiliary objectives while a source is learned: inverse dynamics and latent forward prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork, split_choices
from graft.agents.training.algorithm import Count, NotNegative, Positive
from graft.agents.training.backend import Batch, Grads
from graft.envs.core.schema import ActionSchema
from graft.transfer.divergence import added, evaluating
from graft.transfer.method import METHODS, FromSource, State, Step
from graft.transfer.state import Tensors, group, named

PAIRS = "pairs"
"""How many pairs were seen; it is in the state while the source is learned, and in no other."""

INVERSE, FORWARD = "inverse", "forward"
LAYERS, FIRST, SECOND, STEPS = "layers", "first", "second", "steps"
"""Prefixes of the extra layers and of Adam's moments, and Adam's steps."""

MEASURED = "measured"
"""Prefix of the running means that are logged."""

WIDTH = 128  # hidden units of the extra layers
SEED = 0xA0C5  # of the extra layers
MEMORY = 0.99  # what is left of a running mean when a minibatch is added


@METHODS.register("auxiliary")
@dataclass(frozen=True, kw_only=True)
class Auxiliary(FromSource):
    """While the source is learned, adds the gradient of losses on pairs of consecutive observations of an episode:

        inverse * L_inverse + forward * L_forward

    L_inverse is what a classifier g(f(s), f(s')) of features f loses on the action between the two: the cross-entropy,
    of several choices their sum; of a box action the mean squared error, where -1 and 1 are its bounds. L_forward is
    1 - cos(h(f(s), a), f(s')), where f(s') gets no gradient. g and h have a hidden layer of 128 ReLUs, and an Adam of
    their own; they are in snapshots, and in no checkpoint. Features are those of the network in eval mode. In transfers
    everything trains, as by finetune.

    ``transfer/inverse_accuracy`` is the share of actions that g found, ``transfer/forward_error`` the value of
    L_forward; running means of the last hundred minibatches or so. It needs ``backend: sb3``: RLlib's minibatches have
    no next observations, so that the losses are left out there, with a warning at the end.

    Attributes:
        inverse, forward: weights of the losses, per nat and per unit; with both 0 it is plain training.
        pairs: of a minibatch, at most.
        learning_rate: of the extra layers' Adam.
    Source: Pathak et al. 2017, eq. 2-3 (inverse); Schwarzer et al. 2021, eq. 4, with the encoder itself for the target
        encoder (tau = 0), one step and no projection.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"watches_source"})

    inverse: NotNegative = 0.1
    forward: NotNegative = 0.1
    pairs: Count = 256
    learning_rate: Positive = 1e-3

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """While the source is learned: the extra layers; in transfers nothing."""
        if source is not None:
            return {}
        generator = torch.Generator().manual_seed(SEED)
        features, actions = network.encoder.out_dim, len(network.schemas.action.names)
        layers: Tensors = {}
        if self.inverse:
            layers |= named(INVERSE, _layers(2 * features, actions, generator))
        if self.forward:
            layers |= named(FORWARD, _layers(features + actions, features, generator))
        state = {STEPS: torch.tensor(0.0), PAIRS: torch.tensor(0), **named(LAYERS, layers)}
        for moment in (FIRST, SECOND):
            state |= named(moment, {name: torch.zeros_like(t) for name, t in layers.items()})
        return state

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        if PAIRS not in state or batch.following is None or not (self.inverse or self.forward):
            return Step(grads, state)
        rows, after = batch.following(self.pairs)
        if not len(rows):
            return Step(grads, state)
        layers = {name: t.to(after.device).requires_grad_() for name, t in group(state, LAYERS).items()}
        penalty, found = self.penalty(network, layers, batch.observations[rows], batch.actions[rows], after)
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        slopes = torch.autograd.grad(penalty, [*trained.values(), *layers.values()], allow_unused=True)
        more = {name: slope for name, slope in zip(trained, slopes, strict=False) if slope is not None}
        own = dict(zip(layers, slopes[len(trained) :], strict=True))
        after_step = {**self._learned(state, layers, own), PAIRS: state[PAIRS] + len(rows), **_means(state, found)}
        return Step(added(grads, more), after_step, penalty.detach())

    def penalty(
        self,
        network: PolicyNetwork,
        layers: Mapping[str, torch.Tensor],
        obs: torch.Tensor,
        actions: torch.Tensor,
        after: torch.Tensor,
    ) -> tuple[torch.Tensor, Tensors]:
        """The weighted losses, a scalar, and what is measured of them.

        Args:
            layers: the extra ones. obs: raw, (M, *obs_shape). actions: between the two, (M,) or (M, A). after: as obs.
        """
        schema = network.schemas.action
        found: Tensors = {}
        penalty = torch.zeros((), device=obs.device)
        with evaluating(network):
            now = _features(network, obs)
            with torch.set_grad_enabled(bool(self.inverse)):
                later = _features(network, after)
        if self.inverse:
            loss, right = inverse_loss(_output(layers, INVERSE, torch.cat([now, later], 1)), actions, schema)
            penalty = penalty + self.inverse * loss
            found |= {} if right is None else {"inverse_accuracy": right}
        if self.forward:
            predicted = _output(layers, FORWARD, torch.cat([now, as_numbers(actions, schema)], 1))
            loss = 1 - functional.cosine_similarity(predicted, later.detach(), 1).mean()
            penalty = penalty + self.forward * loss
            found["forward_error"] = loss.detach()
        return penalty, found

    def _learned(self, state: State, layers: Tensors, slopes: Mapping[str, torch.Tensor]) -> State:
        """The state after a step of Adam on the extra layers."""
        first, second = group(state, FIRST), group(state, SECOND)
        moved = {name: t.detach().clone() for name, t in layers.items()}
        optimiser = torch.optim.Adam(moved.values(), lr=self.learning_rate)
        for name, tensor in moved.items():
            tensor.grad = slopes[name]
            moments = {"exp_avg": first[name].to(tensor, copy=True), "exp_avg_sq": second[name].to(tensor, copy=True)}
            optimiser.state[tensor] = {"step": state[STEPS].clone(), **moments}
        optimiser.step()
        optimiser.zero_grad()
        held = {name: optimiser.state[tensor] for name, tensor in moved.items()}
        return {
            **state,
            STEPS: state[STEPS] + 1,
            **named(LAYERS, moved),
            **named(FIRST, {name: own["exp_avg"] for name, own in held.items()}),
            **named(SECOND, {name: own["exp_avg_sq"] for name, own in held.items()}),
        }

    def measures(self, state: State) -> Mapping[str, float]:
        return {f"transfer/{name}": float(mean) for name, mean in group(state, MEASURED).items()}

    def remarks(self, state: State) -> Sequence[str]:
        """A warning where no pair was seen."""
        if PAIRS not in state or int(state[PAIRS]) or not (self.inverse or self.forward):
            return []
        return [
            "auxiliary had no pairs of observations, and did nothing: it needs backend: sb3, whose minibatches have."
        ]

    def lasting(self, state: State) -> State:
        """Nothing: the extra layers are of use in this training only."""
        return {}


def _layers(inputs: int, outputs: int, generator: torch.Generator) -> Tensors:
    """Weights of two layers, drawn as torch's `Linear` draws them; biases are 0."""

    def drawn(rows: int, columns: int) -> torch.Tensor:
        return (2 * torch.rand(rows, columns, generator=generator) - 1) / math.sqrt(columns)

    return {
        "hidden.weight": drawn(WIDTH, inputs),
        "hidden.bias": torch.zeros(WIDTH),
        "out.weight": drawn(outputs, WIDTH),
        "out.bias": torch.zeros(outputs),
    }


def _output(layers: Mapping[str, torch.Tensor], which: str, inputs: torch.Tensor) -> torch.Tensor:
    own = group(layers, which)
    hidden = functional.linear(inputs, own["hidden.weight"], own["hidden.bias"]).relu()
    return functional.linear(hidden, own["out.weight"], own["out.bias"])


def _features(network: PolicyNetwork, obs: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = network.encoder(network.split(obs)[0])
    return features


def inverse_loss(
    output: torch.Tensor, actions: torch.Tensor, schema: ActionSchema
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean loss of the estimated actions ``output`` (M, A), and the share of choices that are right; of a box None."""
    if schema.kind == "box":
        return (output - as_numbers(actions, schema)).square().mean(), None
    chosen = actions.long().view(len(actions), -1)
    parts = list(zip(split_choices(output, schema.sizes), chosen.unbind(1), strict=True))
    loss = torch.stack([functional.cross_entropy(logits, taken) for logits, taken in parts]).sum()
    right = torch.stack([(logits.argmax(1) == taken).float().mean() for logits, taken in parts]).mean()
    return loss, right


def as_numbers(actions: torch.Tensor, schema: ActionSchema) -> torch.Tensor:
    """Actions as (M, A): of a box -1 to 1 between its bounds, as it is where there are none; of each choice a one for
    what was taken.
    """
    if schema.kind == "box":
        low, high = (torch.tensor(ends, device=actions.device) for ends in (schema.low, schema.high))
        bounded = low.isfinite() & high.isfinite()
        middle, half = torch.where(bounded, (low + high) / 2, 0.0), torch.where(bounded, (high - low) / 2, 1.0)
        return (actions.float() - middle) / half
    chosen = actions.long().view(len(actions), -1).unbind(1)
    sizes = list(schema.sizes) or [len(schema.names)]
    return torch.cat([functional.one_hot(taken, size) for taken, size in zip(chosen, sizes, strict=True)], 1).float()


def _means(state: State, found: Tensors) -> Tensors:
    known = group(state, MEASURED)
    return named(MEASURED, {name: known.get(name, new) * MEMORY + new * (1 - MEMORY) for name, new in found.items()})
