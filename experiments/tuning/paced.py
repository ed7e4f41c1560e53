"""Work that reports now and then and waits each time until it is told to go on, or to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(BaseException):
    """The work was told to stop; no `Exception`, so that nothing takes it for a failure."""


class Paced(Generic[T]):
    """Runs ``work`` in a thread that moves only while `next` waits for it.

    Args:
        work: is given what it reports with; that raises Stopped when the work is to end.
    """

    def __init__(self, work: Callable[[Callable[[T], None]], None]) -> None:
        self._work = work
        self._said: SimpleQueue[T | BaseException | None] = SimpleQueue()
        self._go = threading.Semaphore(0)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="graft-trial", daemon=True)

    def _run(self) -> None:
        try:
            self._work(self._report)
        except Stopped:
            self._said.put(None)
        except BaseException as error:
            self._said.put(error)
        else:
            self._said.put(None)

    def _report(self, thing: T) -> None:
        self._said.put(thing)
        self._go.acquire()
        if self._stopping:
            raise Stopped

    def next(self) -> T | None:
        """Go on to the next report; None when the work has ended. Raises what the work raised."""
        if self._thread.ident is None:
            self._thread.start()
        elif self._thread.is_alive():
            self._go.release()
        said = self._said.get()
        if isinstance(said, BaseException):
            raise said
        return said

    def stop(self) -> None:
        """End the work where it waits, and return when it has."""
        self._stopping = True
        if self._thread.is_alive():
            self._go.release()
            self._thread.join()
