"""A lock on a folder that several processes may want to write, and the fence against those that lost it."""

from __future__ import annotations

import math
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from graft.agents.checkpoints.files import replace_file
from graft.errors import GraftError

POLL_SECONDS = 0.1


class LockHeld(Exception):
    """Another process holds the lock; the message says which."""


class TakenOver(GraftError):
    """Another process has taken over what this one was writing."""


class Fence:
    """A file with the name of the process that may write; only the last one to enter it may.

    A lock ends with its process, and suffices on one machine. But some shared disks have no locks, or locks of one
    machine only; there a worker that was given up because its network was cut may still run when another continues its
    stage. It finds the other's name here before it records anything, and ends. A lease would need a clock and a wait.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = ""

    def enter(self) -> None:
        """Become the process that writes."""
        self._name = f"process {os.getpid()} on {platform.node()} ({uuid.uuid4().hex[:8]})"
        replace_file(self._path, self._name.encode())

    def _last(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")
        except OSError:
            return ""

    def holder(self) -> str:
        """Readable name of the process that entered last."""
        return self._last().rpartition(" (")[0] or "another process"

    def check(self) -> None:
        """Raise TakenOver where another process has entered since this one did."""
        if self._last() != self._name:
            raise TakenOver(f"It was taken over by {self.holder()}.")


@contextmanager
def hold_lock(path: Path, holder: Path, seconds: float = 0.0) -> Iterator[Fence]:
    """Hold the lock file ``path`` meanwhile; it is free again when this process ends, however that ends.

    Args:
        holder: file that names the process that holds it.
        seconds: to wait for another process; may be infinite.
    Yields:
        The fence, entered.
    Raises:
        LockHeld: another process has the lock.
    """
    lock, fence = FileLock(path, poll_interval=POLL_SECONDS), Fence(holder)
    try:
        lock.acquire(timeout=-1 if math.isinf(seconds) else seconds)
    except Timeout as error:
        raise LockHeld(fence.holder()) from error
    except OSError:  # the file system has no locks: the fence has to do
        pass
    try:
        fence.enter()
        yield fence
    finally:
        lock.release()
