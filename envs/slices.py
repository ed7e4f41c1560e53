"""A slice of a batch in a process of its own: the process, the pipe to it, the memory that it shares, and its life."""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.errors import GraftError
from envs.faults import Faults
from envs.processes import end_with_parent
from envs.task import Task, TaskVectorEnv

Array = NDArray[Any]

SECONDS_TO_CLOSE = 30.0
"""Environments that take longer to close are ended with their process."""

SECONDS_ALONE = 5.0
"""As long a process may go on to close its environments when the one that started it is gone."""

SECONDS_OF_TRUST = 5.0
"""After so long without an answer a process is looked at: it may have died and left children that hold its pipe."""

OWN = {
    "num_envs",
    "closed",
    "single_observation_space",
    "single_action_space",
    "observation_space",
    "action_space",
}
"""Attributes of a batch that its parts have no say in."""


class Elsewhere(Exception):
    """The traceback of an error that was raised in another process, as text."""

    def __str__(self) -> str:
        return f"in a worker process:\n{self.args[0]}"


News = tuple[tuple[str, ...], dict[str, Any]] | None
"""Names of all infos, and those that are new; None where nothing is."""


class Job(NamedTuple):
    """What a process does: ``size`` of the ``whole`` environments of a batch, from ``first`` on."""

    task: Task
    registered: bytes
    first: int
    size: int
    whole: int
    seed: int
    autoreset: AutoresetMode
    max_threads: int


class Told(NamedTuple):
    """An answer: a value, or an error (pickled, in words, with its traceback); and the faults where there are new ones,
    with the traceback of the last.
    """

    value: Any = None
    error: tuple[bytes, str, str] | None = None
    faults: Faults | None = None
    trace: str = ""


class Memory:
    """Arrays that all processes see, given to a process at its start.

    Args:
        context: that starts the processes.
        layout: name -> shape and dtype.
    """

    def __init__(self, context: Any, layout: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        self._layout = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in layout.items()}
        sizes = {name: int(np.prod(shape)) * dtype.itemsize for name, (shape, dtype) in self._layout.items()}
        self._raw = {name: context.RawArray("b", max(1, size)) for name, size in sizes.items()}

    def arrays(self) -> dict[str, Array]:
        """As this process sees them."""
        return {
            name: np.frombuffer(self._raw[name], dtype, int(np.prod(shape))).reshape(shape)
            for name, (shape, dtype) in self._layout.items()
        }


class Worker:
    """A process, its slice of the batch, and the pipe to it."""

    def __init__(self, context: Any, memory: Memory, job: Job) -> None:
        self.job, self.rows = job, slice(job.first, job.first + job.size)
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, memory, job), daemon=True)
        try:
            self._process.start()
        except BaseException:
            self._pipe.close()
            raise
        finally:
            theirs.close()
        self._owes = 1  # it says what it made
        self._made = False

    def ask(self, *request: Any) -> None:
        """Ask for what `answer` gives."""
        while self._owes and request != ("close",):  # Ctrl-C came while somebody waited for that answer
            self.answer()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died, which its answer will say
            self._pipe.send(request)
        self._owes += 1

    def answer(self) -> Told:
        """The answer to what was asked; that it died is one as well."""
        try:
            while not self._pipe.poll(SECONDS_OF_TRUST):
                if not self._process.is_alive() and not self._pipe.poll(0):
                    raise EOFError
            told: Told = self._pipe.recv() or Told()
            self._made = True
        except (EOFError, ConnectionResetError):
            told = Told(error=(pickle.dumps(self._death()), "", ""))
        self._owes -= 1
        return told

    def end(self, deadline: float) -> None:
        """Wait for its end, after it was asked to close; from ``deadline`` on, end it."""
        with contextlib.suppress(EOFError, OSError):
            while self._pipe.poll(max(0.0, deadline - time.monotonic())):
                self._pipe.recv_bytes()
        self._pipe.close()
        self._process.join(max(0.1, deadline - time.monotonic()))
        for stop in self._process.terminate, self._process.kill:
            if self._process.is_alive():
                stop()
                self._process.join(2.0)
        with contextlib.suppress(ValueError):  # not even that ended it
            self._process.close()

    def _death(self) -> GraftError:
        self._process.join(SECONDS_OF_TRUST)
        code, first, last = self._process.exitcode, self.job.first, self.job.first + self.job.size - 1
        named = f"environment {first}" if first == last else f"environments {first} to {last}"
        known = code is not None and code < 0 and -code in set(signal.Signals)
        how = f"by {signal.Signals(-(code or 0)).name}" if known else f"with exit code {code}"
        why = (
            "was the memory used up?"
            if self._made
            else "a script that is not imported but run must do its work under `if __name__ == '__main__':`."
        )
        return GraftError(f"The process of {named} of task {self.job.task} was ended {how}; {why}")


