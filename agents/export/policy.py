"""A policy network as one module from what the environment gives to what it takes, for tracing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from graft.agents.export.ports import Port
from graft.agents.networks.box_units import from_units
from graft.agents.networks.policy_network import NEVER, PolicyNetwork, build_network, split_choices
from graft.envs.core.schema import ActionSchema, Schemas

SQUASHED = "low + (tanh(mean + std * noise) + 1) / 2 * (high - low), with normal noise"
"""How actions of a squashed distribution are drawn, as contracts say it."""

UNDRAWN = "none: the policy plays the action with the largest Q value"
"""What contracts say of policies without a distribution."""


class Decision(NamedTuple):
    """What a policy decides in N states.

    Attributes:
        action: greedy, as the environment takes it: (N,) or (N, M) indices, or (N, A) reals within the bounds.
        scores: logits or Q values (N, A), or means; of the default distribution of boxes in the environment's numbers.
        spread: standard deviations of a box action, (N, A); zeros elsewhere.
    """

    action: torch.Tensor
    scores: torch.Tensor
    spread: torch.Tensor


def unmasked(network: PolicyNetwork) -> PolicyNetwork:
    """The network without its masks, in eval mode: what it reads are observations without flags."""
    if not network.masked:
        return network.eval()
    plain = Schemas(network.schemas.observation.plain, network.schemas.action)
    found = build_network(plain, network.config, seed=0)
    found.load_exactly(network.state_dict())
    return found.eval()


class Policy(nn.Module):
    """The network's decisions, with the same numbers as evaluation but without branches, so that it can be traced."""

    gain: torch.Tensor
    shift: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self.network = unmasked(network)
        self.flags = network.schemas.flag_places if network.masked else []
        actions = network.schemas.action
        self.squashed, self.box = network.config.distribution == "squashed", actions.kind == "box"
        if self.box:
            low, high = torch.tensor(actions.low), torch.tensor(actions.high)
            units = from_units(actions)
            gain, shift = units.gain.float(), units.shift.float()
            for name, values in (("gain", gain), ("shift", shift), ("low", low), ("high", high)):
                self.register_buffer(name, values, persistent=False)

    def pack(self, seen: Sequence[torch.Tensor]) -> torch.Tensor:
        """Leaves (N, *shape) as the network reads observations, in float32."""
        floats = [leaf.float() for leaf in seen]
        return floats[0] if len(floats) == 1 else torch.cat([leaf.flatten(1) for leaf in floats], 1)

    def unpack(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The task's observations, flattened (N, D), as the network reads them, and masks (N, A) where it has flags."""
        shape = self.network.schemas.observation.shape
        if not self.flags:
            return flat.reshape(-1, *shape), None
        size = math.prod(shape)
        flags = flat[:, size:]
        known = torch.cat([flags, torch.zeros_like(flags[:, :1])], 1)  # the last one is of actions without a flag
        return flat[:, :size].reshape(-1, *shape), 1 - known[:, self.flags]

    def forward(self, obs: torch.Tensor, masks: torch.Tensor | None = None) -> Decision:
        """The decision in observations of `pack` or `unpack`; ``masks`` (N, A) are 1 where an action is allowed."""
        outputs = self.network(obs)
        scores: torch.Tensor = outputs.action
        if not self.box:
            if masks is not None:
                scores = scores.masked_fill(masks < 0.5, NEVER)
            sizes = self.network.schemas.action.sizes
            chosen = [part.argmax(-1, keepdim=True) for part in split_choices(scores, sizes)]
            action = torch.cat(chosen, -1) if sizes else chosen[0].squeeze(-1)
            return Decision(action, scores, torch.zeros_like(scores))
        spread = outputs.log_std.exp()
        if self.squashed:
            return Decision(self.within(self.unsquashed(scores)), scores, spread)
        scores = scores * self.gain + self.shift
        return Decision(self.within(scores), scores, (spread * self.gain).expand_as(scores))

    def unsquashed(self, scores: torch.Tensor) -> torch.Tensor:
        """Numbers before the tanh, (N, A), as the environment takes them."""
        return self.low + 0.5 * (scores.tanh() + 1.0) * (self.high - self.low)

    def within(self, actions: torch.Tensor) -> torch.Tensor:
        """Box actions within the bounds."""
        return torch.maximum(torch.minimum(actions, self.high), self.low)

    def sample(self, decision: Decision) -> torch.Tensor:
        """An action drawn from the policy; the greedy one of a policy without a distribution."""
        if self.box:
            drawn = decision.scores + decision.spread * torch.randn_like(decision.scores)
            return self.within(self.unsquashed(drawn) if self.squashed else drawn)
        if self.network.config.distribution == "greedy":
            return decision.action
        sizes = self.network.schemas.action.sizes
        chosen = [torch.multinomial(part.softmax(-1), 1) for part in split_choices(decision.scores, sizes)]
        return torch.cat(chosen, -1) if sizes else chosen[0].squeeze(-1)


def score_ports(network: PolicyNetwork) -> tuple[tuple[Port, ...], str]:
    """The ports of `Decision.scores` and ``spread``, and how a consumer draws actions from them."""
    actions, distribution = network.schemas.action, network.config.distribution
    size, names = (len(actions.names),), actions.names
    if actions.kind != "box":
        if distribution == "greedy":
            return (Port("q_values", size, names=names, meaning="estimated return of each action"),), (UNDRAWN)
        what = "of each choice, one after the other" if actions.sizes else "of the actions"
        return (Port("logits", size, names=names, meaning=f"logits {what}; -1e8 where forbidden"),), (
            "softmax of the logits" + (", of each choice alone" if actions.sizes else "")
        )
    std = Port("std", size, names=names, meaning="standard deviations of `mean`")
    if distribution == "squashed":
        mean = Port("mean", size, names=names, meaning="means before the tanh")
        return (mean, std), SQUASHED
    mean = Port("mean", size, names=names, meaning="means in the environment's numbers, before they are clipped")
    return (mean, std), "mean + std * noise, with normal noise, then clipped to low and high"


def in_units(actions: ActionSchema) -> bool:
    """Whether the bounds of all actions are -1 and 1."""
    return all(low == -1 and high == 1 for low, high in zip(actions.low, actions.high, strict=True))


def bounded(actions: ActionSchema) -> bool:
    """Whether all actions have bounds on both sides, the upper one above the lower one."""
    ends = zip(actions.low, actions.high, strict=True)
    return all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in ends)
