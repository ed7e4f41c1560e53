"""Units of box actions: a policy plays -1 to 1 where an action has bounds on both sides, elsewhere its own numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from graft.envs.core.schema import ActionSchema

KEY, SCALED = "action_units", "scaled"
"""In a checkpoint's manifest. Earlier versions had no such key, and played every box in the environment's numbers."""


class Affine(NamedTuple):
    """``gain * x + shift`` of each action; both (A,) float64, and ``gain`` above 0."""

    gain: Tensor
    shift: Tensor

    @property
    def identity(self) -> bool:
        return bool((self.gain == 1).all() and (self.shift == 0).all())

    def inverse(self) -> Affine:
        return Affine(1 / self.gain, -self.shift / self.gain)

    def of(self, actions: Tensor) -> Tensor:
        """Actions (..., A), or their means."""
        return actions * self.gain.to(actions) + self.shift.to(actions)

    def of_log_std(self, log_std: Tensor) -> Tensor:
        """Logarithms of standard deviations (..., A)."""
        return log_std + self.gain.log().to(log_std)

    def of_rows(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of a policy head, by its name, whose first dimension counts the actions: its means and deviations
        move.
        """
        if name.endswith("log_std"):
            return self.of_log_std(tensor)
        scaled = self.of_weights(tensor)
        return scaled + self.shift.to(tensor) if name.endswith("bias") else scaled

    def of_weights(self, tensor: Tensor) -> Tensor:
        """What is multiplied into means; the first dimension counts the actions."""
        return tensor * _along(self.gain, tensor)

    def of_importances(self, name: str, tensor: Tensor) -> Tensor:
        """Importances of a tensor of a policy head: the penalty omega * (theta - anchor)^2 stays what it was."""
        return tensor if name.endswith("log_std") else tensor / _along(self.gain, tensor).square()


def _along(values: Tensor, tensor: Tensor) -> Tensor:
    return values.to(tensor).view(-1, *[1] * (tensor.dim() - 1))


def _scaled(low: float, high: float) -> bool:
    return math.isfinite(low) and math.isfinite(high) and low < high


@lru_cache(maxsize=64)
def from_units(schema: ActionSchema) -> Affine:
    """Of a box: from the policy's units to the environment's, [-1, 1] to the bounds of actions that have both."""
    ends = [
        (low, high) if _scaled(low, high) else (-1.0, 1.0) for low, high in zip(schema.low, schema.high, strict=True)
    ]
    low, high = torch.tensor(ends, dtype=torch.float64).view(-1, 2).unbind(1)
    return Affine((high - low) / 2, (high + low) / 2)


def carried_units(source: ActionSchema, target: ActionSchema, sources: Sequence[Sequence[int]]) -> Affine:
    """From the units of a source's policy to those of a target's: the same, from -1 to 1, where both have bounds.

    Where only one has them, an action keeps its meaning in the environment's numbers.

    Args:
        sources: of each of the target's actions, which of the source's it comes from, if any.
    """
    gains, shifts = [], []
    old, new = from_units(source), from_units(target).inverse()
    for j, origins in enumerate(sources):
        gain, shift = 1.0, 0.0
        if origins:
            i = origins[0]
            was, now = (_scaled(s.low[k], s.high[k]) for s, k in ((source, i), (target, j)))
            if was and not now:
                gain, shift = float(old.gain[i]), float(old.shift[i])
            elif now and not was:
                gain, shift = float(new.gain[j]), float(new.shift[j])
        gains.append(gain)
        shifts.append(shift)
    return Affine(torch.tensor(gains, dtype=torch.float64), torch.tensor(shifts, dtype=torch.float64))


def same_units(one: ActionSchema, other: ActionSchema) -> bool:
    """Whether what a policy plays means the same under both boxes: with equal bounds, or from -1 to 1 between them."""
    mine, theirs = (list(zip(box.low, box.high, strict=True)) for box in (one, other))
    return all(a == b or (_scaled(*a) and _scaled(*b)) for a, b in zip(mine, theirs, strict=True))


def to_environment(actions: Tensor, schema: ActionSchema) -> Tensor:
    """Actions (N, A) of a policy as the environment of ``schema`` takes them, within its bounds."""
    units = from_units(schema)
    return clipped(actions if units.identity else units.of(actions), schema)


def clipped(actions: Tensor, schema: ActionSchema) -> Tensor:
    """Box actions (N, A) of the environment's numbers, within the bounds that there are."""
    return actions.clamp(torch.tensor(schema.low).to(actions), torch.tensor(schema.high).to(actions))
