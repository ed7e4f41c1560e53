"""Third-party environments of any kind: failures as values, and environments that can be made again."""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

RESET_FACTOR = 5  # how many times longer than a step a reset may take, or making the environment


class EnvFailure(Exception):
    """How a call of an environment failed; can be pickled.

    Attributes:
        kind: one of `KINDS`. text: what happened, and where. error: what was raised, if anything.
    """

    def __init__(self, kind: str, text: str, error: BaseException | None = None) -> None:
        super().__init__(text)
        self.kind, self.text, self.error = kind, text, error

    def __reduce__(self) -> Any:
        return EnvFailure, (self.kind, self.text, None if self.error is None else _portable(self.error))


class RestartableEnvs:
    """``count`` environments in this process, each of which can be made again by ``make``; None if not made yet."""

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        self._make = make
        self.envs: list[Any] = [None] * count

    def restart(self, i: int) -> None:
        """Close environment i as far as it lets itself be closed, and make it again."""
        old, self.envs[i] = self.envs[i], None
        _close(old)
        self.envs[i] = self._make()

    def close(self) -> None:
        for env in self.envs:
            _close(env)


def attempts(call: Callable[[T], object], items: Iterable[T]) -> dict[T, EnvFailure]:
    """Call ``call`` with each of ``items``, one after the other; returns the failures by item."""
    failures: dict[T, EnvFailure] = {}
    for item in items:
        try:
            call(item)
        except (Exception, SystemExit) as error:
            failures[item] = failure_of(error)
    return failures


def failure_of(error: BaseException) -> EnvFailure:
    if isinstance(error, EnvFailure):
        return error
    lines, frames = str(error).strip().splitlines(), traceback.extract_tb(error.__traceback__)
    message = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return EnvFailure("raised", message + place, error)


def derived_seed(first: int, number: int) -> int:
    """The seed that follows from an environment's first one, for its restart or episode ``number``, in [0, 2**31)."""
    return int(np.random.SeedSequence([first, number]).generate_state(1, np.uint32)[0] >> 1)


def _portable(error: BaseException) -> BaseException:
    """``error`` for another process, with its traceback as a note; a RuntimeError where it cannot be pickled."""
    note = "".join(traceback.format_exception(error))
    try:
        sent: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"in a worker process:\n{note}")
    return sent


def _close(env: Any) -> None:
    with contextlib.suppress(Exception):
        if env is not None:
            env.close()
