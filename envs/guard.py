"""Gymnasium environments of other people, stepped one after the other; one that fails is made again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.faults import FaultLog, FaultRules, Faults, outside_counts
from envs.watchdog import Failure, Watch

Array = NDArray[Any]
Bools = NDArray[np.bool_]
SingleEnv = gym.Env[Any, Any]
_NDARRAY = np.ndarray

PATIENCE = 5
"""How much longer than a step a reset may take, or making the environment."""

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
        self.envs: list[SingleEnv] = []
        self._make, self._watch, self._log = make, Watch(rules.step_timeout), FaultLog(task, rules)
        self._bases = [seed + i for i in range(num_envs)]
        self._restarts = [0] * num_envs
        self._broken: dict[int, SingleEnv | None] = {}  # i -> what is to be closed before it is made again
        self._strict = outside_counts(rules, task)
        self.envs.extend(make() for _ in range(num_envs))

    def show(self, space: gym.Space[Any], key: str | None = None) -> None:
        """Say what is shown: observations of ``space``, under ``key`` where they are dictionaries."""
        self._key, self._shape = key, space.shape or ()
        self._dtype = np.dtype(space.dtype)
        self.raw = self._next = np.zeros((len(self.envs), *self._shape), self._dtype)
        self._low, self._high = limits(space, self._strict)
        whole = np.iinfo(self._dtype) if self._dtype.kind in "iu" else None
        # All numbers that bytes can hold are allowed in most images: nothing to look at.
        narrower = whole is not None and bool(np.any(self._low > whole.min) or np.any(self._high < whole.max))
        self._checks = self._dtype.kind == "f" or (self._strict and narrower)
        if self._checks:
            self._next = self.raw.copy()
            # Not broadcast: that takes longer than the comparison itself.
            self._all_low, self._all_high = (
                np.array(np.broadcast_to(x, self.raw.shape)) for x in (self._low, self._high)
            )

    @property
    def faults(self) -> Faults:
        """So far."""
        return self._log.faults

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
        envs, shown, key, shape, dtype = self.envs, self._next, self._key, self._shape, self._dtype

        def step_one(i: int) -> None:  # a closure and few calls: this runs as often as the environments themselves
            obs, reward, terminated[i], truncated[i], _ = envs[i].step(actions[i])
            if not isfinite(reward):
                raise _Wrong("not_finite", f"the reward is {reward}")
            rewards[i] = reward
            if key is not None or type(obs) is not _NDARRAY or obs.dtype is not dtype or obs.shape != shape:
                obs = self._fitting(obs)
            shown[i] = obs

        if self._checks and len(which) < count:
            shown[...] = self.raw
        failures = {which[k]: failure for k, failure in self._watch.sweep(step_one, which).items()}
        self._log.passed(len(which))
        for i in failures:
            self._next[i] = self.raw[i]
        if self._checks and not _within(self._next, self._all_low, self._all_high):
            failures |= {i: found for i in which if i not in failures and (found := self._complaint(i)) is not None}
        for i, failure in failures.items():
            self._next[i] = self.raw[i]
            rewards[i], terminated[i], truncated[i] = 0.0, False, True
            self._fail(i, "step", failure)
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
                    self._bases[i], self._restarts[i] = seed, 0
        while todo:
            failures, again = self._watch.sweep(self._reset_one, todo, PATIENCE), []
            doubtful = self._checks and not _within(self._next, self._all_low, self._all_high)
            for k, (i, given) in enumerate(todo):
                failure = failures.get(k) or (self._complaint(i) if doubtful else None)
                if failure is None:
                    self.raw[i] = self._next[i]
                    self._broken.pop(i, None)
                else:
                    self._fail(i, "reset", failure)
                    again.append((i, {**given, "seed": None}))
            if again:
                self._log.check()
            todo = again

    def close(self) -> None:
        """Close every environment, as far as they let themselves be closed."""
        self._watch.sweep(_close, self.envs)
        self._watch.close()

    def _reset_one(self, item: tuple[int, dict[str, Any]]) -> None:
        i, given = item
        if i in self._broken:
            self._remake(i)
            given = {**given, "seed": self._derived(i) if given.get("seed") is None else given["seed"]}
        self._next[i] = self._fitting(self.envs[i].reset(**given)[0])

    def _remake(self, i: int) -> None:
        old, self._broken[i] = self._broken[i], None  # once only: closing may be what hangs
        if old is not None:
            with contextlib.suppress(Exception):
                _close(old)
        self._restarts[i] += 1
        self.envs[i] = self._make()

    def _derived(self, i: int) -> int:
        """The seed of the latest restart, in [0, 2**31)."""
        return int(np.random.SeedSequence([self._bases[i], self._restarts[i]]).generate_state(1, np.uint32)[0] >> 1)

    def _fail(self, i: int, doing: str, failure: Failure) -> None:
        self._broken[i] = self.envs[i]
        kind, text = failure.kind, failure.text
        if isinstance(failure.error, _Wrong):
            kind, text = failure.error.kind, failure.error.text
        self._log.add(kind, f"environment {i} in its {doing}: {text}", failure.error)

    def _fitting(self, obs: Any) -> Any:
        """The observation that is shown, of a shape and dtype that can be kept.

        Raises:
            _Wrong: it can't.
        """
        shown = obs if self._key is None else obs[self._key]
        if type(shown) is np.ndarray and shown.shape == self._shape and shown.dtype == self._dtype:
            return shown
        values = np.asarray(shown)
        if values.dtype.kind not in "biuf":
            raise _Wrong("outside", f"the observation is a {type(shown).__name__}, its space has {self._dtype} numbers")
        if not self._strict:
            with contextlib.suppress(ValueError):
                return self._cast(np.broadcast_to(values, self._shape))
        if values.shape != self._shape:
            raise _Wrong("outside", f"the observation has shape {values.shape}, its space has {self._shape}")
        if values.dtype.kind == "f" and self._dtype.kind != "f":
            raise _Wrong("outside", f"the observation is of {values.dtype}, its space of {self._dtype}")
        # Before it is cast: 300 would become a byte, 44.
        if self._dtype.kind != "f" and not _within(values, self._low, self._high):
            raise _Wrong("outside", _beyond(values, self._low, self._high))
        return self._cast(values)

    def _cast(self, values: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is found later
            return values.astype(self._dtype)

    def _complaint(self, i: int) -> Failure | None:
        """What is wrong with the numbers that environment i shows now."""
        row = self._next[i]
        if _within(row, self._low, self._high):
            return None
        if self._dtype.kind == "f" and not np.isfinite(row).all():
            place = np.argwhere(~np.isfinite(row))[0].tolist()
            return Failure("not_finite", f"observation{place or ''} is {row[tuple(place)]}")
        return Failure("outside", _beyond(row, self._low, self._high))


class _Wrong(Exception):
    """What an environment gave that can't be used."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


def _close(env: SingleEnv) -> None:
    env.close()  # type: ignore[no-untyped-call]


def limits(space: gym.Space[Any], strict: bool = True) -> tuple[Array, Array]:
    """Lowest and highest values that are no fault, in the space's dtype: finite ones, and with ``strict`` its own."""
    dtype = np.dtype(space.dtype)
    if isinstance(space, gym.spaces.Discrete):
        return np.array(space.start, dtype), np.array(int(space.start) + int(space.n) - 1, dtype)
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
