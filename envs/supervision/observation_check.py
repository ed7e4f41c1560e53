"""What an observation of a third-party environment has to be: shape, dtype, finite, within its space."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from graft.envs.supervision.restarts import EnvFailure

Array = NDArray[Any]

TOLERANCE = 1e-3
"""How far beyond its bounds a real number is rounding, or a limit that a simulator enforces a step late, as a share of
the width between them: it is clipped, and not counted."""


UNBOUNDED = float(np.finfo(np.float32).max)
"""A bound from which on there is none."""


_WHOLE = (int, np.int64, np.int32)


class Clips:
    """Observations with values that were moved to their bounds: how many, and the first of them in words."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def take(self) -> tuple[int, str]:
        """How many there were since the last call, and the first of all."""
        count, self.count = self.count, 0
        return count, self.first


class ObservationCheck:
    """Checks observations of a space of numbers, and clips finite values of a Box to its bounds.

    Attributes:
        space, shape, dtype: of what `fitting` returns. low, high: see `limits`.
        packs: whether `fitting` has to see every observation, as those that have parts.
        checks: whether an observation of the right shape and dtype can still be a fault, or out of bounds.
        spans: of the entries, in a row, those that can be. part: see below. clips: what was clipped.

    Args:
        strict: whether values are clipped to a Box's bounds; without it they are passed on, if they are finite.
        part: of a Dict or Tuple, for messages. names: of the entries, for messages, if there are as many.
    """

    packs = False
    spans: tuple[slice, ...] = (slice(None),)

    def __init__(
        self,
        space: Any,
        strict: bool,
        part: str = "",
        names: tuple[str, ...] = (),
        clips: Clips | None = None,
    ) -> None:
        self.space, self.shape, self.dtype = space, space.shape or (), np.dtype(space.dtype)
        self.low, self.high = limits(space, strict)
        self.part, self._names = part, names if len(names) == self.low.size else ()
        self._categories = not isinstance(space, gym.spaces.Box)
        self.clips = Clips() if clips is None else clips
        single = isinstance(space, gym.spaces.Discrete)
        self._choices = (int(self.low), int(self.high)) if single else None
        whole = np.iinfo(self.dtype) if self.dtype.kind in "iu" else None
        # All numbers that bytes can hold are allowed in most images: nothing to look at.
        narrower = whole is not None and bool(np.any(self.low > whole.min) or np.any(self.high < whole.max))
        self.checks = self.dtype.kind == "f" or narrower

    def fitting(self, shown: Any) -> Any:
        """The observation ``shown`` in the space's shape and dtype; raises EnvFailure where that is impossible."""
        if type(shown) is np.ndarray and shown.dtype == self.dtype and shown.shape == self.shape:
            return shown
        return self._converted(shown)

    def read(self, shown: Any) -> Any:
        """`fitting`, then `bounded`."""
        if self.packs:
            row = self.fitting(shown)
            return self.bounded(row) if self.checks else row
        if type(shown) is np.ndarray and shown.dtype == self.dtype and shown.shape == self.shape:
            return self.bounded(shown) if self.checks else shown
        row = self._converted(shown)
        return self.bounded(row) if self.dtype.kind == "f" else row

    def _converted(self, shown: Any) -> Array:
        """`fitting` of what has another type, shape or dtype; whole numbers are within their bounds."""
        if type(shown) in _WHOLE and self._choices is not None and self._choices[0] <= shown <= self._choices[1]:
            return np.array(shown, self.dtype)  # most of them
        values = self._numbers(shown)
        if values.shape != self.shape:
            raise EnvFailure("outside", f"{self._place()} has shape {values.shape}, its space has {self.shape}")
        if self.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is found later
                return values.astype(self.dtype)
        if values.dtype.kind == "f":
            raise EnvFailure("outside", f"{self._place()} is of {values.dtype}, its space of {self.dtype}")
        # Before it is cast: 300 would become a byte, 44.
        return self.bounded(values).astype(self.dtype)

    def bounded(self, row: Array) -> Array:
        """An observation of the right shape, within its bounds; clips values of a Box.

        Raises:
            EnvFailure: a value that is not finite, or a category that does not exist.
        """
        if within(row, self.low, self.high):
            return row
        if row.dtype.kind == "f" and not np.isfinite(row).all():
            place = tuple(np.argwhere(~np.isfinite(row))[0].tolist())
            raise EnvFailure("not_finite", f"{self._place(place)} is {row[place]!s}")
        if self._categories:
            raise EnvFailure("outside", self._beyond(row, (row < self.low) | (row > self.high)))
        low, high = _with_slack(self.low, self.high)
        beyond = (row < low) | (row > high)
        if beyond.any():
            self.clips.count += 1
            if not self.clips.first:
                self.clips.first = self._beyond(row, beyond)
        return np.clip(row, self.low, self.high).astype(row.dtype, copy=False)

    def _numbers(self, shown: Any) -> Array:
        try:
            values = np.asarray(shown)
        except ValueError as error:  # a list of lists of different lengths
            raise EnvFailure("outside", f"{self._place()} is not an array: {error}") from error
        if values.dtype.kind not in "biuf":
            kind = type(shown).__name__
            raise EnvFailure("outside", f"{self._place()} is a {kind}, its space has {self.dtype} numbers")
        return values

    def _place(self, place: tuple[int, ...] | None = None) -> str:
        """An entry of the observation, or all of it, as messages name it."""
        if place is not None and self._names:
            return f"feature '{self._names[int(np.ravel_multi_index(place, self.shape)) if place else 0]}'"
        indices = list(place) if place else ""
        if self.part:
            return f"part '{self.part}'{indices}"
        return f"observation{indices}" if place else "the observation"

    def _beyond(self, row: Array, beyond: Array) -> str:
        place = tuple(np.argwhere(beyond)[0].tolist())
        least, most = (_shown(float(end[place])) for end in (self.low, self.high))
        return f"{self._place(place)} is {row[place]!s}, allowed are {least} to {most}"


