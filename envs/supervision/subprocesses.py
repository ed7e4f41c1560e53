"""Environments in processes of their own, by `gymnasium.vector.AsyncVectorEnv`; one that hangs is ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.utils import batch_space, clear_mpi_env_vars
from numpy.typing import NDArray

from graft.envs.supervision.processes import end_with_parent, one_thread_each
from graft.envs.supervision.restarts import RESET_FACTOR, EnvFailure, attempts, failure_of
from graft.errors import GraftError

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Begun = tuple[dict[int, EnvFailure], tuple[int, str]]
"""Failures by environment; how many observations were clipped, and the first in words."""

Steps = tuple[NDArray[np.float64], Bools, Bools, *Begun]
"""Rewards, terminated and truncated, (N,), then as `Begun`."""

Reset = tuple[bool, dict[str, Any]]  # whether the environment is made again first, and the keywords of its reset
SECONDS_TO_CLOSE = 30.0  # environments that take longer to close are ended with their process
SECONDS_ALONE = 5.0  # how long a process may close its environments after the one that started it is gone
NOTHING: gym.Space[Any] = gym.spaces.MultiBinary(1)  # the observations of an object that has none
STARTS_AT_ONCE = 8  # processes that are started at the same time; each loads its libraries


class _Host(gym.Env[Any, Any]):
    """Runs an object in a process: to `AsyncVectorEnv` an environment whose actions are calls of its methods.

    Args:
        starter: id of the process that starts this one and handles Ctrl-C.
        make: makes the object at the first call, from the array that holds the observation, of ``space``.
    """

    action_space = NOTHING

    def __init__(self, starter: int, make: Callable[[Array], Any], space: gym.Space[Any]) -> None:
        if os.getpid() != starter:  # AsyncVectorEnv makes one in the starter, too, for its spaces
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            end_with_parent(SECONDS_ALONE)
        self.observation_space, self.metadata = space, {}
        self._obs = np.zeros(space.shape or (), space.dtype)
        self._make, self._object = make, None

    def step(self, action: Any) -> Any:
        name, args = action
        answer: tuple[Any, EnvFailure | None]
        try:
            if self._object is None:
                self._object = self._make(self._obs)
            answer = getattr(self._object, name)(*args), None
        except (Exception, SystemExit) as error:
            answer = None, failure_of(error)
        return self._obs, 0.0, False, False, {"answer": answer}


class Subprocess:
    """An object in a process, which can be ended at any time; raises GraftError where the process cannot be started.

    Args:
        make: makes the object in the process, from the array of its observation, which is of ``space``.
    """

    def __init__(self, make: Callable[[Array], Any], task: str, space: gym.Space[Any] = NOTHING) -> None:
        host = partial(_Host, os.getpid(), make, space)
        try:
            self._env = AsyncVectorEnv([host], copy=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
        except (EOFError, ConnectionError) as error:
            raise GraftError(
                f"A process for task '{task}' ended before it was ready; a script that is not imported but run must "
                f"do its work under `if __name__ == '__main__':`."
            ) from error
        except Exception as error:  # of pickling, of many kinds
            raise GraftError(f"Task '{task}' cannot be made in another process ({error}); use workers=1.") from error
        self.runs = True

    @property
    def obs(self) -> Any:
        shared: Any = self._env.observations
        return shared[0]

    def send(self, name: str, *args: Any) -> None:
        """Call the method ``name`` of the object; raises EnvFailure where the process has ended."""
        if not self.runs:
            raise EnvFailure("raised", "its process has ended")
        try:
            self._env.step_async([(name, args)])  # type: ignore[arg-type]
        except OSError as error:
            raise self._died() from error
        except BaseException:  # what it would answer next is not known
            self.end()
            raise

    def receive(self, deadline: float | None, limit: float | None) -> Any:
        """The answer; at ``deadline``, which is ``limit`` seconds after the call, the process is ended.

        Raises:
            EnvFailure: there is none, or the call failed.
        """
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            value, failure = self._env.step_wait(remaining)[4]["answer"][0]
        except multiprocessing.TimeoutError:
            self.end()
            raise EnvFailure("hung", f"no answer within {limit:g} s") from None
        except (EOFError, OSError) as error:
            raise self._died() from error
        except BaseException:  # such as Ctrl-C: an answer would come that nothing waits for
            self.end()
            raise
        if failure is not None:
            raise failure
        return value

    def ask(self, limit: float, name: str, *args: Any) -> Any:
        """`send` and `receive`; raises what the method raised, or EnvFailure."""
        self.send(name, *args)
        try:
            return self.receive(time.monotonic() + limit, limit)
        except EnvFailure as failure:
            raise failure.error or failure from None

    def end(self) -> None:
        self.runs = False
        for process in self._env.processes:
            process.kill()
            process.join(SECONDS_ALONE)
        for pipe in self._env.parent_pipes:
            if pipe is not None:
                pipe.close()
        self._env.closed = True  # its own closing waits for an answer

    def _died(self) -> EnvFailure:
        process = self._env.processes[0]
        process.join(SECONDS_ALONE)
        code = process.exitcode or 0
        self.end()
        known = code < 0 and -code in set(signal.Signals)
        reason = f"by {signal.Signals(-code).name}" if known else f"with {code}"
        return EnvFailure("raised", f"its process ended {reason}")


class _Asked:
    """Answers questions about what makes environments."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def ask(self, question: Callable[[Callable[[], Any]], Any]) -> Any:
        return question(self._make)


def ask(question: Callable[[Callable[[], Any]], Any], make: Callable[[], Any], task: str, timeout: float | None) -> Any:
    """``question(make)``; where a step has ``timeout`` seconds, in a process that may take as long as a reset.

    None where that gives no answer in time.
    """
    if timeout is None:
        return question(make)
    process = Subprocess(lambda _: _Asked(make), task)
    try:
        return process.ask(RESET_FACTOR * timeout, "ask", question)
    except EnvFailure:
        return None
    finally:
        process.end()


