"""Environments of other people, whatever their kind: one that fails is counted, closed, and made again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from envs.faults import FaultLog, FaultRules
from envs.watchdog import Failure, Watch

PATIENCE = 5
"""How much longer than a step a reset may take, or making the environment."""


class Wrong(Exception):
    """What an environment gave that can't be used: the ``kind`` of fault, and which in words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class Restarts:
    """The environments of a batch, each of which can be made again.

    Attributes:
        envs: those of now. counts: how often each was made again.
        watch: for all calls into them. log: of their faults.
        first: number of the first one, in messages.

    Args:
        make: makes one of them.
        task: id, for messages.
        rules: of faults.
    """

    def __init__(self, make: Callable[[], Any], task: str, rules: FaultRules) -> None:
        self.envs: list[Any] = []
        self.counts: list[int] = []
        self.watch, self.log = Watch(rules.step_timeout), FaultLog(task, rules)
        self.first = 0
        self._make = make
        self._broken: dict[int, Any] = {}  # i -> what is to be closed before it is made again, or None

    def grow(self, count: int) -> None:
        """Make more, until there are ``count``."""
        while len(self.envs) < count:
            self.envs.append(self._make())
            self.counts.append(0)

    def fail(self, i: int, doing: str, failure: Failure) -> None:
        """Count a failure of environment i in its step or reset; before its next reset it is to be `mend`ed."""
        self._broken.setdefault(i, self.envs[i])  # not what `mend` has closed, or tried to
        kind, text = failure.kind, failure.text
        if isinstance(failure.error, Wrong):
            kind, text = failure.error.kind, failure.error.text
        self.log.add(kind, f"environment {self.first + i} in its {doing}: {text}", failure.error)

    def mend(self, i: int) -> bool:
        """Make environment i again if it failed; returns whether it had. To be called within the watch."""
        if i not in self._broken:
            return False
        old, self._broken[i] = self._broken[i], None  # once only: closing may be what hangs
        if old is not None:
            with contextlib.suppress(Exception):
                _close(old)
        self.counts[i] += 1
        self.envs[i] = self._make()
        del self._broken[i]
        return True

    def close(self) -> None:
        """Close every environment, as far as they let themselves be closed."""
        self.watch.sweep(_close, self.envs)
        self.watch.close()


def derived_seed(first: int, number: int) -> int:
    """The seed that follows from an environment's first one, for its restart or episode ``number``, in [0, 2**31)."""
    return int(np.random.SeedSequence([first, number]).generate_state(1, np.uint32)[0] >> 1)


def _close(env: Any) -> None:
    env.close()
