"""Ends a Ray that was started for one run when that is over, however it ended; a script that needs nothing else.

Ray's own processes end when the one that started them is killed, but some of its helpers stay for a minute or more.
They are found by a mark in the environment that they inherited, on systems that show it (Linux).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

MARK = "GRAFT_RAY_OF_RUN"
"""Environment variable of all that has to end."""

QUIET_SECONDS = 1.0


@contextlib.contextmanager
def reaped() -> Iterator[str]:
    """Processes with the mark that this gives end when the block is left, or when this process is gone."""
    mark = uuid.uuid4().hex
    watching = subprocess.Popen(
        [sys.executable, "-I", __file__, mark],
        stdin=subprocess.PIPE,  # closed when this process ends, whatever ends it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is not for it
    )
    try:
        yield mark
    finally:
        assert watching.stdin is not None
        watching.stdin.close()
        watching.wait()


@contextlib.contextmanager
def marked(mark: str) -> Iterator[None]:
    """What starts in this block has the mark."""
    os.environ[MARK] = mark
    try:
        yield
    finally:
        del os.environ[MARK]


def found(mark: str) -> list[int]:
    """Ids of processes that have the mark; none where a system does not show their environment."""
    wanted, ids = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                ids.append(int(path.parent.name))
    return ids


def reap(mark: str) -> None:
    """Kill all that has the mark, until nothing has had it for `QUIET_SECONDS`: what is just starting shows it late."""
    until = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < until:
        for process in found(mark):
            until = time.monotonic() + QUIET_SECONDS
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.stdin.read()
    reap(sys.argv[1])
