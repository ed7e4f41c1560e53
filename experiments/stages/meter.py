"""What this process takes: seconds, processor seconds, and the most memory that it held."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

PROCESS = Path("/proc/self")


class Meter:
    """Measures from its start on, on top of ``earlier``: what `spent` gave in another process."""

    def __init__(self, earlier: Mapping[str, float] | None = None) -> None:
        self._earlier = dict(earlier or {})
        with suppress(OSError):  # of another system, where the peak is that of the whole process
            (PROCESS / "clear_refs").write_text("5")
        self._start, self._cores = time.perf_counter(), _core_seconds()

    def spent(self) -> dict[str, float]:
        """``wall_seconds``, ``core_seconds`` of this process and those that it started and that have ended, and
        ``peak_bytes`` of memory (0: not known).
        """
        known = self._earlier.get
        return {
            "wall_seconds": round(known("wall_seconds", 0.0) + time.perf_counter() - self._start, 3),
            "core_seconds": round(known("core_seconds", 0.0) + _core_seconds() - self._cores, 3),
            "peak_bytes": max(known("peak_bytes", 0), _peak_bytes()),
        }


def _core_seconds() -> float:
    return sum(os.times()[:4])


def _peak_bytes() -> int:
    """Largest resident memory; `ru_maxrss` begins with that of the process that started this one, so it comes last."""
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB", (PROCESS / "status").read_text(), re.MULTILINE):
            return 1024 * int(found[1])
    with suppress(ImportError):
        import resource
        import sys

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0
