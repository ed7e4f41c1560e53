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


class Held(Exception):
    """Another process holds the lock; ``by`` says which."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by


class TakenOver(GraftError):
    """Another process has taken over what this one was writing."""


class Fence:
    """A file with the name of the process that writes something; the last to enter it is the only one that may.

    A lock ends with its process, so that nothing has to expire, and one machine's processes are kept apart by it alone.
    But on some shared disks a lock is seen by its own machine only, or not supported; there a worker that was given up
    because its network was cut may still run when another goes on with its stage. It finds the other's name here when
    it wants to record something, and ends. A lease that is renewed over the network would keep it out as well, but
    needs a clock, a waiting time after each loss, and to end a process in the middle of what it does; and Ray ends the
    workers of a node that lost its head node anyway.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = ""

    def enter(self) -> None:
        """Become the process that writes."""
        self._name = f"process {os.getpid()} on {platform.node()} ({uuid.uuid4().hex[:8]})"
        replace_file(self._path, self._name.encode())

    def holder(self) -> str:
        """Who entered last, for people."""
        try:
            return self._path.read_text(encoding="utf-8").rpartition(" (")[0]
        except OSError:
            return "another process"

    def check(self) -> None:
        """Raise TakenOver where another process has entered since this one did."""
        try:
            name = self._path.read_text(encoding="utf-8")
        except OSError:
            name = ""
        if name != self._name:
            raise TakenOver(f"It was taken over by {self.holder()}.")


@contextmanager
def locked(path: Path, fence: Path, seconds: float = 0.0) -> Iterator[Fence]:
    """Hold the lock file ``path`` meanwhile; it is free again when this process ends, however that ends.

    Args:
        path: of the lock. fence: of the file that names its holder; both in folders that are there.
        seconds: to wait for another process; may be infinite.
    Yields:
        The fence, entered.
    Raises:
        Held: another process has the lock.
    """
    lock, inside = FileLock(path, poll_interval=POLL_SECONDS), Fence(fence)
    try:
        lock.acquire(timeout=-1 if math.isinf(seconds) else seconds)
    except Timeout as error:
        raise Held(inside.holder()) from error
    except OSError:  # the file system has no locks: the fence has to do
        pass
    try:
        inside.enter()
        yield inside
    finally:
        lock.release()
