"""Third-party Gymnasium environments as a batch, in this process or in others; one that fails is made again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from graft.envs.core.action_masks import MASK
from graft.envs.core.faults import FaultLog, FaultRules, Faults, checks_bounds
from graft.envs.supervision.interface import NUMBERS, UNSAID, WrongInterface, first_pair, scalar_reward, step_error
from graft.envs.supervision.observation_check import Array, ObservationCheck, within
from graft.envs.supervision.restarts import (
    EnvFailure,
    RestartableEnvs,
    attempts,
    derived_seed,
    failure_of,
)
from graft.envs.supervision.subprocesses import Begun, Bools, ProcessGroup, Reset, Steps, ask
from graft.errors import GraftError

SingleEnv = gym.Env[Any, Any]
_NDARRAY = np.ndarray


class EnvGroup(RestartableEnvs):
    """Environments stepped one after the other in one process; failures are returned instead of raised.

    Args:
        make: makes one of them, at its first reset. check: of observations. weights: of rewards that are arrays.
        obs: (count, ...), takes observations where a call gives no other array.
        masks_unsaid: whether infos with an action mask are an error, as nobody said what becomes of it.
    """

    def __init__(
        self,
        make: Callable[[], SingleEnv],
        check: ObservationCheck,
        weights: tuple[float, ...] | None,
        count: int,
        obs: Array,
        masks_unsaid: bool = False,
    ) -> None:
        super().__init__(make, count)
        self._check, self._weights, self._obs, self._masks_unsaid = check, weights, obs, masks_unsaid

    def step(self, which: Sequence[int], actions: Any, shown: Array | None = None) -> Steps:
        """Step the environments ``which`` with an action each; ``shown`` takes their observations.

        Rewards and flags are those of the step where it returned some, whatever is wrong with its observation.
        """
        count, shown = len(self.envs), self._obs if shown is None else shown
        rewards, terminated, truncated = np.zeros(count), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        envs, check, weights = self.envs, self._check, self._weights
        packs, shape, dtype, numbers = check.packs, check.shape, check.dtype, NUMBERS if weights is None else ()
        failures: dict[int, EnvFailure] = {}
        for i, action in zip(which, actions, strict=True):  # few calls: this runs as often as the environments
            try:
                obs, reward, terminated[i], truncated[i], _ = envs[i].step(action)
                if type(reward) not in numbers:
                    reward = scalar_reward(reward, weights)
                if not isfinite(reward):
                    raise EnvFailure("not_finite", f"the reward is {reward}")
                rewards[i] = reward
                if packs or type(obs) is not _NDARRAY or obs.dtype is not dtype or obs.shape != shape:
                    obs = check.fitting(obs)
                shown[i] = obs
            except (Exception, SystemExit) as error:
                failures[i] = failure_of(step_error(error))
        return rewards, terminated, truncated, failures, check.clips.take()

    def reset(self, which: Sequence[int], resets: Sequence[Reset], shown: Array | None = None) -> Begun:
        """Begin episodes of the environments ``which``; ``shown`` takes their observations."""
        shown, given = self._obs if shown is None else shown, dict(zip(which, resets, strict=True))

        def reset_one(i: int) -> None:
            again, keywords = given[i]
            if again or self.envs[i] is None:
                self.restart(i)
            obs, info = first_pair(self.envs[i], keywords)
            if self._masks_unsaid and info is not None and MASK in info:
                raise WrongInterface(UNSAID)
            shown[i] = self._check.fitting(obs)

        return attempts(reset_one, given), self._check.clips.take()

    def attribute(self, name: str) -> list[Any]:
        """The attribute ``name`` of every environment, from the outermost of its wrappers that has it."""
        return [None if env is None else env.get_wrapper_attr(name) for env in self.envs]

    def render(self) -> list[Any]:
        return [env.render() for env in self.envs]


def _wrapped(make: Callable[[], SingleEnv], around: Callable[[Any], SingleEnv]) -> SingleEnv:
    return around(make())


class SupervisedBatch:
    """The environments of a batch, in this process or in others, and their last observations ``raw`` (N, ...).

    A step or a reset that fails is counted, and the environment is made again before its next reset, whose seed comes
    from its first seed and the number of its restarts. Results do not depend on where environments run.

    Attributes:
        first: one of them, for its spaces and attributes. envs: those that run in this process.
        strict: of the `ObservationCheck` that `start` takes. masks_unsaid: see `EnvGroup`; read by `start`.

    Args:
        make: makes one of them. num_envs: how many, N. task: id, for messages.
        seed: environment i's first seed is ``seed + i``.
        rules: of faults. With a ``step_timeout`` every environment has a process of its own, which can be ended.
        workers: processes to spread the environments over; 1 is for none but this one.
        weights: of rewards that are arrays: their weighted sum is the reward.
    """

    def __init__(
        self,
        make: Callable[[], SingleEnv],
        num_envs: int,
        task: str,
        seed: int,
        rules: FaultRules,
        workers: int = 1,
        weights: tuple[float, ...] | None = None,
    ) -> None:
        self._make, self.num_envs, self._task = make, num_envs, task
        self._log, self._timeout = FaultLog(task, rules), rules.step_timeout
        self._seeds = [seed + i for i in range(num_envs)]
        self._restarts = [0] * num_envs
        self._broken: set[int] = set()  # to be made again
        self.strict, self._weights = checks_bounds(rules, task), weights
        self.masks_unsaid = False
        self._processes = num_envs if rules.step_timeout is not None else min(workers, num_envs)
        self._group: Any = None  # an EnvGroup or a ProcessGroup
        self.first: Any = make()
        self.envs: list[SingleEnv] = []

    def wrap(self, around: Callable[[Any], SingleEnv]) -> None:
        """Put every environment into a wrapper, before `start`."""
        self._make = partial(_wrapped, self._make, around)
        self.first = around(self.first)

    def ask(self, question: Callable[[Callable[[], SingleEnv]], Any]) -> Any:
        """What ``question`` says of the function that makes environments, or None where it does not answer in time."""
        return ask(question, self._make, self._task, self._timeout)

    def start(self, check: ObservationCheck) -> None:
        """Make the environments, whose observations ``check`` puts into arrays."""
        self._check = check
        self.raw = self._next = np.zeros((self.num_envs, *check.shape), check.dtype)
        if check.checks:
            self._next = self.raw.copy()
            # Not broadcast: that takes longer than the comparison itself.
            low, high = (np.array(np.broadcast_to(x, self.raw.shape)) for x in (check.low, check.high))
            self._limits = [tuple(x.reshape(self.num_envs, -1)[:, span] for x in (low, high)) for span in check.spans]
        group = partial(EnvGroup, self._make, check, self._weights, masks_unsaid=self.masks_unsaid)
        if self._processes > 1 or self._timeout is not None:
            self._group = ProcessGroup(group, check.space, self.num_envs, self._processes, self._task, self._timeout)
            with contextlib.suppress(Exception):
                self.first.close()
        else:
            self._group = here = group(self.num_envs, self.raw)
            self.envs = here.envs
            self.envs[0] = self.first
            for i in range(1, self.num_envs):
                here.restart(i)

    @property
    def faults(self) -> Faults:
        return self._log.faults

    def attribute(self, name: str) -> list[Any]:
        """The attribute ``name`` of every environment; of those that do not run, that of ``first``."""
        return [self.first.get_wrapper_attr(name) if x is None else x for x in self._group.attribute(name)]

    def render(self) -> tuple[Any, ...]:
        return tuple(self._group.render())

    def step(self, which: Sequence[int], actions: Any) -> tuple[NDArray[np.float64], Bools, Bools]:
        """Step the environments ``which``.

        A failure ends the episode with the last observation and what the step gave beside the fault: its reward, and
        whether it terminated; else reward 0, and the episode is truncated.

        Args:
            actions: (N, ...), one for each environment of the batch.
        Returns:
            Rewards, terminated and truncated, (N,).
        Raises:
            TooManyFaults: more than the rules allow.
            GraftError: an environment of another interface.
        """
        if len(which) < self.num_envs:
            actions = actions[list(which)]
            if self._check.checks:
                self._next[...] = self.raw
        rewards, terminated, truncated, failures, clipped = self._group.step(which, actions, self._next)
        self._log.count_steps(len(which))
        truncated &= ~terminated  # Gymnasium's time limits set it whatever else the last step did
        for i in failures:
            self._next[i] = self.raw[i]
        self._check_values(which, failures, clipped)
        for i, failure in failures.items():
            self._next[i] = self.raw[i]
            truncated[i] = not terminated[i]
            self._count(i, "step", failure)
        self.raw, self._next = self._next, self.raw
        if failures:
            self._log.check()
        return rewards, terminated, truncated

    def reset(self, which: Sequence[int], seeds: Sequence[int | None] | None = None, options: Any = None) -> None:
        """Fresh episodes of the environments ``which``; raises TooManyFaults.

        Args:
            seeds: one for each environment of the batch; where None, its random numbers go on.
        """
        given: dict[int, dict[str, Any]] = {i: {} for i in which}
        if seeds is not None:
            given = {i: {"seed": seeds[i], "options": options} for i in which}
            for i in which:
                seed = seeds[i]
                if seed is not None:  # what follows depends on nothing that came before
                    self._seeds[i], self._restarts[i] = seed, 0
        while given:
            resets = [self._reset(i, own) for i, own in given.items()]
            failures, clipped = self._group.reset(list(given), resets, self._next)
            self._broken -= set(given)
            self._check_values(list(given), failures, clipped)
            for i in given:
                if i in failures:
                    self._count(i, "reset", failures[i])
                else:
                    self.raw[i] = self._next[i]
            if failures:
                self._log.check()
            given = {i: {**own, "seed": None} for i, own in given.items() if i in failures}

    def close(self) -> None:
        (self._group or self.first).close()

    def _check_values(self, which: Sequence[int], failures: dict[int, EnvFailure], clipped: tuple[int, str]) -> None:
        """Clip the numbers of observations that fit, or add their failures where they are a fault.

        ``clipped``: how many were clipped before, and the first in words.
        """
        check, log = self._check, self._log
        if clipped[0]:
            log.clip(*clipped)
        if not check.checks:
            return
        rows = self._next.reshape(self.num_envs, -1)
        if all(within(rows[:, span], *ends) for span, ends in zip(check.spans, self._limits, strict=True)):
            return
        for i in which:
            try:
                if i not in failures:
                    self._next[i] = check.bounded(self._next[i])
            except EnvFailure as failure:
                failures[i] = failure
        if check.clips.count:
            log.clip(*check.clips.take())

    def _reset(self, i: int, given: dict[str, Any]) -> Reset:
        """How the reset of environment i goes: after a failure, with a seed that follows from its first."""
        if i not in self._broken:
            return False, given
        self._restarts[i] += 1
        if given.get("seed") is None:
            given = {**given, "seed": derived_seed(self._seeds[i], self._restarts[i])}
        return True, given

    def _count(self, i: int, doing: str, failure: EnvFailure) -> None:
        if isinstance(failure.error, WrongInterface):
            raise GraftError(f"Task '{self._task}' cannot be played: {failure.error}.") from failure.error
        self._broken.add(i)
        self._log.add(failure.kind, f"environment {i} in its {doing}: {failure.text}", failure.error)
