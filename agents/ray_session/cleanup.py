"""Kills the processes of a Ray that this process started, also when this process is killed; imports nothing of Graft.

Some of Ray's helper processes outlive the one that started them by a minute or more. They are recognised by an
environment variable that they inherit, on systems that show it (Linux).
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

MARK = "GRAFT_RAY_OF_RUN"  # environment variable of the processes that have to end
QUIET_SECONDS = 1.0


@contextlib.contextmanager
def cleaned_up() -> Iterator[str]:
    """Yields a mark; processes that have it are killed when the block is left, or when this process is gone."""
    mark = uuid.uuid4().hex
    watcher = subprocess.Popen(
        [sys.executable, "-I", __file__, mark],
        stdin=subprocess.PIPE,  # closed when this process ends, whatever ends it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is not for it
    )
    try:
        yield mark
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()
        watcher.wait()


@contextlib.contextmanager
def marked(mark: str) -> Iterator[None]:
    """Processes that start in this block inherit the mark."""
    os.environ[MARK] = mark
    try:
        yield
    finally:
        del os.environ[MARK]


def marked_processes(mark: str) -> list[int]:
    """Ids of processes that have the mark; none where a system does not show their environment."""
    wanted, ids = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                ids.append(int(path.parent.name))
    return ids


def kill_marked(mark: str) -> None:
    """Kill marked processes until none has shown up for `QUIET_SECONDS`: one that just starts shows its mark late."""
    until = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < until:
        for process in marked_processes(mark):
            until = time.monotonic() + QUIET_SECONDS
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.stdin.read()
    kill_marked(sys.argv[1])
