"""What an observation of a third-party environment has to be: shape, dtype, finite, within its space."""

from __future__ import annotations

import contextlib
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from graft.envs.supervision.restarts import EnvFailure

Array = NDArray[Any]

TOLERANCE = 1e-3
"""How far beyond its bounds a real number may be, as a share of the width between them: rounding, or a limit that a
simulator enforces a step late."""


class ObservationCheck:
    """Checks observations of a space.

    Attributes:
        space, shape, dtype: of one observation. low, high: see `limits`.
        checks: whether an observation of the right shape and dtype can still be a fault.

    Args:
        strict: whether values outside the space are faults.
    """

    def __init__(self, space: gym.Space[Any], strict: bool) -> None:
        self.space, self.shape, self.dtype, self._strict = space, space.shape or (), np.dtype(space.dtype), strict
        self.low, self.high = limits(space, strict)
        whole = np.iinfo(self.dtype) if self.dtype.kind in "iu" else None
        # All numbers that bytes can hold are allowed in most images: nothing to look at.
        narrower = whole is not None and bool(np.any(self.low > whole.min) or np.any(self.high < whole.max))
        self.checks = self.dtype.kind == "f" or (strict and narrower)

    def fitting(self, shown: Any) -> Any:
        """The observation ``shown`` in the space's shape and dtype; raises EnvFailure where that is impossible."""
        if type(shown) is np.ndarray and shown.shape == self.shape and shown.dtype == self.dtype:
            return shown
        values = np.asarray(shown)
        if values.dtype.kind not in "biuf":
            kind = type(shown).__name__
            raise EnvFailure("outside", f"the observation is a {kind}, its space has {self.dtype} numbers")
        if not self._strict:
            with contextlib.suppress(ValueError):
                return self._cast(np.broadcast_to(values, self.shape))
        if values.shape != self.shape:
            raise EnvFailure("outside", f"the observation has shape {values.shape}, its space has {self.shape}")
        if values.dtype.kind == "f" and self.dtype.kind != "f":
            raise EnvFailure("outside", f"the observation is of {values.dtype}, its space of {self.dtype}")
        # Before it is cast: 300 would become a byte, 44.
        if self.dtype.kind != "f" and not within(values, self.low, self.high):
            raise EnvFailure("outside", _beyond(values, self.low, self.high))
        return self._cast(values)

    def _cast(self, values: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is found later
            return values.astype(self.dtype)

    def failure(self, row: Array) -> EnvFailure | None:
        """What is wrong with the numbers of an observation that fits."""
        if within(row, self.low, self.high):
            return None
        if self.dtype.kind == "f" and not np.isfinite(row).all():
            place = np.argwhere(~np.isfinite(row))[0].tolist()
            return EnvFailure("not_finite", f"observation{place or ''} is {row[tuple(place)]}")
        return EnvFailure("outside", _beyond(row, self.low, self.high))


def limits(space: gym.Space[Any], strict: bool = True) -> tuple[Array, Array]:
    """Lowest and highest values that are no fault, in the space's dtype: finite ones, and with ``strict`` its own."""
    dtype = np.dtype(space.dtype)
    if isinstance(space, gym.spaces.Discrete):
        return np.array(space.start, dtype), np.array(int(space.start) + int(space.n) - 1, dtype)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.start.astype(dtype), (space.start + space.nvec - 1).astype(dtype)
    if isinstance(space, gym.spaces.MultiBinary):
        return np.zeros(space.shape, dtype), np.ones(space.shape, dtype)
    assert isinstance(space, gym.spaces.Box)
    if dtype.kind != "f":
        return space.low, space.high
    most: Any = np.finfo(dtype).max
    if not strict:
        return np.full(space.shape, -most), np.full(space.shape, most)
    with np.errstate(over="ignore", invalid="ignore"):
        width: Any = np.nan_to_num(space.high - space.low, nan=0.0, posinf=0.0)
        # Where only one side is bounded, its own size is the measure.
        size = np.maximum(1.0, np.abs(np.nan_to_num(space.low, neginf=0.0)))
        slack: Any = TOLERANCE * np.where(width > 0, width, size)
        low, high = np.subtract(space.low, slack).astype(dtype), np.add(space.high, slack).astype(dtype)
    return np.clip(low, -most, most), np.clip(high, -most, most)


def within(values: Array, low: Array, high: Array) -> bool:
    """Whether all of ``values`` are within the limits, which NaN never is."""
    size = values.size
    return int(np.count_nonzero(values >= low)) == size == int(np.count_nonzero(values <= high))


def _beyond(values: Array, low: Array, high: Array) -> str:
    place = tuple(np.argwhere((values < low) | (values > high))[0].tolist())
    value, least, most = values[place], low[place], high[place]
    named = f"observation{list(place)}" if place else "the observation"
    return f"{named} is {value}, allowed are {least:g} to {most:g}"
