"""Interleaved timing of subjects, and the tables of benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from rich.table import Table

K = TypeVar("K")

Round = Callable[[], object]
"""What a subject does in a round, such as one rollout and one update."""


def interleaved(
    subjects: Mapping[K, Round], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[K, list[float]]:
    """Seconds of ``clock`` of every subject in every round, in both orders, so that a drift of the machine cancels out.

    Each subject runs once before, to compile and warm up.
    """
    for subject in subjects.values():
        subject()
    seconds: dict[K, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        spent = dict.fromkeys(subjects, 0.0)
        for name in (*subjects, *reversed(list(subjects))):
            start = clock()
            subjects[name]()
            spent[name] += clock() - start
        for name, value in spent.items():
            seconds[name].append(value / 2)
    return seconds


def bench_table(title: str, columns: Sequence[str], text: Sequence[str] = (), caption: str | None = None) -> Table:
    """An empty table; columns are right-aligned, but for those of ``text``."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in text else "right")
    return table
