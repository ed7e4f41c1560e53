"""Environments in processes of their own, by `gymnasium.vector.AsyncVectorEnv`; one that hangs is ended.

For environments whose steps are slow, and for those that may hang (``step_timeout`` of `graft.envs.core.faults`).
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.utils import clear_mpi_env_vars
from numpy.typing import NDArray

from graft.envs.supervision.processes import end_with_parent, one_thread_each
from graft.envs.supervision.restarts import RESET_FACTOR, Failure, Wrong, attempts
from graft.errors import GraftError

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Played = tuple[NDArray[np.float64], Bools, Bools, dict[int, Failure]]
"""Rewards, terminated and truncated, (N,), and the failures by environment."""

Reset = tuple[int, bool, dict[str, Any]]
"""An environment, whether it is to be made again, and the keywords of its reset."""

SECONDS_TO_CLOSE = 30.0
"""Environments that take longer to close are ended with their process."""

SECONDS_ALONE = 5.0
"""As long a process may go on to close its environments when the one that started it is gone."""

STARTS_AT_ONCE = 8
"""Processes that are started at the same time; each loads its libraries."""


class Subprocess:
    """A process that runs one environment: an `AsyncVectorEnv` of one, which can be ended whatever it does.

    Args:
        make: makes the environment, in the process and once here, where nobody steps it.
        task: id, for messages.
        shared_memory: whether observations come back in shared memory instead of a pipe.
    Raises:
        GraftError: the process cannot be started.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], task: str, shared_memory: bool = True) -> None:
        entered = partial(_entered, os.getpid(), make)
        try:
            self._env = AsyncVectorEnv(
                [entered], shared_memory, copy=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED
            )
        except (EOFError, ConnectionError) as error:
            raise GraftError(
                f"A process for task '{task}' ended before it was ready; a script that is not imported but run must "
                f"do its work under `if __name__ == '__main__':`."
            ) from error
        except Exception as error:  # of pickling, of many kinds
            raise GraftError(f"Task '{task}' cannot be made in another process ({error}); use workers=1.") from error
        self.runs = True

    def send(self, what: str, *args: Any, **kwargs: Any) -> None:
        """Ask for a ``step``, a ``reset`` or a ``call``.

        Raises:
            Wrong: the process has ended.
        """
        if not self.runs:
            raise Wrong("raised", "its process has ended")
        try:
            getattr(self._env, f"{what}_async")(*args, **kwargs)
        except OSError as error:
            raise self._died() from error
        except BaseException:  # what it would answer next is not known
            self.end()
            raise

    def receive(self, what: str, deadline: float | None, limit: float | None) -> Any:
        """The answer; at ``deadline``, which is ``limit`` seconds after it was asked, the process is ended.

        Raises:
            Wrong: there is none.
        """
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return getattr(self._env, f"{what}_wait")(remaining)
        except multiprocessing.TimeoutError:
            self.end()
            raise Wrong("hung", f"no answer within {limit:g} s") from None
        except (EOFError, OSError) as error:
            raise self._died() from error
        except BaseException:  # such as Ctrl-C: an answer would come that nobody waits for
            self.end()
            raise

    def ask(self, limit: float | None, name: str, *args: Any) -> Any:
        """Call ``ask(name, *args)`` of the environment, which is to return `answer`.

        Raises:
            Wrong: there is no answer. Whatever the call raises there.
        """
        self.send("call", "ask", name, *args)
        value, error = self.receive("call", None if limit is None else time.monotonic() + limit, limit)[0]
        if error is not None:
            raise error
        return value

    def end(self) -> None:
        """Kill it."""
        self.runs = False
        for process in self._env.processes:
            process.kill()
            process.join(SECONDS_ALONE)
        for pipe in self._env.parent_pipes:
            if pipe is not None:
                pipe.close()
        self._env.closed = True  # its own closing waits for an answer

    def _died(self) -> Wrong:
        process = self._env.processes[0]
        process.join(SECONDS_ALONE)
        code = process.exitcode or 0
        self.end()
        known = code < 0 and -code in set(signal.Signals)
        return Wrong("raised", f"its process ended {f'by {signal.Signals(-code).name}' if known else f'with {code}'}")


