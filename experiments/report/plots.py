"""PNG plots of an experiment: learning curves, areas under them, performance profiles, ratios of pairs, matrices."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graft.agents.checkpoints.files import replace_file
from graft.experiments.report.common import OWN_SCALE, band, fixed
from graft.experiments.report.continual import ContinualResult
from graft.experiments.report.transfer import TransferResult, format_ratio, row_name
from graft.transfer.method import label
from graft.transfer.statistics import FloatArray, Runs, performance_profile, strata

COLOURS = ("#7f7f7f", "#b8b8b8", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Controls in grey, then Okabe and Ito's palette, which colour-blind people can tell apart."""

DASHES = ("-", "--", ":", "-.")
"""Of lines that share a colour, where there are more methods than colours."""

PANELS = 4  # of learning curves, side by side
LETTERS_PER_INCH, LINE_LETTERS = 9, 44
"""Letters per inch of a legend, and in a line of a title or a label; longer ones are broken."""

LEAST_NEGATIVE = 0.05
"""Scores below the random policy's by less than this are coloured as zero in a score matrix."""

LARGEST_RATIO = 3.0
"""Transfer ratios beyond this, either way, have the same colour."""

VERDICT_COLOURS = {"positive": "#009e73", "negative": "#d55e00", "unclear": "#b8860b", "baseline": "#7f7f7f"}
NO_VERDICT = "#555555"


def _line(index: int) -> dict[str, str]:
    """Colour and dashes of the method number ``index``, controls first; controls keep their greys."""
    if index < len(COLOURS):
        return {"color": COLOURS[index], "linestyle": DASHES[0]}
    again, colour = divmod(index - len(COLOURS), len(COLOURS) - 2)
    return {"color": COLOURS[2 + colour], "linestyle": DASHES[(again + 1) % len(DASHES)]}


