"""Gymnasium environments of other people, stepped one after the other; one that fails is made again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.faults import FaultRules, Faults, outside_counts
from envs.restarts import PATIENCE, Restarts, Wrong, derived_seed
from envs.watchdog import Failure

Array = NDArray[Any]
Bools = NDArray[np.bool_]
SingleEnv = gym.Env[Any, Any]
_NDARRAY = np.ndarray

TOLERANCE = 1e-3
"""How far beyond its bounds a real number may be, as a share of the width between them: rounding, or a limit that a
simulator enforces a step late."""


class Guarded:
    """The environments of a batch, and what each showed last.

    A step or a reset that fails is counted, and the environment is closed and made again before its next reset, whose
    seed comes from its first seed and the number of its restarts.

    Args:
        make: makes one of them.
        num_envs: how many.
        task: id, for messages.
        seed: environment i's first seed is ``seed + i``.
        rules: of faults.
    """

    def __init__(self, make: Callable[[], SingleEnv], num_envs: int, task: str, seed: int, rules: FaultRules) -> None:
        self._restarts = Restarts(make, task, rules)
        self.envs: list[SingleEnv] = self._restarts.envs
        self._watch, self._log = self._restarts.watch, self._restarts.log
        self._bases = [seed + i for i in range(num_envs)]
        self._strict = outside_counts(rules, task)
        self._restarts.grow(num_envs)

    def show(self, space: gym.Space[Any], key: str | None = None) -> None:
        """Say what is shown: observations of ``space``, under ``key`` where they are dictionaries."""
        self._key, self._sight = key, Sight(space, self._strict)
        self._checks = self._sight.checks
        self.raw = self._next = np.zeros((len(self.envs), *self._sight.shape), self._sight.dtype)
        if self._checks:
            self._next = self.raw.copy()
            # Not broadcast: that takes longer than the comparison itself.
            self._all_low, self._all_high = (
                np.array(np.broadcast_to(x, self.raw.shape)) for x in (self._sight.low, self._sight.high)
            )

    @property
    def faults(self) -> Faults:
        """So far."""
        return self._log.faults

    def part_of(self, first: int, whole: int) -> FaultRules:
        """Be a part of a batch of ``whole`` environments that begins with its environment ``first``; the batch's rules.

        Messages count environments as the batch does, and the rules' window shrinks to this part's share.
        """
        self._restarts.first = first
        return self._log.shrink(len(self.envs) / whole)

    def step(self, which: Sequence[int], actions: Any) -> tuple[NDArray[np.float64], Bools, Bools]:
        """Step the environments ``which``; a failure truncates the episode, pays 0 and shows what was shown last.

        Args:
            actions: (N, ...), one for each environment of the batch.
        Returns:
            Rewards, terminated and truncated, (N,).
        Raises:
            TooManyFaults: more than the rules bear.
        """
        count = len(self.envs)
        rewards, terminated, truncated = (
            np.zeros(count, np.float64),
            np.zeros(count, np.bool_),
            np.zeros(count, np.bool_),
        )
        envs, shown, key, shape, dtype = self.envs, self._next, self._key, self._sight.shape, self._sight.dtype

        def step_one(i: int) -> None:  # a closure and few calls: this runs as often as the environments themselves
            obs, reward, terminated[i], truncated[i], _ = envs[i].step(actions[i])
            if not isfinite(reward):
                raise Wrong("not_finite", f"the reward is {reward}")
            rewards[i] = reward
            if key is not None or type(obs) is not _NDARRAY or obs.dtype is not dtype or obs.shape != shape:
                obs = self._fitting(obs)
            shown[i] = obs

        if self._checks and len(which) < count:
            shown[...] = self.raw
        failures = {which[k]: failure for k, failure in self._watch.sweep(step_one, which).items()}
        self._log.passed(len(which))
        truncated &= ~terminated  # Gymnasium's time limits set it whatever else the last step did
        for i in failures:
            self._next[i] = self.raw[i]
        if self._checks and not _within(self._next, self._all_low, self._all_high):
            found = {i: self._sight.complaint(self._next[i]) for i in which if i not in failures}
            failures |= {i: failure for i, failure in found.items() if failure is not None}
        for i, failure in failures.items():
            self._next[i] = self.raw[i]
            rewards[i], terminated[i], truncated[i] = 0.0, False, True
            self._restarts.fail(i, "step", failure)
        self.raw, self._next = self._next, self.raw
        if failures:
            self._log.check()
        return rewards, terminated, truncated

    def reset(self, which: Sequence[int], seeds: Sequence[int | None] | None = None, options: Any = None) -> None:
        """Fresh episodes of the environments ``which``.

        Args:
            seeds: one for each environment of the batch; where None, it goes on with its own random numbers.
        Raises:
            TooManyFaults: more than the rules bear.
        """
        todo: Sequence[tuple[int, dict[str, Any]]] = [(i, {}) for i in which]
        if seeds is not None:
            todo = [(i, {"seed": seeds[i], "options": options}) for i in which]
            for i in which:
                seed = seeds[i]
                if seed is not None:  # what follows depends on nothing that came before
                    self._bases[i], self._restarts.counts[i] = seed, 0
        while todo:
            failures, again = self._watch.sweep(self._reset_one, todo, PATIENCE), []
            doubtful = self._checks and not _within(self._next, self._all_low, self._all_high)
            for k, (i, given) in enumerate(todo):
                failure = failures.get(k) or (self._sight.complaint(self._next[i]) if doubtful else None)
                if failure is None:
                    self.raw[i] = self._next[i]
                else:
                    self._restarts.fail(i, "reset", failure)
                    again.append((i, {**given, "seed": None}))
            if again:
                self._log.check()
            todo = again

    def close(self) -> None:
        """Close every environment, as far as they let themselves be closed."""
        self._restarts.close()

    def _reset_one(self, item: tuple[int, dict[str, Any]]) -> None:
        i, given = item
        if self._restarts.mend(i) and given.get("seed") is None:
            given = {**given, "seed": derived_seed(self._bases[i], self._restarts.counts[i])}
        self._next[i] = self._fitting(self.envs[i].reset(**given)[0])

    def _fitting(self, obs: Any) -> Any:
        return self._sight.fitting(obs if self._key is None else obs[self._key])


class Sight:
    """What observations of a space have to be.

    Attributes:
        shape, dtype: the space's. low, high: lowest and highest values that are no fault (`limits`).
        checks: whether numbers that fit can still be a fault.

    Args:
        strict: whether values outside the space are faults.
    """

    def __init__(self, space: gym.Space[Any], strict: bool) -> None:
        self.shape, self.dtype, self._strict = space.shape or (), np.dtype(space.dtype), strict
        self.low, self.high = limits(space, strict)
        whole = np.iinfo(self.dtype) if self.dtype.kind in "iu" else None
        # All numbers that bytes can hold are allowed in most images: nothing to look at.
        narrower = whole is not None and bool(np.any(self.low > whole.min) or np.any(self.high < whole.max))
        self.checks = self.dtype.kind == "f" or (strict and narrower)

    def fitting(self, shown: Any) -> Any:
        """The observation ``shown``, in a shape and dtype that can be kept.

        Raises:
            Wrong: it can't.
        """
        if type(shown) is np.ndarray and shown.shape == self.shape and shown.dtype == self.dtype:
            return shown
        values = np.asarray(shown)
        if values.dtype.kind not in "biuf":
            raise Wrong("outside", f"the observation is a {type(shown).__name__}, its space has {self.dtype} numbers")
        if not self._strict:
            with contextlib.suppress(ValueError):
                return self._cast(np.broadcast_to(values, self.shape))
        if values.shape != self.shape:
            raise Wrong("outside", f"the observation has shape {values.shape}, its space has {self.shape}")
        if values.dtype.kind == "f" and self.dtype.kind != "f":
            raise Wrong("outside", f"the observation is of {values.dtype}, its space of {self.dtype}")
        # Before it is cast: 300 would become a byte, 44.
        if self.dtype.kind != "f" and not _within(values, self.low, self.high):
            raise Wrong("outside", _beyond(values, self.low, self.high))
        return self._cast(values)

    def _cast(self, values: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is found later
            return values.astype(self.dtype)

    def complaint(self, row: Array) -> Failure | None:
        """What is wrong with the numbers of an observation that fits."""
        if _within(row, self.low, self.high):
            return None
        if self.dtype.kind == "f" and not np.isfinite(row).all():
            place = np.argwhere(~np.isfinite(row))[0].tolist()
            return Failure("not_finite", f"observation{place or ''} is {row[tuple(place)]}")
        return Failure("outside", _beyond(row, self.low, self.high))


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


def _within(values: Array, low: Array, high: Array) -> bool:
    """Whether all of ``values`` are within the limits, which NaN never is."""
    size = values.size
    return int(np.count_nonzero(values >= low)) == size == int(np.count_nonzero(values <= high))


def _beyond(values: Array, low: Array, high: Array) -> str:
    place = tuple(np.argwhere((values < low) | (values > high))[0].tolist())
    value, least, most = values[place], low[place], high[place]
    named = f"observation{list(place)}" if place else "the observation"
    return f"{named} is {value}, allowed are {least:g} to {most:g}"