def _entered(starter: int, make: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    """The environment; a process other than ``starter`` leaves Ctrl-C to that one and ends with it."""
    if os.getpid() != starter:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent(SECONDS_ALONE)
    return make()


def answer(call: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """What ``call`` returns or raises, for another process."""
    try:
        return call(*args), None
    except (Exception, SystemExit) as error:
        return None, portable(error)


def portable(error: BaseException) -> BaseException:
    """``error`` for another process, with its traceback as a note; a RuntimeError where it cannot be sent."""
    note = "".join(traceback.format_exception(error))
    try:
        sent: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"in a worker process:\n{note}")
    return sent


def sendable(failures: Mapping[int, Failure]) -> list[tuple[int, Failure]]:
    """``failures`` for another process."""
    return [(i, f if f.error is None else f._replace(error=portable(f.error))) for i, f in failures.items()]


class Subprocesses:
    """The environments of a batch in processes, each with some that follow one another (`graft.envs.supervision.supervised_batch.Group`).

    Processes start in the first reset, and again in the first after they ended. All environments of one that hangs or
    dies have failed.

    Args:
        group: makes the `graft.envs.supervision.supervised_batch.EnvGroup` of a process for so many environments.
        num_envs: how many, N. processes: how many, up to N.
        task: id, for messages.
        timeout: seconds that a step may take, or None.
    Raises:
        GraftError: this process may not start others.
    """

    def __init__(
        self,
        group: Callable[[int], gym.Env[Any, Any]],
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
        ends = [num_envs * k // processes for k in range(processes + 1)]
        self._rows = [slice(first, end) for first, end in pairwise(ends)]
        self._of_row = np.repeat(np.arange(processes), np.diff(ends))
        self._group, self._num_envs, self._task, self._timeout = group, num_envs, task, timeout
        self._known: dict[str, list[Any]] = {}

    def play(self, which: Sequence[int], actions: Any, shown: Array) -> Played:
        """See `graft.envs.supervision.supervised_batch.Group`."""
        count = self._num_envs
        rewards, terminated, truncated = np.zeros(count), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        playing = np.zeros(count, np.bool_)
        playing[list(which)] = True
        asked = {k: ((actions[rows][None], playing[rows][None]),) for k, rows in enumerate(self._rows)}
        answers, lost = self._ask("step", {k: asked[k] for k in np.unique(self._of_row[playing]).tolist()})
        failures = {i: lost[k] for i in which if (k := int(self._of_row[i])) in lost}
        for k, (obs, earned, died, cut, infos) in answers.items():
            rows, own = self._rows[k], playing[self._rows[k]]
            shown[rows][own] = obs[0][own]
            rewards[rows], terminated[rows], truncated[rows] = earned[0], died[0], cut[0]
            failures |= self._failures(k, infos)
        return rewards, terminated, truncated, failures

    def begin(self, resets: Sequence[Reset], shown: Array) -> dict[int, Failure]:
        """See `graft.envs.supervision.supervised_batch.Group`."""
        asked: dict[int, list[Reset]] = {}
        for i, again, keywords in resets:
            k = int(self._of_row[i])
            asked.setdefault(k, []).append((i - self._rows[k].start, again, keywords))
        self._start(asked)
        limit = None if self._timeout is None else RESET_FACTOR * self._timeout
        answers, lost = self._ask("reset", {k: (None, {"resets": own}) for k, own in asked.items()}, limit)
        failures = {i: lost[k] for i, *_ in resets if (k := int(self._of_row[i])) in lost}
        for k, (obs, infos) in answers.items():
            own = [i for i, *_ in asked[k]]
            shown[self._rows[k]][own] = obs[0][own]
            failures |= self._failures(k, infos)
        return failures

    def attribute(self, name: str) -> list[Any]:
        """See `graft.envs.supervision.supervised_batch.Group`; of processes that do not run, what they said before, or None."""
        known = self._known.setdefault(name, [None] * self._num_envs)
        for k, values in self._ask("call", dict.fromkeys(self._running, ("ask", "attribute", name)))[0].items():
            known[self._rows[k]] = values[0][0] or known[self._rows[k]]
        return list(known)

    def render(self) -> list[Any]:
        """See `graft.envs.supervision.supervised_batch.Group`.

        Raises:
            GraftError: a process does not run, as before the first reset. What an environment raises.
        """
        answers, lost = self._ask("call", dict.fromkeys(range(len(self._rows)), ("ask", "render")))
        for failure in lost.values():
            raise GraftError(f"Task '{self._task}' cannot be drawn: {failure.text}.")
        frames: list[Any] = []
        for k in sorted(answers):
            own, error = answers[k][0]
            if error is not None:
                raise error
            frames += own
        return frames

    def close(self) -> None:
        """See `graft.envs.supervision.supervised_batch.Group`; ends the processes."""
        self._ask("call", dict.fromkeys(self._running, ("ask", "close")), limit=SECONDS_TO_CLOSE)
        for process in self._running.values():
            process.end()

    def _ask(
        self, what: str, asked: Mapping[int, tuple[Any, ...]], limit: float | None = None
    ) -> tuple[dict[int, Any], dict[int, Failure]]:
        """Ask processes, all before the first is waited for; what they answer, and those that do not."""
        answers: dict[int, Any] = {}
        limit = limit or self._timeout

        def send(k: int) -> None:
            if k not in self._running:
                raise Wrong("raised", "it was not reset yet")
            self._running[k].send(what, *asked[k])

        def receive(k: int) -> None:
            answers[k] = self._running[k].receive(what, deadline, limit)

        lost = attempts(send, asked)
        deadline = None if limit is None else time.monotonic() + limit
        return answers, lost | attempts(receive, [k for k in asked if k not in lost])

    def _start(self, which: Iterable[int]) -> None:
        """Start the processes that do not run."""

        def start(k: int) -> None:
            size = self._rows[k].stop - self._rows[k].start
            self._running[k] = Subprocess(partial(self._group, size), self._task)

        missing = [k for k in which if k not in self._running or not self._running[k].runs]
        if missing:  # threads, as each waits until its process has loaded its libraries
            with one_thread_each(), clear_mpi_env_vars(), ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
                list(pool.map(start, missing))

    def _failures(self, k: int, infos: dict[str, Any]) -> dict[int, Failure]:
        """Of the environments of process ``k``, by their number in the batch."""
        return {self._rows[k].start + i: failure for i, failure in infos["failures"][0]}