class ProcessGroup:
    """The environments of a batch in processes: the methods of `EnvGroup`, of one in each process.

    Processes start at the first reset after they ended. All environments of one that hangs or dies have failed.

    Args:
        make: makes the `EnvGroup` of a process, from the number and the observations of its environments.
        space: of one observation. num_envs: how many, N. processes: how many, up to N.
        task: id, for messages. timeout: seconds that a step may take, or None.
    Raises:
        GraftError: this process may not start others.
    """

    def __init__(
        self,
        make: Callable[[int, Array], Any],
        space: gym.Space[Any],
        num_envs: int,
        processes: int,
        task: str,
        timeout: float | None,
    ) -> None:
        self._running: dict[int, Subprocess] = {}  # first of all: gymnasium closes what is half made, too
        if multiprocessing.current_process().daemon:
            raise GraftError(
                f"Task '{task}' needs processes for its environments, which a daemonic process may not start; use "
                f"workers=1 and no step_timeout."
            )
        self._ends = [num_envs * k // processes for k in range(processes + 1)]
        self._rows = [slice(first, end) for first, end in pairwise(self._ends)]
        self._make, self._space, self._num_envs, self._task, self._timeout = make, space, num_envs, task, timeout

    def step(self, which: Sequence[int], actions: Any, shown: Array) -> Steps:
        count = self._num_envs
        rewards, terminated, truncated = np.zeros(count), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        answers, failures = self._play("step", which, actions, shown, self._timeout)
        clipped = []
        for k, (earned, died, cut, failed, clips) in answers.items():
            rows = self._rows[k]
            rewards[rows], terminated[rows], truncated[rows] = earned, died, cut
            failures |= {rows.start + i: failure for i, failure in failed.items()}
            clipped.append(clips)
        return rewards, terminated, truncated, failures, _sum_clips(clipped)

    def reset(self, which: Sequence[int], resets: Sequence[Reset], shown: Array) -> Begun:
        self._start({int(np.searchsorted(self._ends, i, "right")) - 1 for i in which})
        limit = None if self._timeout is None else RESET_FACTOR * self._timeout
        answers, failures = self._play("reset", which, resets, shown, limit)
        for k, (failed, _) in answers.items():
            failures |= {self._rows[k].start + i: failure for i, failure in failed.items()}
        return failures, _sum_clips([clips for _, clips in answers.values()])

    def attribute(self, name: str) -> list[Any]:
        values: list[Any] = [None] * self._num_envs
        for k, found in self._ask("attribute", dict.fromkeys(self._running, (name,)), self._timeout)[0].items():
            values[self._rows[k]] = found
        return values

    def render(self) -> list[Any]:
        """See `EnvGroup`; raises GraftError where a process does not run, as before the first reset."""
        answers, failures = self._ask("render", dict.fromkeys(range(len(self._rows)), ()), self._timeout)
        for failure in failures.values():
            raise failure.error or GraftError(f"Task '{self._task}' cannot be drawn: {failure.text}.")
        return [frame for k in range(len(self._rows)) for frame in answers[k]]

    def close(self) -> None:
        self._ask("close", dict.fromkeys(self._running, ()), SECONDS_TO_CLOSE)
        for process in self._running.values():
            process.end()

    def _play(
        self, name: str, which: Sequence[int], values: Any, shown: Array, limit: float | None
    ) -> tuple[dict[int, Any], dict[int, EnvFailure]]:
        """Call ``name`` with the environments ``which``, ascending, and a value for each; writes their observations.

        Returns answers by process, and failures by environment of processes that gave none.
        """
        cuts = np.searchsorted(which, self._ends).tolist()
        parts = {k: slice(first, end) for k, (first, end) in enumerate(pairwise(cuts)) if first < end}
        rows = {k: [i - self._rows[k].start for i in which[part]] for k, part in parts.items()}
        answers, lost = self._ask(name, {k: (rows[k], values[part]) for k, part in parts.items()}, limit)
        for k in answers:
            shown[self._rows[k]][rows[k]] = self._running[k].obs[rows[k]]
        return answers, {i: failure for k, failure in lost.items() for i in which[parts[k]]}

    def _ask(
        self, name: str, asked: Mapping[int, tuple[Any, ...]], limit: float | None
    ) -> tuple[dict[int, Any], dict[int, EnvFailure]]:
        """Call ``name`` in processes, all before the first is waited for: their answers, and the failures of others."""
        answers: dict[int, Any] = {}

        def send(k: int) -> None:
            if k not in self._running:
                raise EnvFailure("raised", "it was not reset yet")
            self._running[k].send(name, *asked[k])

        def receive(k: int) -> None:
            answers[k] = self._running[k].receive(deadline, limit)

        lost = attempts(send, asked)
        deadline = None if limit is None else time.monotonic() + limit
        return answers, lost | attempts(receive, [k for k in asked if k not in lost])

    def _start(self, which: set[int]) -> None:

        def start(k: int) -> None:
            size = self._rows[k].stop - self._rows[k].start
            self._running[k] = Subprocess(partial(self._make, size), self._task, batch_space(self._space, size))

        missing = [k for k in which if k not in self._running or not self._running[k].runs]
        if missing:  # threads, as each waits until its process has loaded its libraries
            with one_thread_each(), clear_mpi_env_vars(), ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
                list(pool.map(start, missing))


def _sum_clips(parts: Sequence[tuple[int, str]]) -> tuple[int, str]:
    return sum(count for count, _ in parts), next((first for count, first in parts if count), "")
