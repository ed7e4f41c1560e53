"""Processes that a test has started with a folder of its own for Ray's files, and waiting for them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path


@contextlib.contextmanager
def ray_folder():
    """A short folder for Ray's sockets, whose paths may not be long; for RAY_TMPDIR of what a test starts."""
    folder = tempfile.mkdtemp(prefix="graft-ray-", dir="/tmp")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder):
    """Command lines of processes that were started with this folder for Ray's files, by id."""
    found = {}
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and f"RAY_TMPDIR={folder}".encode() in (path / "environ").read_bytes().split(b"\0"):
                state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
                if state != "Z":
                    found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")[:80]
    return found


def wait_until(condition, seconds, process=None):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)
