"""Schemas: the names, attributes, shapes and bounds of what a task shows and accepts.

Transfer moves weights by these names, so they are part of a task as much as its rewards are.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np

from envs.errors import GraftError

ObservationKind = Literal["planes", "pixels", "vector"]
ActionKind = Literal["discrete", "box"]


def _finite(bounds: tuple[float, ...]) -> list[float | None]:
    return [b if math.isfinite(b) else None for b in bounds]


def _bounds(values: list[float | None], infinite: float) -> tuple[float, ...]:
    return tuple(infinite if v is None else float(v) for v in values)


@dataclass(frozen=True)
class ObservationSchema:
    """What one observation holds.

    Attributes:
        kind: ``planes`` (C, H, W) with one named plane per channel; ``pixels`` (C, H, W) in [0, 255];
            ``vector`` (n,) with one named feature per entry.
        names: one per channel or feature, unique.
        attributes: what each channel *means*, in words shared between games ("deadly", "solid", "pickup",
            "mobile", "self", ...), sorted; empty where nothing is known.
        shape: of one observation, channels first.
        dtype: numpy name of the observation's dtype.
        low, high: bounds per channel or feature; infinite where unbounded.
    """

    kind: ObservationKind
    names: tuple[str, ...]
    attributes: tuple[tuple[str, ...], ...]
    shape: tuple[int, ...]
    dtype: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.attributes), len(self.low), len(self.high), self.shape[0]}
        if len(sizes) != 1:
            raise GraftError(
                f"An observation of shape {self.shape} needs one name, attribute set and bound per channel, "
                f"got {len(self.names)} names, {len(self.attributes)} attribute sets and {len(self.low)} bounds."
            )
        if len(set(self.names)) != len(self.names):
            raise GraftError(f"Observation names must be unique, got {', '.join(self.names)}.")

    def space(self) -> gym.spaces.Box:
        """The Gymnasium space of one observation."""
        per_channel = (-1,) + (1,) * (len(self.shape) - 1)
        low = np.broadcast_to(np.reshape(self.low, per_channel), self.shape).astype(self.dtype)
        high = np.broadcast_to(np.reshape(self.high, per_channel), self.shape).astype(self.dtype)
        return gym.spaces.Box(low, high, self.shape, np.dtype(self.dtype).type)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; infinite bounds become null."""
        return asdict(self) | {"low": _finite(self.low), "high": _finite(self.high)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ObservationSchema:
        """Inverse of `to_json`."""
        return cls(
            kind=data["kind"],
            names=tuple(data["names"]),
            attributes=tuple(tuple(a) for a in data["attributes"]),
            shape=tuple(data["shape"]),
            dtype=data["dtype"],
            low=_bounds(data["low"], -math.inf),
            high=_bounds(data["high"], math.inf),
        )


@dataclass(frozen=True)
class ActionSchema:
    """What one action is: ``discrete`` (an index into ``names``) or ``box`` (one bounded real per name).

    ``low`` and ``high`` are per name for ``box`` and empty for ``discrete``.
    """

    kind: ActionKind
    names: tuple[str, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise GraftError(f"Action names must be unique, got {', '.join(self.names)}.")
        if self.kind == "box" and not len(self.low) == len(self.high) == len(self.names):
            raise GraftError(f"A box of {len(self.names)} actions needs as many bounds, got {len(self.low)}.")

    def space(self) -> gym.Space[Any]:
        """The Gymnasium space of one action."""
        if self.kind == "discrete":
            return gym.spaces.Discrete(len(self.names))
        return gym.spaces.Box(np.array(self.low, np.float32), np.array(self.high, np.float32))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; infinite bounds become null."""
        return asdict(self) | {"low": _finite(self.low), "high": _finite(self.high)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ActionSchema:
        """Inverse of `to_json`."""
        return cls(
            kind=data["kind"],
            names=tuple(data["names"]),
            low=_bounds(data["low"], -math.inf),
            high=_bounds(data["high"], math.inf),
        )


class Schemas(NamedTuple):
    """Both schemas of a task: what a network is built from."""

    observation: ObservationSchema
    action: ActionSchema
