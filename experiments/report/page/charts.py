"""Charts of a report as numbers that its template draws: lines with bands, ticks, and the table of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graft.experiments.report.common import band
from graft.transfer.metrics import Curve
from graft.transfer.statistics import Interval

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 10, 30
"""Of a chart, and what is around its axes, in units of its picture."""

COLOURS = 8
"""How many the style sheet has, the first two for controls."""


class Line(NamedTuple):
    """One method: ``path`` and ``area`` are those of SVG; ``colour`` and ``dashes``: numbers of the style sheet's."""

    name: str
    path: str
    area: str
    seeds: list[str]
    colour: int
    dashes: int


class Tick(NamedTuple):
    """A mark of an axis."""

    at: float
    text: str


class Point(NamedTuple):
    """A row of the table: where it is in the picture, and each line's value there (None: it has none)."""

    at: float
    x: float
    text: str
    values: list[Interval | None]


class Chart(NamedTuple):
    """Lines over a common axis. ``has_bands``: whether intervals are shown at first; ``start``: first point read."""

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    points: list[Point]
    zero: float | None
    has_seeds: bool
    has_bands: bool
    start: int


Style = tuple[int, int]
"""Colour and dashes of a line: numbers of the style sheet's."""


class Series(NamedTuple):
    """What a line shows: (T,) each, ``low`` and ``high`` empty without an interval; ``seeds``: (S, T)."""

    name: str
    x: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    seeds: npt.NDArray[np.float64]


def series(name: str, curves: Sequence[Curve]) -> Series:
    """Interquartile mean of learning curves, over the evaluations that all seeds have."""
    count = min(len(curve.steps) for curve in curves)
    scores = np.array([curve.scores[:count] for curve in curves])
    mean, low, high = band(scores)
    return Series(name, np.array(curves[0].steps[:count], float), mean, low, high, scores)


MOST_BANDS = COLOURS
"""Lines whose intervals are shown at first; more would hide one another."""

LEAST_BAND_SEEDS = 3
"""Seeds of each line for that; the intervals of fewer fill the picture."""


def style(index: int, controls: int) -> Style:
    """Colour and dashes of line ``index``, of which the first ``controls`` are controls; both repeat after a while."""
    if index < controls:
        return index % 2, index // 2
    again, colour = divmod(index - controls, COLOURS - 2)
    return 2 + colour, again % 4


def chart(
    title: str,
    x_label: str,
    y_label: str,
    shown: Sequence[Series],
    styles: Mapping[str, Style],
    start: float = np.inf,
) -> Chart:
    """A chart of these lines. ``styles``: name -> its style; ``start``: where values are read first.

    Bands may reach far out of what the seeds did; they end at the picture's border.
    """
    points = np.concatenate([s.seeds.ravel() if s.seeds.size else s.mean for s in shown])
    margin = 0.1 * float(points.max() - points.min()) or 0.1
    bottom, top = float(points.min()) - margin, float(points.max()) + margin
    first, last = min(s.x[0] for s in shown), max(s.x[-1] for s in shown)
    last = last if last > first else first + 1.0

    def across(x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        share = (np.asarray(x, np.float64) - first) / (last - first)
        return np.asarray(LEFT + share * (WIDTH - LEFT - RIGHT), np.float64)

    def up(y: npt.ArrayLike) -> npt.NDArray[np.float64]:
        share = (np.clip(np.asarray(y, np.float64), bottom, top) - bottom) / (top - bottom)
        return np.asarray(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), np.float64)

    lines = []
    for s in shown:
        colour, dashes = styles[s.name]
        there = across(s.x)
        ends = np.concatenate([up(s.high), up(s.low)[::-1]]) if s.low.size else np.array([])
        area = f"{_path(np.concatenate([there, there[::-1]]), ends)}Z" if ends.size else ""
        seeds = [_path(there, up(seed)) for seed in s.seeds] if len(s.seeds) > 1 else []
        lines.append(Line(s.name, _path(there, up(s.mean)), area, seeds, colour, dashes))
    read = _points(shown, across)
    return Chart(
        title,
        x_label,
        y_label,
        lines,
        [Tick(float(across(x)), short(x)) for x in _ticks(first, last)],
        [Tick(float(up(y)), f"{y:g}") for y in _ticks(bottom, top)],
        read,
        float(up(0.0)) if bottom <= 0 <= top else None,
        any(line.seeds for line in lines),
        len(lines) <= MOST_BANDS and all(len(s.seeds) not in range(1, LEAST_BAND_SEEDS) for s in shown),
        min(range(len(read)), key=lambda i: abs(read[i].x - min(start, last))),
    )


def legend(charts: Sequence[Chart]) -> list[Line]:
    """A line for each name in these charts."""
    return list({line.name: line for chart in charts for line in chart.lines}.values())


def _points(shown: Sequence[Series], across: Callable[[float], npt.NDArray[np.float64]]) -> list[Point]:
    made = []
    for x in sorted({float(x) for s in shown for x in s.x}):
        values: list[Interval | None] = []
        for s in shown:
            where = np.flatnonzero(s.x == x)
            if not len(where):
                values.append(None)
                continue
            i = int(where[0])
            ends = (float(s.low[i]), float(s.high[i])) if s.low.size else (np.nan, np.nan)
            values.append(Interval(float(s.mean[i]), *ends))
        made.append(Point(round(float(across(x)), 1), x, f"{x:,.0f}" if x >= 1000 else f"{x:.3g}", values))
    return made


def _path(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> str:
    """Of one point, a short dash, which is seen."""
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)]
    if len(points) == 1:
        points.append(f"{x[0] + 3:.1f} {y[0]:.1f}")
    return "M" + "L".join(points)


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(5).tick_values(low, high)
    return [round(float(value), 12) for value in found if low <= value <= high]


def short(value: float) -> str:
    """A number as marks of an axis have it: 20k, 1.5M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
