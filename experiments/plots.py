"""Learning curves as PNG."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np

from agents.checkpoint import replace_file
from experiments.lifelong import Lived
from experiments.report import Measured
from transfer.method import label
from transfer.statistics import interquartile_mean, iqm_interval

COLOURS = ("#7f7f7f", "#b8b8b8", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Controls in grey, then Okabe and Ito's palette, which colour-blind people can tell apart."""


def learning_curves(measured: list[Measured], path: Path, title: str) -> None:
    """One panel per target: interquartile mean of the normalised score over seeds, with its 95 % interval.

    Args:
        path: of the PNG.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    targets = list(dict.fromkeys(str(m.comparison.target) for m in measured))
    methods = list(
        dict.fromkeys(
            (m.comparison.source if len(_sources(measured)) > 1 else None, label(m.comparison.method)) for m in measured
        )
    )
    figure, axes = pyplot.subplots(
        1, len(targets), figsize=(1.5 + 4.2 * len(targets), 3.9), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, target in zip(axes[0], targets, strict=True):
        for m in (m for m in measured if str(m.comparison.target) == target):
            source = m.comparison.source if len(_sources(measured)) > 1 else None
            name = label(m.comparison.method)
            colour = COLOURS[methods.index((source, name)) % len(COLOURS)]
            steps = np.array(m.curves[0].steps) / 1000
            scores = np.array([c.scores for c in m.curves])
            axis.plot(
                steps,
                interquartile_mean(scores, axis=0),
                color=colour,
                label=f"{name} from {source}" if source else name,
            )
            bands = [iqm_interval(column) for column in scores.T]
            axis.fill_between(steps, [b.low for b in bands], [b.high for b in bands], color=colour, alpha=0.18, lw=0)
        axis.set_title(target)
        axis.set_xlabel("env steps on the target (thousands)")
        axis.axhline(0, color="black", lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("score (0 random, 1 expert)")
    handles = {text: handle for axis in axes[0] for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = min(2 * len(targets), len(handles))  # more do not fit under the panels
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    pyplot.close(figure)
    replace_file(path, picture.getvalue())


def heat_maps(measured: list[Lived], tasks: list[str], path: Path, title: str) -> None:
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
    image = None
    for i, (axis, lived) in enumerate(zip(axes.flat, measured, strict=False)):
        mean = np.mean(lived.matrices, axis=0)
        image = axis.imshow(mean, vmin=0, vmax=1, cmap="viridis")
        for (k, j), value in np.ndenumerate(mean):
            if not np.isnan(value):
                colour = "black" if value > 0.6 else "white"
                axis.text(j, k, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        axis.set_title(label(lived.method), fontsize=8)
        axis.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", fontsize=7)
        axis.set_yticks(range(len(tasks)), [f"after {t}" for t in tasks] if i % columns == 0 else [], fontsize=7)
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.6, label="score (0 random, 1 expert)")
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    pyplot.close(figure)
    replace_file(path, picture.getvalue())


def _sources(measured: list[Measured]) -> set[str]:
    return {m.comparison.source for m in measured if m.comparison.source}
