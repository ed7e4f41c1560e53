"""The pictures of an experiment, as PNG: learning curves, areas under them, and the matrix of a sequence."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from graft.agents.checkpoints.files import replace_file
from graft.experiments.report.continual import ContinualResult
from graft.experiments.report.transfer import TransferResult, format_signed, rounded, row_name
from graft.transfer.method import label
from graft.transfer.statistics import interquartile_mean, iqm_interval

COLOURS = ("#7f7f7f", "#b8b8b8", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Controls in grey, then Okabe and Ito's palette, which colour-blind people can tell apart."""

DASHES = ("-", "--", ":", "-.")
"""Of lines that share a colour, where there are more methods than colours."""

LETTERS_PER_INCH = 9
"""Of a legend."""

LABEL = 44
"""Letters in a line of a title or a label; longer ones are broken."""

WORSE = 0.05
"""Below the random policy by this much, a heat map shows it."""

VERDICT_COLOURS = {"positive": "#009e73", "negative": "#d55e00", "unclear": "#b8860b", "baseline": "#7f7f7f"}


def _line(index: int) -> dict[str, str]:
    """Colour and dashes of the method number ``index``, controls first; controls keep their greys."""
    if index < len(COLOURS):
        return {"color": COLOURS[index], "linestyle": DASHES[0]}
    coloured = len(COLOURS) - 2
    again, colour = divmod(index - len(COLOURS), coloured)
    return {"color": COLOURS[2 + colour], "linestyle": DASHES[(again + 1) % len(DASHES)]}


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    pyplot.close(figure)
    replace_file(path, picture.getvalue())


def learning_curves(measured: list[TransferResult], path: Path, title: str) -> None:
    """One panel per target: interquartile mean of the normalised score over seeds, with its 95 % interval.

    Args:
        path: of the PNG.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    targets = list(dict.fromkeys(str(m.comparison.target) for m in measured))
    names = list(dict.fromkeys(_from(m, measured) for m in measured))
    alpha = 0.18 if len(names) <= len(COLOURS) else 0.05  # more bands hide the lines; `areas` shows intervals
    width = 1.5 + max(4.2 * len(targets), 6.0)
    columns = max(1, min(int(width * LETTERS_PER_INCH / (min(LABEL, max(map(len, names))) + 8)), len(names)))
    lines = sum(-(-len(name) // LABEL) for name in names)
    height = 3.6 + 0.22 * -(-lines // columns)
    figure, axes = pyplot.subplots(
        1, len(targets), figsize=(width, height), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, target in zip(axes[0], targets, strict=True):
        for m in (m for m in measured if str(m.comparison.target) == target):
            name = _from(m, measured)
            line = _line(names.index(name))
            steps = np.array(m.curves[0].steps) / 1000
            scores = np.array([c.scores for c in m.curves])
            axis.plot(steps, interquartile_mean(scores, axis=0), **line, label=name)
            bands = [iqm_interval(column) for column in scores.T]
            low, high = [band.low for band in bands], [band.high for band in bands]
            axis.fill_between(steps, low, high, color=line["color"], alpha=alpha, lw=0)
        axis.set_title(textwrap.fill(target, LABEL))
        axis.set_xlabel("env steps on the target (thousands)")
        axis.axhline(0, color="black", lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("score (0 random, 1 expert)")
    handles = {text: handle for axis in axes[0] for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    texts = [textwrap.fill(text, LABEL) for text in handles]
    figure.legend(handles.values(), texts, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def areas(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """One panel per target: every method's mean score over training with its 95 % interval, beside scratch's.

    Args:
        rows: of `graft.experiments.report.transfer.row`.
        path: of the PNG.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    targets = list(dict.fromkeys(row["target"] for row in rows))
    names = list(dict.fromkeys(row_name(row, rows) for row in rows))
    labels = [textwrap.fill(name, LABEL) for name in names]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure, axes = pyplot.subplots(
        1,
        len(targets),
        figsize=(2.4 + 3.2 * len(targets), 1.4 + 0.24 * lines),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, target in zip(axes[0], targets, strict=True):
        for row in (row for row in rows if row["target"] == target):
            auc, colour = row["auc"], VERDICT_COLOURS[row["verdict"]]
            if row["verdict"] == "baseline":
                axis.axvspan(auc["low"], auc["high"], color=colour, alpha=0.2, lw=0)
            height = names.index(row_name(row, rows))
            axis.plot([auc["low"], auc["high"]], [height, height], color=colour, lw=2)
            axis.plot([auc["iqm"]], [height], "o", color=colour, ms=5)
        axis.set_title(textwrap.fill(target, LABEL), fontsize=10)
        axis.set_xlabel("mean score over training")
        axis.axvline(0, color="black", lw=0.5)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(names)), labels, fontsize=9)
    axes[0][0].invert_yaxis()
    figure.suptitle(f"{title}: green surely above scratch, orange surely below, ochre unclear", fontsize=10)
    _save(figure, path)


