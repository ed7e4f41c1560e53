"""Single key presses from a terminal, on POSIX systems and on Windows."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_ARROWS_WINDOWS = {"H": "up", "P": "down", "M": "right", "K": "left"}
_PRESS = re.compile(r"\x1b[\[O][0-9;]*([A-Za-z~])|(.)", re.DOTALL)
_SECONDS_WITHIN_A_KEY = 0.05


def presses(text: str) -> Iterator[str]:
    """The keys in what a terminal sent: characters as they are, arrows by name, other special keys left out."""
    for sequence, character in _PRESS.findall(text):
        if character:
            yield character
        elif sequence in _ARROWS:
            yield _ARROWS[sequence]


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


@contextmanager
def keys(descriptor: int) -> Iterator[Iterator[str]]:
    """An endless iterator over key presses from a terminal; on Windows from the console, whatever ``descriptor`` is.

    The terminal's settings are restored when the block is left, also by a SIGTERM. Ctrl-C interrupts as always.
    """
    if sys.platform == "win32":
        yield _windows()
        return
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    handler = signal.signal(signal.SIGTERM, _end)
    try:
        tty.setcbreak(descriptor)
        yield _posix(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, handler)


def _posix(descriptor: int) -> Iterator[str]:
    import select

    while True:
        try:
            sent = os.read(descriptor, 64)
            # The bytes of an arrow key may come apart.
            while sent.endswith((b"\x1b", b"\x1b[", b"\x1bO")):
                if not select.select([descriptor], [], [], _SECONDS_WITHIN_A_KEY)[0]:
                    break
                sent += os.read(descriptor, 64)
        except OSError:  # the terminal was closed
            return
        if not sent:
            return
        yield from presses(sent.decode(errors="ignore"))


def _windows() -> Iterator[str]:
    read = importlib.import_module("msvcrt").getwch
    while True:
        key = read()
        if key in ("\x00", "\xe0"):
            key = _ARROWS_WINDOWS.get(read(), "")
        if key == "\x03":  # it is read, not signalled
            raise KeyboardInterrupt
        if key:
            yield key
