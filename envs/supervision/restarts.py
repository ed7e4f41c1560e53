"""Environments of other people, whatever their kind: a call that fails is told apart, and each can be made again."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")

RESET_FACTOR = 5
"""How many times longer than a step a reset may take, or making the environment."""


class Wrong(Exception):
    """What an environment gave that can't be used: the ``kind`` of fault, and which in words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class Failure(NamedTuple):
    """How a call failed: the kind of fault (`graft.envs.core.faults.KINDS`), in words with where, and the exception."""

    kind: str
    text: str
    error: BaseException | None = None


class Restarts:
    """Environments in this process, each of which can be made again.

    Args:
        make: makes one of them.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.envs: list[Any] = []
        self._make = make

    def grow(self, count: int) -> None:
        """Make more, until there are ``count``."""
        while len(self.envs) < count:
            self.envs.append(self._make())

    def again(self, i: int) -> None:
        """Close environment i as far as it lets itself be closed, and make it again."""
        old, self.envs[i] = self.envs[i], None
        _close(old)
        self.envs[i] = self._make()

    def close(self) -> None:
        """Close every environment, as far as they let themselves be closed."""
        for env in self.envs:
            _close(env)


def attempts(call: Callable[[T], object], items: Iterable[T]) -> dict[T, Failure]:
    """Call ``call`` with each of ``items``, one after the other; returns the failures by item."""
    failures: dict[T, Failure] = {}
    for item in items:
        try:
            call(item)
        except (Exception, SystemExit) as error:
            failures[item] = failure_of(error)
    return failures


def failure_of(error: BaseException) -> Failure:
    """``error`` as a failure."""
    if isinstance(error, Wrong):
        return Failure(error.kind, error.text)
    lines, frames = str(error).strip().splitlines(), traceback.extract_tb(error.__traceback__)
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return Failure("raised", said + place, error)


def derived_seed(first: int, number: int) -> int:
    """The seed that follows from an environment's first one, for its restart or episode ``number``, in [0, 2**31)."""
    return int(np.random.SeedSequence([first, number]).generate_state(1, np.uint32)[0] >> 1)


def _close(env: Any) -> None:
    with contextlib.suppress(Exception):
        if env is not None:
            env.close()
