"""Domain randomisation: values of mechanics that are drawn at every reset, or every few steps.

``mass: 1.5``, ``mass: {uniform: [0.5, 2]}``, ``mass: {log_uniform: [0.5, 2], every: 100}`` or
``mass: {gaussian: [1, 0.2]}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from graft.envs.builtin.engine.mechanics import Mechanic, Value
from graft.errors import GraftError, unknown

DISTRIBUTIONS = {
    "uniform": ("[low, high]", "every value between them is as likely"),
    "log_uniform": ("[low, high]", "every ratio between them is as likely: half as often as twice"),
    "gaussian": ("[mean, std]", "drawn again while it is outside the mechanic's range"),
}
"""Name -> its two numbers, and what they do."""

EVERY = "every"  # the keyword that says after how many steps of an episode a value is drawn again
Rng = np.random.Generator


@dataclass(frozen=True)
class RandomValue:
    """The distribution of a value.

    Attributes:
        mechanic: values are in its range, and whole where its default is.
        kind: one of `DISTRIBUTIONS`. first, second: its numbers.
        every: steps of an episode between two draws; None draws at resets alone.
    """

    mechanic: Mechanic
    kind: str
    first: float
    second: float
    every: int | None = None

    def sample(self, rng: Rng) -> float | int:
        whole = isinstance(self.mechanic.default, int)
        low, high = self.first, self.second
        if self.kind == "uniform":
            return int(rng.integers(int(low), int(high), endpoint=True)) if whole else float(rng.uniform(low, high))
        if self.kind == "log_uniform":
            value = min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)  # exp and log round
            return round(value) if whole else value
        while True:
            value = rng.normal(self.first, self.second)
            value = round(value) if whole else float(value)
            if self.mechanic.low <= value <= self.mechanic.high:
                return value


def parse(where: str, mechanic: Mechanic, value: Any) -> Value | RandomValue:
    """``value`` of ``mechanic`` of the task ``where``: a number or a distribution; raises GraftError if not allowed."""
    if not isinstance(value, Mapping):
        return mechanic.check(where, value)
    named = f"{where}: {mechanic.name}={dict(value)!r} is not allowed"
    if isinstance(mechanic.default, bool | str):
        raise GraftError(f"{named}; it is {mechanic.range} and can't be drawn.")
    for key in value:
        if key not in DISTRIBUTIONS and key != EVERY:
            raise unknown(f"distribution of {mechanic.name} of {where}", str(key), [*DISTRIBUTIONS, EVERY])
    kinds = [key for key in value if key != EVERY]
    if len(kinds) != 1:
        forms = ", ".join(f"{{{kind}: {numbers}}}" for kind, (numbers, _) in DISTRIBUTIONS.items())
        raise GraftError(f"{named}; give one of {forms}.")
    first, second = _pair(named, kinds[0], value[kinds[0]])
    every = value.get(EVERY)
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise GraftError(f"{named}; {EVERY} is a whole number of steps from 1.")
    _fits(named, mechanic, kinds[0], first, second)
    return RandomValue(mechanic, kinds[0], first, second, every)


def _pair(named: str, kind: str, numbers: Any) -> tuple[float, float]:
    fits = isinstance(numbers, list | tuple) and len(numbers) == 2
    if not fits or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise GraftError(f"{named}; {kind} takes two numbers, {DISTRIBUTIONS[kind][0]}.")
    return float(numbers[0]), float(numbers[1])


def _fits(named: str, mechanic: Mechanic, kind: str, first: float, second: float) -> None:
    """Raise GraftError where the distribution would leave the mechanic's range, or is none."""
    low, high = mechanic.low, mechanic.high
    within = f"{mechanic.name} is within {mechanic.range} ({mechanic.meaning})"
    if kind == "gaussian":
        if not low <= first <= high:
            raise GraftError(f"{named}; the mean is {first:g}, but {within}.")
        if not 0 <= second <= high - low:  # above it, most draws would be thrown away
            raise GraftError(f"{named}; the standard deviation is {second:g}, but it is within 0 to {high - low:g}.")
        return
    if not low <= first <= second <= high:
        least = "from low to high, and " if not first <= second else ""
        raise GraftError(f"{named}; {least}{within}.")
    if kind == "log_uniform" and first <= 0:
        raise GraftError(f"{named}; log_uniform needs numbers above 0.")
    if isinstance(mechanic.default, int) and not (first.is_integer() and second.is_integer()):
        raise GraftError(f"{named}; {mechanic.name} is a whole number, and so are its limits.")


class Randomisation:
    """The values of one environment's mechanics.

    Each mechanic has a random stream of its own, from the environment's seed and the mechanic's name: draws influence
    neither each other nor the simulator.

    Attributes:
        values: name -> its value now. drawn: name -> distribution. recurring: whether values change within episodes.
    """

    def __init__(self, settings: Mapping[str, Value | RandomValue]) -> None:
        self.drawn = {name: s for name, s in settings.items() if isinstance(s, RandomValue)}
        self._intervals = {name: s.every for name, s in self.drawn.items() if s.every is not None}
        self.recurring = bool(self._intervals)
        self.values: dict[str, Any] = {
            name: s.mechanic.default if isinstance(s, RandomValue) else s for name, s in settings.items()
        }
        self._steps = 0
        self.seed(None)

    def seed(self, seed: int | None) -> None:
        """Start all streams anew; None takes a seed from the system."""
        self._seed = int(np.random.SeedSequence().entropy) if seed is None else int(seed)  # type: ignore[arg-type]
        self._streams: dict[str, Rng] = {}

    def stream(self, name: str) -> Rng:
        if name not in self._streams:
            self._streams[name] = np.random.default_rng([self._seed, crc32(name.encode())])
        return self._streams[name]

    def reset(self) -> None:
        self._steps = 0
        for name, distribution in self.drawn.items():
            self.values[name] = distribution.sample(self.stream(name))

    def advance(self) -> bool:
        """After a step: draw what is due; returns whether anything was."""
        self._steps += 1
        due = [name for name, every in self._intervals.items() if self._steps % every == 0]
        for name in due:
            self.values[name] = self.drawn[name].sample(self.stream(name))
        return bool(due)
