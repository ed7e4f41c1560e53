"""Gymnasium environments of other people as a batch, in this process or in others; one that fails is made again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from graft.envs.core.faults import FaultLog, FaultRules, Faults, checks_bounds
from graft.envs.supervision.restarts import Failure, Restarts, Wrong, attempts, derived_seed, failure_of
from graft.envs.supervision.subprocesses import Played, Reset, Subprocesses, answer, sendable

Array = NDArray[Any]
Bools = NDArray[np.bool_]
SingleEnv = gym.Env[Any, Any]
_NDARRAY = np.ndarray

TOLERANCE = 1e-3
"""How far beyond its bounds a real number may be, as a share of the width between them: rounding, or a limit that a
simulator enforces a step late."""


class Group(Protocol):
    """The environments of a batch, wherever they run: `EnvGroup`, or several of them (`graft.envs.supervision.subprocesses`)."""

    def play(self, which: Sequence[int], actions: Any, shown: Array) -> Played:
        """Step the environments ``which``; ``actions`` has one for each environment, ``shown`` takes what they show."""

    def begin(self, resets: Sequence[Reset], shown: Array) -> dict[int, Failure]:
        """Begin episodes; ``shown`` takes what the environments show. Returns the failures by environment."""

    def attribute(self, name: str) -> list[Any]:
        """The attribute ``name`` of every environment, from the outermost of its wrappers that has it."""

    def render(self) -> list[Any]:
        """What each environment renders."""

    def close(self) -> None:
        """Close every environment, as far as they let themselves be closed."""


class EnvGroup(gym.Env[Any, Any]):
    """Environments stepped one after the other in one process; a failure is returned instead of raised.

    For `gymnasium.vector.AsyncVectorEnv` it is itself one environment, with batches (k, ...) as observations, actions
    and rewards. Its environments are made in the first reset, in the process that then has them.

    Args:
        make: makes one of them.
        check: what is shown, under ``key`` where observations are dictionaries.
        actions: the space of one environment's actions.
        count: how many, k.
    """

    metadata: dict[str, Any] = {}  # noqa: RUF012 - of its own, as AsyncVectorEnv writes into it

    def __init__(
        self,
        make: Callable[[], SingleEnv],
        check: ObservationCheck,
        key: str | None,
        actions: gym.Space[Any],
        count: int,
    ) -> None:
        self._restarts = Restarts(make)
        self.envs: list[SingleEnv] = self._restarts.envs
        self._count, self._check, self._key = count, check, key
        self.observation_space = batch_space(check.space, count)
        self.action_space = gym.spaces.Tuple((batch_space(actions, count), gym.spaces.MultiBinary(count)))
        self._shown = np.zeros((count, *check.shape), check.dtype)

    def open(self) -> None:
        """Make the environments, where that was not done."""
        self._restarts.grow(self._count)

    def play(self, which: Sequence[int], actions: Any, shown: Array) -> Played:
        """See `Group`."""
        count = self._count
        rewards, terminated, truncated = np.zeros(count), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        envs, key, shape, dtype = self.envs, self._key, self._check.shape, self._check.dtype
        failures: dict[int, Failure] = {}
        for i in which:  # few calls: this runs as often as the environments themselves
            try:
                obs, reward, terminated[i], truncated[i], _ = envs[i].step(actions[i])
                if not isfinite(reward):
                    raise Wrong("not_finite", f"the reward is {reward}")
                rewards[i] = reward
                if key is not None or type(obs) is not _NDARRAY or obs.dtype is not dtype or obs.shape != shape:
                    obs = self._fitting(obs)
                shown[i] = obs
            except (Exception, SystemExit) as error:
                failures[i] = failure_of(error)
        return rewards, terminated, truncated, failures

    def begin(self, resets: Sequence[Reset], shown: Array) -> dict[int, Failure]:
        """See `Group`."""
        given = {i: (again, keywords) for i, again, keywords in resets}

        def reset_one(i: int) -> None:
            again, keywords = given[i]
            if again:
                self._restarts.again(i)
            shown[i] = self._fitting(self.envs[i].reset(**keywords)[0])

        return attempts(reset_one, given)

    def step(self, action: Any) -> Any:
        """`play`, as `AsyncVectorEnv` asks for it."""
        actions, playing = action
        rewards, terminated, truncated, failures = self.play(np.flatnonzero(playing).tolist(), actions, self._shown)
        return self._shown, rewards, terminated, truncated, {"failures": sendable(failures)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """`begin`, as `AsyncVectorEnv` asks for it."""
        resets: list[Reset] = (options or {})["resets"]
        if not self.envs:  # all are new
            resets = [(i, False, keywords) for i, _, keywords in resets]
        try:
            self.open()
        except (Exception, SystemExit) as error:
            failures = dict.fromkeys((i for i, *_ in resets), failure_of(error))
        else:
            failures = self.begin(resets, self._shown)
        return self._shown, {"failures": sendable(failures)}

    def ask(self, name: str, *args: Any) -> tuple[Any, BaseException | None]:
        """The method ``name``, as another process asks for it."""
        return answer(getattr(self, name), *args)

    def attribute(self, name: str) -> list[Any]:
        """See `Group`."""
        return [env.get_wrapper_attr(name) for env in self.envs]

    def render(self) -> list[Any]:
        """See `Group`."""
        return [env.render() for env in self.envs]

    def close(self) -> None:
        """See `Group`."""
        self._restarts.close()

    def _fitting(self, obs: Any) -> Any:
        return self._check.fitting(obs if self._key is None else obs[self._key])


class SupervisedBatch:
    """The environments of a batch, and what each showed last.

    A step or a reset that fails is counted, and the environment is closed and made again before its next reset, whose
    seed comes from its first seed and the number of its restarts. What comes out does not depend on where the
    environments run.

    Attributes:
        first: one of them, for its spaces and attributes; not of the batch where they run in other processes.
        num_envs: N. envs: those that run in this process.
        raw: what each showed last, (N, ...).

    Args:
        make: makes one of them.
        num_envs: how many, N.
        task: id, for messages.
        seed: environment i's first seed is ``seed + i``.
        rules: of faults. With a ``step_timeout`` every environment has a process of its own, which can be ended.
        workers: processes to spread the environments over; 1 is for none but this one.
    """

    def __init__(
        self, make: Callable[[], SingleEnv], num_envs: int, task: str, seed: int, rules: FaultRules, workers: int = 1
    ) -> None:
        self._make, self.num_envs, self._task = make, num_envs, task
        self._log, self._timeout = FaultLog(task, rules), rules.step_timeout
        self._bases = [seed + i for i in range(num_envs)]
        self._counts = [0] * num_envs  # how often each was made again
        self._broken: set[int] = set()  # are to be made again
        self._strict = checks_bounds(rules, task)
        self._processes = num_envs if rules.step_timeout is not None else min(workers, num_envs)
        self._spread = rules.step_timeout is not None or self._processes > 1
        self._group: Group | None = None
        self.first: Any = make()
        self.envs: list[SingleEnv] = []

    def show(self, space: gym.Space[Any], key: str | None = None) -> None:
        """Say what is shown: observations of ``space``, under ``key`` where they are dictionaries."""
        self._check = ObservationCheck(space, self._strict)
        self._checks = self._check.checks
        self.raw = self._next = np.zeros((self.num_envs, *self._check.shape), self._check.dtype)
        if self._checks:
            self._next = self.raw.copy()
            # Not broadcast: that takes longer than the comparison itself.
            self._all_low, self._all_high = (
                np.array(np.broadcast_to(x, self.raw.shape)) for x in (self._check.low, self._check.high)
            )
        group = partial(EnvGroup, self._make, self._check, key, self.first.action_space)
        if self._spread:
            self._group = Subprocesses(group, self.num_envs, self._processes, self._task, self._timeout)
            with contextlib.suppress(Exception):
                self.first.close()
        else:
            here = group(self.num_envs)
            here.envs.append(self.first)
            here.open()
            self._group, self.envs = here, here.envs

    @property
    def faults(self) -> Faults:
        """So far."""
        return self._log.faults

    def attribute(self, name: str) -> list[Any]:
        """The attribute ``name`` of every environment."""
        assert self._group is not None
        return [self.first.get_wrapper_attr(name) if x is None else x for x in self._group.attribute(name)]

    def render(self) -> tuple[Any, ...]:
        """What each environment renders."""
        assert self._group is not None
        return tuple(self._group.render())

    def step(self, which: Sequence[int], actions: Any) -> tuple[NDArray[np.float64], Bools, Bools]:
        """Step the environments ``which``; a failure truncates the episode, pays 0 and shows what was shown last.

        Args:
            actions: (N, ...), one for each environment of the batch.
        Returns:
            Rewards, terminated and truncated, (N,).
        Raises:
            TooManyFaults: more than the rules bear.
        """
        assert self._group is not None
        shown = self._next
        if self._checks and len(which) < self.num_envs:
            shown[...] = self.raw
        rewards, terminated, truncated, failures = self._group.play(which, actions, shown)
        self._log.passed(len(which))
        truncated &= ~terminated  # Gymnasium's time limits set it whatever else the last step did
        for i in failures:
            self._next[i] = self.raw[i]
        if self._checks and not _within(self._next, self._all_low, self._all_high):
            found = {i: self._check.failure(self._next[i]) for i in which if i not in failures}
            failures |= {i: failure for i, failure in found.items() if failure is not None}
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
        assert self._group is not None
        todo: Sequence[tuple[int, dict[str, Any]]] = [(i, {}) for i in which]
        if seeds is not None:
            todo = [(i, {"seed": seeds[i], "options": options}) for i in which]
            for i in which:
                seed = seeds[i]
                if seed is not None:  # what follows depends on nothing that came before
                    self._bases[i], self._counts[i] = seed, 0
        while todo:
            failures = self._group.begin([self._reset(i, given) for i, given in todo], self._next)
            doubtful, again = self._checks and not _within(self._next, self._all_low, self._all_high), []
            for i, given in todo:
                self._broken.discard(i)
                failure = failures.get(i) or (self._check.failure(self._next[i]) if doubtful else None)
                if failure is None:
                    self.raw[i] = self._next[i]
                else:
                    self._fail(i, "reset", failure)
                    again.append((i, {**given, "seed": None}))
            if again:
                self._log.check()
            todo = again

    def close(self) -> None:
        """Close every environment, as far as they let themselves be closed."""
        if self._group is None:
            self.first.close()
        else:
            self._group.close()

    def _reset(self, i: int, given: dict[str, Any]) -> Reset:
        """How the reset of environment i goes: after a failure, with a seed that follows from its first."""
        if i not in self._broken:
            return i, False, given
        self._counts[i] += 1
        if given.get("seed") is None:
            given = {**given, "seed": derived_seed(self._bases[i], self._counts[i])}
        return i, True, given

    def _fail(self, i: int, doing: str, failure: Failure) -> None:
        """Count a failure of environment i in its step or reset; before its next reset it is made again."""
        self._broken.add(i)
        self._log.add(failure.kind, f"environment {i} in its {doing}: {failure.text}", failure.error)


class ObservationCheck:
    """What observations of a space have to be.

    Attributes:
        space: of one observation. shape, dtype: the space's.
        low, high: lowest and highest values that are no fault (`limits`).
        checks: whether numbers that fit can still be a fault.

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

    def failure(self, row: Array) -> Failure | None:
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
