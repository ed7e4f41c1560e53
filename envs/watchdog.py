"""Calls into other people's code, ended when one of them takes too long.

A thread looks at times whether the call that runs is still the same; a call that returns in time costs next to nothing.
How one is ended depends on where it runs:

- In the main thread on POSIX (where stages run) a signal interrupts it: loops, sleeps, and whatever waits in Python for
  a lock, a pipe or a socket.
- In another thread, or on Windows, an exception is set in the thread: that ends loops, but a single call that waits
  (a sleep, a read) only when it returns.
- Compiled code that hangs, and code that swallows every exception (a bare ``except``), can't be ended from within its
  own process at all.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

PARTS = 4
"""Looks of the thread in a time-out. It counts looks instead of time: a process that was stopped for an hour (Ctrl-Z, a
laptop that was shut) has not been looked at meanwhile, and no call has hung in it."""

_KNOCK = getattr(signal, "SIGURG", None) if hasattr(signal, "pthread_kill") else None
"""The signal that interrupts the main thread; ignored by default, and almost nobody else's, unlike SIGALRM."""


class Expired(BaseException):
    """Raised within a call that took too long; no Exception, which much code catches and carries on."""

    def __init__(self, watch: Watch | None = None) -> None:
        super().__init__()
        self.watch = watch


class Failure(NamedTuple):
    """How a call failed: ``raised`` an exception, or ``hung``; in words, with where; and the exception."""

    kind: str
    text: str
    error: BaseException | None = None


class Watch:
    """Runs calls, and ends those that take longer than ``seconds``, or somewhat later: up to half as much again.

    Args:
        seconds: None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._calls = 0  # how many have begun
        self._most_looks = PARTS + 1
        self._running = self._knocked = False
        self._outer: Watch | None = None
        self._thread_id, self._in_main = 0, False
        self._lock, self._closed = threading.Lock(), threading.Event()  # the lock keeps knocks out of what comes after
        self._lookout: threading.Thread | None = None
        self._generation = 0

    def sweep(self, call: Callable[[T], object], items: Sequence[T], patience: int = 1) -> dict[int, Failure]:
        """Call ``call`` with each of ``items``, one after the other; returns the failures by the item's index.

        Args:
            call: a function written in Python: a built-in one can't be told from this method itself.
            patience: what the time limit is multiplied by.
        """
        failures: dict[int, Failure] = {}
        start, k, count = 0, 0, len(items)
        self._enter(patience)
        try:
            while start < count:
                try:
                    for k in range(start, count):
                        self._calls += 1
                        try:
                            call(items[k])
                        except (Exception, SystemExit) as error:
                            failures[k] = Failure("raised", f"{_said(error)}{where(error)}", error)
                except Expired as error:
                    if error.watch not in (None, self):  # a call within which all this happens took too long
                        raise
                    limit = (self.seconds or 0.0) * patience
                    failures[k] = Failure("hung", f"no answer within {limit:g} s{where(error)}", error)
                start = k + 1
        finally:
            self._leave()
        return failures

    def close(self) -> None:
        """End the thread that looks."""
        self._closed.set()
        self._lookout = None

    def _enter(self, patience: int) -> None:
        global _main
        if self.seconds is None or sys.is_finalizing():  # no thread can be started any more
            return
        if self._lookout is None or self._generation != _forks:  # a forked process has none of its parent's threads
            self._start()
        self._most_looks, self._calls = PARTS * patience + 1, self._calls + 1
        self._thread_id = threading.get_ident()
        self._in_main = self._thread_id == _main_id and _KNOCK is not None
        if self._in_main:
            _install()  # here: the thread that looks may have been started from another one
            self._outer, _main = _main, self
        self._running = True

    def _leave(self) -> None:
        global _main
        if self.seconds is None or sys.is_finalizing():  # no thread can be started any more
            return
        with self._lock:  # the thread may be about to knock
            self._running = False
        if self._in_main:
            _main, self._outer = self._outer, None
        elif self._knocked:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), None)
        self._knocked = False

    def _start(self) -> None:
        assert self.seconds is not None
        self._closed, self._lock, self._generation = threading.Event(), threading.Lock(), _forks
        arguments = (weakref.ref(self), self._closed, self.seconds / PARTS)
        self._lookout = threading.Thread(target=_look, args=arguments, name="graft-watch", daemon=True)
        self._lookout.start()

    def _knock(self) -> None:
        """End the call that runs; of the thread that looks."""
        with self._lock:
            if not self._running:
                return
            self._knocked = True
            if self._in_main:
                signal.pthread_kill(self._thread_id, _KNOCK)  # type: ignore[arg-type]
            else:
                kind = ctypes.py_object(Expired)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), kind)


_main: Watch | None = None
"""Whose calls run in the main thread now; an environment may hold another batch, whose calls are within its own."""

_main_id = threading.main_thread().ident
_forks = 0
_others: Any = None
"""Whoever handled the signal before."""

_passing_on = False
"""Whether a signal that is not ours is being given to them, who give it back if they came after us."""


def _after_fork() -> None:
    global _main, _main_id, _forks
    _main, _main_id, _forks = None, threading.get_ident(), _forks + 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _look(watched: weakref.ref[Watch], closed: threading.Event, interval: float) -> None:
    """The thread's life: end a call that was there at too many looks in a row."""
    last, looks = -1, 0
    while not closed.wait(interval):
        watch = watched()
        if watch is None:
            return
        if watch._running and watch._calls == last:
            looks += 1
        else:
            last, looks = watch._calls, 1
        if looks >= watch._most_looks:
            looks = 0
            watch._knock()
        del watch  # or it would never be thrown away


def _install() -> None:
    global _others
    assert _KNOCK is not None
    before = signal.getsignal(_KNOCK)
    if before is not _answer:
        _others = before
        signal.signal(_KNOCK, _answer)


def _answer(number: int, frame: FrameType | None) -> None:
    """The signal's handler, called in the main thread: raise in the call that runs, if there still is one."""
    global _passing_on
    watch = _main
    while watch is not None and not watch._knocked:
        watch = watch._outer
    if watch is None:
        if callable(_others) and not _passing_on:
            _passing_on = True
            try:
                _others(number, frame)
            finally:
                _passing_on = False
        return
    watch._knocked = False
    # In a frame of this file the call has just returned, after all.
    if frame is not None and frame.f_code.co_filename != __file__ and watch._running:
        raise Expired(watch)


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def where(error: BaseException) -> str:
    """`` (<file>:<line>, in <function>)`` of what raised ``error``, or nothing where this file did."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
