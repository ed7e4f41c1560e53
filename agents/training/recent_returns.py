"""Returns of the latest training episodes, for each part of a batch that has several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.envs.core.task import Groups

WINDOW = 100  # episodes of each part, as many as in Stable-Baselines3's mean of the batch


class RecentReturns:
    """The latest returns of each part; empty for a batch without parts."""

    def __init__(self, groups: Groups | None) -> None:
        self._groups = groups
        self._kept = np.full((len(groups.names) if groups else 0, WINDOW), np.nan)  # (parts, WINDOW), the latest last

    def add(self, row: int, value: float) -> None:
        if self._groups is not None:
            kept = self._kept[self._groups.of_row[row]]
            kept[:-1] = kept[1:]
            kept[-1] = value

    def means(self) -> dict[str, float]:
        names = self._groups.names if self._groups else ()
        ended = ~np.isnan(self._kept).all(axis=1)
        return {name: float(np.nanmean(self._kept[k])) for k, name in enumerate(names) if ended[k]}

    def save_state(self) -> dict[str, NDArray[np.float64]]:
        return {} if self._groups is None else {"recent": self._kept.copy()}

    def restore_state(self, saved: Mapping[str, NDArray[Any]]) -> None:
        if self._groups is not None:
            self._kept[:] = saved["recent"]