def _panels(rows: int, columns: int, width: float, height: float, title: str, **options: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=options.pop("fontsize", "large"))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _save(figure: Any, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    replace_file(path, picture.getvalue())


def _fill(text: str) -> str:
    return textwrap.fill(text, LINE_LETTERS)


def score_axis(estimated: Iterable[bool]) -> str:
    """What a score is, for an axis that scales share of which these are estimates."""
    own = set(estimated)
    if own == {True}:
        return f"score (0 untrained, 1 {OWN_SCALE})"
    return "score (0 random, 1 expert)" if own == {False} else "score (0 random, 1 expert, or as said above)"


def learning_curves(measured: list[TransferResult], path: Path, title: str) -> None:
    """One panel per target: interquartile mean of the normalised score over seeds, with its 95 % interval.

    Intervals of two or three seeds may reach far out of the picture. Targets without a scale show mean returns, each
    in its own panel's range.
    """
    targets = list(dict.fromkeys(str(m.comparison.target) for m in measured))
    rows = [{"method": label(m.comparison.method), "source": m.comparison.source} for m in measured]
    names_of = [row_name(row, rows) for row in rows]
    names = list(dict.fromkeys(names_of))
    alpha = 0.18 if len(names) <= len(COLOURS) else 0.05  # more bands hide the lines; `areas` shows intervals
    beside = min(len(targets), PANELS)
    deep = -(-len(targets) // beside)
    width = 1.5 + max(4.2 * beside, 6.0)
    scored = all(m.scored for m in measured)
    columns = max(1, min(int(width * LETTERS_PER_INCH / (min(LINE_LETTERS, max(map(len, names))) + 8)), len(names)))
    lines = sum(-(-len(name) // LINE_LETTERS) for name in names)
    figure, grid = _panels(deep, beside, width, 3.6 * deep + 0.22 * -(-lines // columns), title, sharey=scored)
    axes = list(grid.flat)
    for axis in axes[len(targets) :]:
        axis.remove()
    for axis, target in zip(axes, targets, strict=False):
        for name, m in zip(names_of, measured, strict=True):
            if str(m.comparison.target) != target:
                continue
            line = _line(names.index(name))
            steps = np.array(m.curves[0].steps) / 1000
            scores = np.array([c.scores for c in m.curves])
            marker = "o" if len(steps) == 1 else None  # only evaluated
            mean, low, high = band(scores)
            axis.plot(steps, mean, **line, label=name, marker=marker)
            if low.size:
                axis.fill_between(steps, low, high, color=line["color"], alpha=alpha, lw=0)
        own = any(m.estimated for m in measured if str(m.comparison.target) == target)
        axis.set_title(_fill(target) + (f"\n1: {OWN_SCALE}" if own and scored else ""))
        axis.set_xlabel("env steps on the target (thousands)")
        axis.axhline(0, color="black", lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    for number, (axis, target) in enumerate(zip(axes, targets, strict=False)):
        if scored and number % beside:
            continue
        shown = [m for m in measured if scored or str(m.comparison.target) == target]
        scores = np.concatenate([curve.scores for m in shown for curve in m.curves])
        margin = 0.1 * (scores.max() - scores.min()) or 0.1
        axis.set_ylim(scores.min() - margin, scores.max() + margin)
        axis.set_ylabel(
            score_axis(m.estimated for m in shown) if shown[0].scored else "mean return (nothing was learned)"
        )
    handles = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), map(_fill, handles), loc="outside lower center", ncols=columns, frameon=False)
    _save(figure, path)


def areas(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """One panel per target: every method's mean score over training with its 95 % interval, and scratch's as a band."""
    from matplotlib.ticker import MaxNLocator

    targets = list(dict.fromkeys(row["target"] for row in rows))
    names = list(dict.fromkeys(row_name(row, rows) for row in rows))
    labels = [_fill(name) for name in names]
    width, height = 2.4 + 3.2 * len(targets), 1.4 + 0.24 * sum(label.count("\n") + 1 for label in labels)
    title += ": green surely above scratch, orange surely below, ochre unclear"
    figure, axes = _panels(1, len(targets), width, height, title, sharey=True, fontsize=10)
    for axis, target in zip(axes[0], targets, strict=True):
        for row in (row for row in rows if row["target"] == target):
            auc, colour = row["auc"], VERDICT_COLOURS.get(row["verdict"], NO_VERDICT)
            y = names.index(row_name(row, rows))
            if auc["low"] is not None:  # a single seed has no interval
                if row["verdict"] == "baseline":
                    axis.axvspan(auc["low"], auc["high"], color=colour, alpha=0.2, lw=0)
                axis.plot([auc["low"], auc["high"]], [y, y], color=colour, lw=2)
            axis.plot([auc["iqm"]], [y], "o", color=colour, ms=5)
        axis.set_title(_fill(target), fontsize=10)
        of_target = [row for row in rows if row["target"] == target]
        scored = all(row.get("scored", True) for row in of_target)
        own = f" (1: {OWN_SCALE})" if any(row.get("estimated") for row in of_target) else ""
        axis.set_xlabel(_fill(f"mean {'score' if scored else 'return'} over training{own}"))
        axis.axvline(0, color="black", lw=0.5)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(names)), labels, fontsize=9)
    axes[0][0].invert_yaxis()
    _save(figure, path)


Panels: TypeAlias = Mapping[str, Mapping[str, Runs]]
"""Title of a panel -> line -> scores of its runs by task."""


def row_scores(rows: Sequence[Mapping[str, Any]]) -> Panels:
    """Per method (and source) the scores of its runs by target: over training, and at its end.

    Targets without a scale are left out; empty where none has one. Titles say where 1 is not an expert.
    """
    rows = [row for row in rows if row.get("scored", True)]
    estimated = list(dict.fromkeys(row["target"] for row in rows if row.get("estimated")))
    alone = len(estimated) == len({row["target"] for row in rows})
    own = f" (1: {OWN_SCALE}{'' if alone else ' on ' + ', '.join(estimated)})" if estimated else ""
    made: dict[str, dict[str, dict[str, list[float]]]] = {}
    for title, key in (("mean score over training", "areas"), ("final score", "finals")):
        for row in rows:
            made.setdefault(title + own, {}).setdefault(row_name(row, rows), {})[row["target"]] = row[key]
    return made


def final_scores(measured: Sequence[ContinualResult], tasks: Sequence[str], estimated: Sequence[str] = ()) -> Panels:
    """Per method the scores of its runs on each task of a sequence once the last was learned.

    ``estimated``: the tasks whose scale is an estimate.
    """
    own = f" (1: {OWN_SCALE} on {', '.join(estimated)})" if estimated else ""
    lines = {label(m.method): {f"{j}. {t}": m.matrices[:, -1, j] for j, t in enumerate(tasks)} for m in measured}
    return {f"score at the end of the sequence{own}": lines}


def score_levels(lines: Mapping[str, Runs], count: int = 201) -> FloatArray:
    """Levels of a performance profile, evenly over all scores, 0 and 1."""
    every = np.concatenate([scores for runs in lines.values() for scores in strata(runs)])
    return np.linspace(min(0.0, every.min()), max(1.0, every.max()), count)


def profiles(panels: Panels, path: Path, title: str) -> None:
    """Performance profiles: per line, the share of runs x tasks that score above each level, with its 95 % interval."""
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    alpha = 0.18 if len(names) <= len(COLOURS) else 0.05
    columns = max(1, min(int(80 / (min(LINE_LETTERS, max(map(len, names))) + 8)), len(names)))
    height = 3.6 + 0.22 * -(-sum(-(-len(name) // LINE_LETTERS) for name in names) // columns)
    figure, axes = _panels(1, len(panels), 1.5 + 4.2 * max(len(panels), 1.5), height, title, sharey=True)
    for axis, (heading, lines) in zip(axes[0], panels.items(), strict=True):
        levels = score_levels(lines)
        for name, runs in lines.items():
            line = _line(names.index(name))
            shares, low, high = performance_profile(runs, levels)
            axis.plot(levels, shares, **line, label=name)
            axis.fill_between(levels, low, high, color=line["color"], alpha=alpha, lw=0)
        axis.set_xlabel(_fill(heading))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("share of runs x tasks above")
    handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), map(_fill, handles), loc="outside lower center", ncols=columns, frameon=False)
    _save(figure, path)


def pairs(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """One panel per method: the transfer ratio, with its 95 % interval, from every source (row) to every target.

    Where the ratio is undefined, its lower bound is shown if there is one. Targets that are sources come in the same
    order.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    rows = [row for row in rows if row["source"]]
    sources, targets, methods = (list(dict.fromkeys(r[key] for r in rows)) for key in ("source", "target", "method"))
    targets.sort(key=lambda target: sources.index(target) if target in sources else len(sources))
    width, height = 2.2 + 0.95 * len(targets) * len(methods), 1.6 + 0.62 * len(sources)
    figure, axes = _panels(1, len(methods), width, height, title)
    colours, scale = colormaps["RdBu"].with_extremes(bad="#dddddd"), Normalize(-LARGEST_RATIO, LARGEST_RATIO)
    image: Any = None
    for axis, method in zip(axes[0], methods, strict=True):
        shown = np.full((len(sources), len(targets)), np.nan)
        for row in (row for row in rows if row["method"] == method):
            i, j, ratio = sources.index(row["source"]), targets.index(row["target"]), row["transfer_ratio"]
            value = None if ratio is None else ratio["low"] if ratio["iqm"] is None else ratio["iqm"]
            shown[i, j] = np.nan if value is None else value
            colour = "white" if abs(shown[i, j]) > 0.6 * LARGEST_RATIO else "black"
            axis.text(j, i, format_ratio(ratio, "\n"), ha="center", va="center", fontsize=7, color=colour)
        image = axis.imshow(shown, cmap=colours, norm=scale, aspect="auto")
        axis.set_title(method, fontsize=9)
        axis.set_xticks(range(len(targets)), targets, rotation=30, ha="right", fontsize=8)
        axis.set_yticks(range(len(sources)), sources, fontsize=8)
        axis.set_xlabel("target", fontsize=8)
    axes[0][0].set_ylabel("source", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.7, label="transfer ratio (0: as scratch)", extend="both")
    _save(figure, path)


def score_matrices(
    measured: list[ContinualResult], tasks: list[str], path: Path, title: str, estimated: Sequence[str] = ()
) -> None:
    """One panel per method: the mean over seeds of R, row = after which task, column = score on which task.

    ``estimated``: the tasks whose scale is an estimate.
    """
    from matplotlib import colormaps

    columns = min(4, len(measured))
    rows = -(-len(measured) // columns)
    side = 0.55 * len(tasks) + 0.9
    figure, axes = _panels(rows, columns, 1.2 + side * columns, 1.1 + (side + 0.2) * rows, title)
    for axis in axes.flat[len(measured) :]:
        axis.set_visible(False)
    image, colours = None, colormaps["viridis"].with_extremes(under="#a02020")
    for i, (axis, result) in enumerate(zip(axes.flat, measured, strict=False)):
        mean = np.mean(result.matrices, axis=0)
        shown = np.where(mean > -LEAST_NEGATIVE, np.maximum(mean, 0), mean)
        image = axis.imshow(shown, vmin=0, vmax=1, cmap=colours)
        for (k, j), value in np.ndenumerate(mean):
            if not np.isnan(value):
                colour = "black" if value > 0.6 else "white"
                axis.text(j, k, fixed(value), ha="center", va="center", fontsize=7, color=colour)
        axis.set_title(label(result.method), fontsize=8)
        axis.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", fontsize=7)
        axis.set_yticks(range(len(tasks)), [f"after {t}" for t in tasks] if i % columns == 0 else [], fontsize=7)
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.6, label="score (0 random, 1 expert)", extend="min")
    if estimated:
        figure.supxlabel(_fill(f"1: {OWN_SCALE} on {', '.join(estimated)}"), fontsize=8)
    _save(figure, path)
