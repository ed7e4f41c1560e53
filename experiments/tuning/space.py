"""What a search varies: choices and ranges by dotted key, how values are drawn from them and kept inside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from envs.errors import GraftError, unknown

Scalar = bool | int | float | str | None
"""A value that an override can be given."""

DIGITS = 4
"""Significant digits of drawn numbers, so that a command that repeats a trial can be read."""


class Dimension(Protocol):
    """The values of one key."""

    def draw(self, rng: np.random.Generator) -> Scalar:
        """One of them, at random."""

    def inside(self, value: Scalar) -> Scalar:
        """The nearest of them."""


@dataclass(frozen=True)
class Choice:
    """One of a list, each as likely; neighbours in the list are neighbours for `pbt`."""

    values: tuple[Scalar, ...]

    def draw(self, rng: np.random.Generator) -> Scalar:
        """One of the list."""
        return self.values[int(rng.integers(len(self.values)))]

    def inside(self, value: Scalar) -> Scalar:
        """The value, which a search takes from the list."""
        return value


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; uniform, or uniform in their logarithm; whole where asked."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, rng: np.random.Generator) -> Scalar:
        """A number."""
        if self.whole and not self.log:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        drawn = float(rng.uniform(low, high))
        return self.inside(math.exp(drawn) if self.log else drawn)

    def inside(self, value: Scalar) -> Scalar:
        """The number rounded, and moved to the nearer end where it is outside."""
        assert isinstance(value, int | float)
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


KINDS = {
    "uniform": Range(0, 0),
    "log": Range(0, 0, log=True),
    "integer": Range(0, 0, whole=True),
    "log_integer": Range(0, 0, log=True, whole=True),
}
"""Kinds of ranges, as a config names them."""


def parse_dimension(key: str, given: Any) -> Dimension:
    """A list of choices, or ``{uniform | log | integer | log_integer: [low, high]}``.

    Raises:
        GraftError: anything else, or bounds that are no numbers or in the wrong order.
    """
    if isinstance(given, list):
        return _choice(key, given)
    if not isinstance(given, Mapping) or len(given) != 1:
        raise GraftError(
            f"space: '{key}' is {given!r}; give a list of choices, or one range such as {{log: [1e-4, 1e-2]}}."
        )
    kind, bounds = next(iter(given.items()))
    if kind not in KINDS:
        raise unknown(f"kind of range of '{key}'", str(kind), KINDS)
    return _range(key, str(kind), bounds)


def _choice(key: str, given: list[Any]) -> Choice:
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in given)
    if len(given) < 2 or not plain or len({repr(value) for value in given}) < len(given):
        raise GraftError(f"space: '{key}' is {given!r}; a list of choices has two different numbers or words, or more.")
    return Choice(tuple(given))


def _range(key: str, kind: str, bounds: Any) -> Range:
    where, numbers = f"space: '{key}'", isinstance(bounds, list) and len(bounds) == 2
    if not numbers or any(isinstance(b, bool) or not isinstance(b, int | float) for b in bounds):
        raise GraftError(f"{where} has the bounds {bounds!r}; give two numbers, such as {kind}: [1, 100].")
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high)):
        raise GraftError(f"{where} has the bounds {low:g} and {high:g}; both must be finite.")
    if low >= high:
        raise GraftError(f"{where} has the bounds {low:g} and {high:g} in the wrong order; the lower one comes first.")
    made = KINDS[kind]
    if made.log and low <= 0:
        raise GraftError(f"{where} begins at {low:g}, which has no logarithm; begin above 0, or use uniform.")
    if made.whole and (low != int(low) or high != int(high)):
        raise GraftError(f"{where} has the bounds {low:g} and {high:g}; those of whole numbers are whole.")
    # A whole number at an end of a range of fractions would be kept whole by pbt from then on.
    return Range(low, high, whole=True, log=made.log) if made.whole else Range(float(low), float(high), log=made.log)


def sample(space: Mapping[str, Dimension], seed: int, index: int, attempt: int = 0) -> dict[str, Scalar]:
    """The values of trial ``index``: the same for the same seed, whatever the number of trials."""
    rng = np.random.default_rng([seed, index, attempt])
    return {key: space[key].draw(rng) for key in sorted(space)}