def limits(space: gym.Space[Any], strict: bool = True) -> tuple[Array, Array]:
    """Lowest and highest values that are passed on, in the space's dtype (of float16, in float32).

    A Box's are its own, if they are finite; without ``strict``, all finite values that the dtype holds. Reals are
    those of float32, which networks take.
    """
    dtype = np.dtype(space.dtype)
    if isinstance(space, gym.spaces.Discrete):
        return np.array(space.start, dtype), np.array(int(space.start) + int(space.n) - 1, dtype)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.start.astype(dtype), (space.start + space.nvec - 1).astype(dtype)
    if isinstance(space, gym.spaces.MultiBinary):
        return np.zeros(space.shape, dtype), np.ones(space.shape, dtype)
    assert isinstance(space, gym.spaces.Box)
    if dtype.kind == "b" or (strict and dtype.kind != "f"):
        return space.low, space.high
    if dtype == np.float16:  # whose largest number would look like a bound beside other parts
        dtype = np.dtype(np.float32)
    held: Any = np.finfo(np.float32) if dtype.kind == "f" else np.iinfo(dtype)
    if not strict:
        return np.full(space.shape, held.min, dtype), np.full(space.shape, held.max, dtype)
    low, high = (np.clip(end.astype(dtype), held.min, held.max) for end in (space.low, space.high))
    return low, high


def within(values: Array, low: Array, high: Array) -> bool:
    """Whether all of ``values`` are within the limits, which NaN never is."""
    size = values.size
    return int(np.count_nonzero(values >= low)) == size == int(np.count_nonzero(values <= high))


def _shown(bound: float) -> str:
    return f"{math.copysign(math.inf, bound) if abs(bound) >= UNBOUNDED else bound:g}"


def _with_slack(low: Array, high: Array) -> tuple[Array, Array]:
    """Limits `TOLERANCE` wider, of reals; where only one side is bounded, its own size is the measure."""
    if low.dtype.kind != "f":
        return low, high
    least, greatest = low.astype(np.float64), high.astype(np.float64)
    bounded_below, bounded_above = least > -UNBOUNDED, greatest < UNBOUNDED
    size = np.maximum(1.0, np.abs(np.where(bounded_below, least, np.where(bounded_above, greatest, 0.0))))
    width = greatest - least
    slack = TOLERANCE * np.where(bounded_below & bounded_above & (width > 0), width, size)
    return least - slack, greatest + slack
