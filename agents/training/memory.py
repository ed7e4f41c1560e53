"""How the process allocates memory: what large tensors free is kept for the next ones."""

from __future__ import annotations

import ctypes
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # parameters of glibc's mallopt
LARGEST = 32 << 20
"""Bytes of the largest block that is kept; the most that glibc allows."""
KEPT, STEP = 1 << 30, 64 << 20
"""Bytes of free memory that stay with the process, and by how much it grows at a time."""


def keep_freed_memory() -> bool:
    """Let this process keep up to a GiB of freed memory; returns whether the platform can (Linux with glibc).

    By default every activation of a large minibatch is given back to the system and asked for again: thousands of page
    faults in each update, a quarter of its time. Results are the same.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = {MMAP_THRESHOLD: LARGEST, TRIM_THRESHOLD: KEPT, TOP_PAD: STEP}
    taken = [mallopt(parameter, value) == 1 for parameter, value in settings.items()]
    return all(taken)