BEYOND = 3.0
"""Transfer ratios beyond this, either way, have the same colour."""


def pairs(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """One panel per method: the transfer ratio, with its 95 % interval, from every source (row) to every target.

    Where the ratio is undefined, the lower bound is shown if there is one. Targets that are sources come in the same
    order.

    Args:
        rows: of `graft.experiments.report.transfer.row`.
        path: of the PNG.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import Normalize

    carried = [row for row in rows if row["source"]]
    sources, targets, methods = (list(dict.fromkeys(r[key] for r in carried)) for key in ("source", "target", "method"))
    targets.sort(key=lambda target: sources.index(target) if target in sources else len(sources))
    size = (2.2 + 0.95 * len(targets) * len(methods), 1.6 + 0.62 * len(sources))
    figure, axes = pyplot.subplots(1, len(methods), figsize=size, squeeze=False, layout="constrained")
    colours, scale = pyplot.get_cmap("RdBu").with_extremes(bad="#dddddd"), Normalize(-BEYOND, BEYOND)
    image: Any = None
    for axis, method in zip(axes[0], methods, strict=True):
        shown = np.full((len(sources), len(targets)), np.nan)
        for row in (row for row in carried if row["method"] == method):
            place = sources.index(row["source"]), targets.index(row["target"])
            value, text = _cell(row["transfer_ratio"])
            shown[place] = value
            dark = abs(value) > 0.6 * BEYOND  # of nothing this is false
            axis.text(*place[::-1], text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        image = axis.imshow(shown, cmap=colours, norm=scale, aspect="auto")
        axis.set_title(method, fontsize=9)
        axis.set_xticks(range(len(targets)), targets, rotation=30, ha="right", fontsize=8)
        axis.set_yticks(range(len(sources)), sources, fontsize=8)
        axis.set_xlabel("target", fontsize=8)
    axes[0][0].set_ylabel("source", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.7, label="transfer ratio (0: as scratch)", extend="both")
    figure.suptitle(title)
    _save(figure, path)


def _cell(ratio: Mapping[str, float | None]) -> tuple[float, str]:
    """The value that is coloured (nan: none), and what is written."""
    if ratio["iqm"] is not None:
        assert ratio["low"] is not None
        assert ratio["high"] is not None
        return ratio[
            "iqm"
        ], f"{format_signed(ratio['iqm'])}\n[{format_signed(ratio['low'])}, {format_signed(ratio['high'])}]"
    return (np.nan, "undefined") if ratio["low"] is None else (ratio["low"], f"> {format_signed(ratio['low'])}")


def heat_maps(measured: list[ContinualResult], tasks: list[str], path: Path, title: str) -> None:
    """One panel per method: the mean over seeds of R, row = after which task, column = score on which task.

    Args:
        tasks: short names, in the order of the sequence.
        path: of the PNG.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(measured))
    rows = -(-len(measured) // columns)
    side = 0.55 * len(tasks) + 0.9
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(1.2 + side * columns, 1.1 + (side + 0.2) * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(measured) :]:
        axis.set_visible(False)
    image, colours = None, pyplot.get_cmap("viridis").with_extremes(under="#a02020")
    for i, (axis, lived) in enumerate(zip(axes.flat, measured, strict=False)):
        mean = np.mean(lived.matrices, axis=0)
        shown = np.where(mean > -WORSE, np.maximum(mean, 0), mean)
        image = axis.imshow(shown, vmin=0, vmax=1, cmap=colours)
        for (k, j), value in np.ndenumerate(mean):
            if not np.isnan(value):
                colour = "black" if value > 0.6 else "white"
                axis.text(j, k, f"{rounded(value):.2f}", ha="center", va="center", fontsize=7, color=colour)
        axis.set_title(label(lived.method), fontsize=8)
        axis.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", fontsize=7)
        axis.set_yticks(range(len(tasks)), [f"after {t}" for t in tasks] if i % columns == 0 else [], fontsize=7)
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.6, label="score (0 random, 1 expert)", extend="min")
    figure.suptitle(title)
    _save(figure, path)


def _from(measured: TransferResult, others: list[TransferResult]) -> str:
    """Its method, and where there are several sources, which one it is from."""
    several = len({m.comparison.source for m in others if m.comparison.source}) > 1
    name, source = label(measured.comparison.method), measured.comparison.source
    return f"{name} from {source}" if several and source else name
