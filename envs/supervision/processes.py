"""Worker processes: one numeric thread each, no Ctrl-C of their own, an end with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
"""Environment variables of a process whose numeric libraries are to use one thread."""


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that start here use one thread in numeric libraries, which read these variables when they load."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def ignoring_ctrl_c() -> Iterator[None]:
    """Processes that start here ignore Ctrl-C, which this one handles."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent(grace: float = 0.0) -> None:
    """Start a thread that ends this process ``grace`` seconds after its parent has ended."""
    threading.Thread(target=_wait_for_parent, args=(grace,), name="graft-parent", daemon=True).start()


def _wait_for_parent(grace: float) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(grace)
        os._exit(1)
