"""Large arrays that are used again: fresh memory costs more than drawing into it, a page fault for every 4 kB."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

KEPT = 4
"""Arrays, at most: what a caller holds of the last steps, and the next."""


class Spare:
    """Hands out arrays of one shape and dtype with whatever is left in them, each to be kept as long as one likes.

    One is handed out again once nobody else refers to it. A view, a tensor or a memoryview of an array refers to it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._shape, self._dtype = shape, dtype
        self._kept: list[NDArray[Any]] = [np.empty(shape, dtype)]
        self._alone = self._holders(0)  # counted, as Python's versions differ in what they count

    def _holders(self, k: int) -> int:
        return sys.getrefcount(self._kept[k])

    def take(self) -> NDArray[Any]:
        """An array that nobody else holds."""
        for k in range(len(self._kept)):
            if self._holders(k) == self._alone:
                return self._kept[k]
        fresh = np.empty(self._shape, self._dtype)
        if len(self._kept) < KEPT:
            self._kept.append(fresh)
        return fresh
