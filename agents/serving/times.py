"""How long the latest calls took."""

from __future__ import annotations

from collections import deque

import numpy as np

KEPT = 4096


class Times:
    """Seconds of the latest `KEPT` calls, so that it never grows."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=KEPT)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def summary(self) -> dict[str, float | None]:
        """Median and 99th percentile in milliseconds; None before the first call."""
        if not self._seconds:
            return {"p50_ms": None, "p99_ms": None}
        p50, p99 = 1000 * np.quantile(np.array(self._seconds), (0.5, 0.99))
        return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}