class _Part:
    """A slice of the batch, in its process."""

    def __init__(self, env: TaskVectorEnv, arrays: Mapping[str, Array], job: Job) -> None:
        rows = slice(job.first, job.first + job.size)
        self._env, self._arrays = env, {name: array[rows] for name, array in arrays.items()}
        self._last: dict[str, Any] = {}

    def reset(self, seed: Any, options: dict[str, Any]) -> Any:
        """Returns news of the infos."""
        self._arrays["obs"][...], infos = self._env.reset(seed=seed, options=options)
        return self._news(infos)

    def step(self) -> Any:
        """Returns news of the infos."""
        shared = self._arrays
        obs, shared["rewards"][...], shared["terminated"][...], shared["truncated"][...], infos = self._env.step(
            shared["actions"]
        )
        shared["obs"][...] = obs
        if "final_obs" in infos:
            shared["final_obs"][...] = infos.pop("final_obs")
        return self._news(infos)

    def render(self) -> Any:
        """Pictures, as far as they are drawn."""
        return self._env.render()

    def _news(self, infos: dict[str, Any]) -> News:
        """Infos that stay as they were are the same array, which nobody may change."""
        before, self._last = self._last, dict(infos)
        kept = {name for name, value in infos.items() if name in before and _stays(value, before[name])}
        if len(kept) == len(infos) == len(before):
            return None
        return tuple(infos), {name: value for name, value in infos.items() if name not in kept}


def _stays(value: Any, before: Any) -> bool:
    return value is before and isinstance(value, np.ndarray) and not value.flags.writeable


def _serve(pipe: Connection, memory: Memory, job: Job) -> None:
    """The life of a process: make its environments, do what is asked, end with the batch or with its parent."""
    end_with_parent(SECONDS_ALONE)
    from envs.factory import make  # which imports this module

    try:
        _register(job)
        env = make(job.task, job.size, job.seed + job.first, job.autoreset, job.max_threads)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the parent is gone
            pipe.send(Told(error=_packed(error)))
        return
    part, known = _Part(env, memory.arrays(), job), 0
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        pipe.send(Told((_attributes(env), env.part_of(job.first, job.whole))))
        while (request := pipe.recv()) != ("close",):
            value, failed = None, None
            try:
                value = getattr(part, request[0])(*request[1:])
            except BaseException as error:
                failed = _packed(error)
            faults = env.faults
            if faults.total != known:
                known = faults.total
                pipe.send(Told(value, failed, faults, _trace(faults.error) if faults.error else ""))
            else:  # mostly there is nothing to say, which takes less time so
                pipe.send(None if value is failed is None else Told(value, failed))
    env.close()


def _attributes(env: TaskVectorEnv) -> dict[str, Any]:
    """What of a part is that of the whole batch as well, as far as it can be sent."""
    found = {name: value for name, value in vars(env).items() if name[0] != "_" and name not in OWN}
    for name in list(found):
        try:
            pickle.dumps(found[name])
        except Exception:
            del found[name]
    return found


def registration(task: Task) -> bytes:
    """How the task is registered with Gymnasium here; nothing where its id names the module that does so."""
    try:
        return pickle.dumps((task, None if ":" in task.id else gym.registry.get(task.id)))
    except Exception as error:
        raise _unknown_elsewhere(task, error) from error


def _register(job: Job) -> None:
    """Let this process know what the parent's code has registered."""
    try:
        _, spec = pickle.loads(job.registered)
    except Exception as error:
        raise _unknown_elsewhere(job.task, error) from error
    if spec is not None:
        gym.registry.setdefault(spec.id, spec)


def _unknown_elsewhere(task: Task, error: Exception) -> GraftError:
    return GraftError(
        f"Task {task} cannot be made in another process ({error}); register it in a module that can be imported, "
        f"'module:Id-v0', or use workers=1."
    )


def _packed(error: BaseException) -> tuple[bytes, str, str]:
    """For `Told`."""
    try:
        data = pickle.dumps(error)
    except Exception:
        data = b""
    return data, f"{type(error).__name__}: {error}", _trace(error)


def raised(data: bytes, text: str, trace: str) -> tuple[BaseException, str]:
    """The error of a `Told`, and its traceback."""
    try:
        error = pickle.loads(data)
    except Exception:  # of a kind that can't be sent
        error = None
    return error if isinstance(error, BaseException) else RuntimeError(text), trace


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
