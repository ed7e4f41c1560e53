"""Returns of the latest training episodes, for each part of a batch that has several."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graft.envs.core.task import Groups

WINDOW = 100
"""Episodes of each part; as many as the library's own mean is over, which parts with short episodes fill alone."""


class RecentReturns:
    """Keeps the latest returns of each part; nothing of a batch without parts."""

    def __init__(self, groups: Groups | None) -> None:
        self._groups = groups
        self._kept = np.full((len(groups.names) if groups else 0, WINDOW), np.nan)  # (parts, WINDOW), the latest last

    def add(self, row: int, value: float) -> None:
        """The return of an episode that environment ``row`` has ended."""
        if self._groups is not None:
            kept = self._kept[self._groups.of_row[row]]
            kept[:-1] = kept[1:]
            kept[-1] = value

    def means(self) -> dict[str, float]:
        """Mean of each part that has ended an episode."""
        names = self._groups.names if self._groups else ()
        ended = ~np.isnan(self._kept).all(axis=1)
        return {name: float(np.nanmean(self._kept[k])) for k, name in enumerate(names) if ended[k]}

    def save(self) -> dict[str, NDArray[np.float64]]:
        """Copies, for a snapshot."""
        return {} if self._groups is None else {"recent": self._kept.copy()}

    def restore(self, saved: dict[str, NDArray[np.float64]]) -> None:
        """Inverse of `save`."""
        if self._groups is not None:
            self._kept[:] = saved["recent"]
