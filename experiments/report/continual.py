"""From the finished stages of a sequence to its numbers: the matrix R, and what is read from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from graft.envs.core.task import Bounds
from graft.experiments.config.experiment import SequenceConfig
from graft.experiments.plan.stage import ContinualComparison, Graph
from graft.experiments.report.transfer import cost, estimate, rounded, stage_records
from graft.experiments.store.records import Store
from graft.transfer import metrics
from graft.transfer.method import TransferMethod, label
from graft.transfer.metrics import Curve
from graft.transfer.statistics import Interval, iqm_interval

Matrices = NDArray[np.float64]


@dataclass(frozen=True)
class ContinualResult:
    """A method on the whole sequence, for the seeds that are through.

    ``matrices`` (S, N, N): R per seed, normalised: row = after which task, column = score on which task; NaN where a
    task was not tried. ``curves``: per seed and task, the normalised score while it was learned. ``env_steps``: of one
    seed, on all tasks.
    """

    method: TransferMethod
    matrices: Matrices
    curves: tuple[tuple[Curve, ...], ...]
    sizes: tuple[Mapping[str, int], ...]
    missing: int
    env_steps: Mapping[str, int] = field(default_factory=dict)


def task_bounds(config: SequenceConfig, graph: Graph, store: Store) -> list[Bounds]:
    """Scale of every task: the config's, else the registered one, else an estimate from this experiment's runs."""
    found = []
    for j, entry in enumerate(config.sequence):
        ids = [run[j] for life in graph.continual for run in life.trained]
        base = [run[j] for life in graph.continual if life.method.baseline for run in life.trained]
        found.append(entry.scale or estimate(store, ids, base))
    return found


def _normalised(curve: Curve, scale: Bounds) -> Curve:
    return Curve(curve.steps, [scale.normalise(score) for score in curve.scores])


def _matrix(
    life: ContinualComparison, seed: int, curves: Sequence[Curve], scales: Sequence[Bounds], store: Store
) -> Matrices:
    count = len(scales)
    matrix = np.full((count, count), np.nan)
    for k in range(count):
        if not life.consolidated:  # a network of its own for each task
            matrix[k:, k] = metrics.final_score(curves[k])
            continue
        record = store.record(life.consolidated[seed][k])
        assert record is not None
        for j, entry in enumerate(record["recall"]):
            matrix[k, j] = scales[j].normalise(entry["return_mean"])
    return matrix


def measure(config: SequenceConfig, graph: Graph, store: Store) -> list[ContinualResult]:
    """What every method did, as far as its seeds are through."""
    scales, found = task_bounds(config, graph, store), []
    for life in graph.continual:
        matrices, curves, sizes = [], [], []
        for seed in range(len(life.seeds)):
            ids = [*life.trained[seed], *(life.consolidated[seed] if life.consolidated else ())]
            if not all(store.done(i) for i in ids):
                continue
            own = tuple(_normalised(store.evaluations(i), s) for i, s in zip(life.trained[seed], scales, strict=True))
            curves.append(own)
            sizes.append(_size(store, ids[-1:] if life.consolidated else ids))
            matrices.append(_matrix(life, seed, own, scales, store))
        if matrices:
            missing = len(life.seeds) - len(matrices)
            steps = {"training": _steps(store, life.trained), "consolidation": _steps(store, life.consolidated)}
            found.append(ContinualResult(life.method, np.array(matrices), tuple(curves), tuple(sizes), missing, steps))
    return found


def _steps(store: Store, runs: Sequence[Sequence[str]]) -> int:
    """Of the seed that took most."""
    return max((sum((store.record(i) or {}).get("env_steps", 0) for i in ids) for ids in runs), default=0)


def _size(store: Store, stage_ids: Sequence[str]) -> dict[str, int]:
    """Of all networks that are needed in the end, each from the stage that left it."""
    records = [store.record(i) or {} for i in stage_ids]
    return {name: sum(record["size"][name] for record in records) for name in ("parameters", "bytes_beside")}


def _interval(values: Sequence[float]) -> dict[str, float]:
    return Interval(*iqm_interval(values))._asdict()


def _defined(values: Sequence[float]) -> dict[str, float] | None:
    return None if any(np.isnan(values)) else _interval(values)


def forward_transfer(lived: ContinualResult, scratch: ContinualResult) -> list[float]:
    """Per seed, the mean over tasks after the first of the forward transfer of its AUC over the mean of scratch's.

    NaN where scratch leaves nothing to gain on any task.

    Source: Wolczyk et al. 2021 (Continual World); their mean includes the first task.
    """
    base = np.mean([[metrics.area(curve) for curve in run[1:]] for run in scratch.curves], axis=0)
    found = []
    for run in lived.curves:
        values = [metrics.forward_transfer(metrics.area(c), b) for c, b in zip(run[1:], base.tolist(), strict=True)]
        found.append(float(np.mean([v for v in values if v is not None] or [np.nan])))
    return found


def intransigence(lived: ContinualResult, scratch: ContinualResult) -> list[float]:
    """Per seed, the mean over tasks after the first of scratch's final score minus R[k, k]: what could not be learned.

    Source: Chaudhry et al. 2018 (Riemannian walk), eq. 3, with scratch on the task's own budget as the reference.
    """
    reference = np.mean([[metrics.final_score(c) for c in run] for run in scratch.curves], axis=0)
    own = np.diagonal(lived.matrices, axis1=1, axis2=2)
    return [float(v) for v in (reference - own)[:, 1:].mean(axis=1)]


def row(lived: ContinualResult, scratch: ContinualResult | None) -> dict[str, Any]:
    """A row of the table; the fields are described in docs/output.md."""

    def of_each(metric: Callable[[Matrices], float]) -> dict[str, float]:
        return _interval([metric(matrix) for matrix in lived.matrices])

    return {
        "method": label(lived.method),
        "seeds": len(lived.matrices),
        "missing_seeds": lived.missing,
        "network_per_task": not lived.method.uses_source,
        "reference": "reference" in lived.method.provides,
        "average_performance": of_each(metrics.average_performance),
        "forgetting": of_each(lambda m: metrics.forgetting(m, include_last=False)),
        "backward_transfer": of_each(metrics.backward_transfer),
        "learned": of_each(lambda m: float(np.diagonal(m)[1:].mean())),
        "forward_transfer": None if scratch is None else _defined(forward_transfer(lived, scratch)),
        "intransigence": None if scratch is None else _interval(intransigence(lived, scratch)),
        "parameters": int(np.median([size["parameters"] for size in lived.sizes])),
        "bytes_beside": int(np.median([size["bytes_beside"] for size in lived.sizes])),
        "env_steps": dict(lived.env_steps),
        "matrix": _rows(np.mean(lived.matrices, axis=0)),
        "matrices": [_rows(matrix) for matrix in lived.matrices],
    }


def _rows(matrix: Matrices) -> list[list[float | None]]:
    return [[None if np.isnan(v) else round(float(v), 6) for v in line] for line in matrix]


def results(
    config: SequenceConfig, graph: Graph, store: Store, measured: list[ContinualResult], failed: Mapping[str, str]
) -> dict[str, Any]:
    """What ``results.json`` holds."""
    scratch = next((lived for lived in measured if lived.method.baseline), None)
    scales = task_bounds(config, graph, store)
    return {
        "name": config.name,
        "sequence": [str(entry.task) for entry in config.sequence],
        "heads": config.heads,
        "task_known": config.task_known,
        "bounds": [scale._asdict() for scale in scales],
        "rows": [row(lived, scratch) for lived in measured],
        "stages": stage_records(graph, store, failed),
    }


def _cell(values: Mapping[str, float] | None, interval: bool = True) -> str:
    if values is None:
        return "-"
    iqm, low, high = (rounded(values[name]) for name in ("iqm", "low", "high"))
    return f"{iqm:.2f}" + (f" [{low:.2f}, {high:.2f}]" if interval else "")


def table(data: Mapping[str, Any], width: int = 80) -> Table:
    """The closing table; it fits ``width`` columns."""
    longest = max((len(row["method"]) for row in data["rows"]), default=0)
    more = max(0, width - 80)  # first for intervals below zero, then for long names
    wide = min(more // 2, 2)
    made = Table(
        title=" → ".join(data["sequence"]), title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=0
    )
    for name, width in zip(
        ("method", "performance", "forgetting", "learned", "forward", "size"),
        (max(17, min(longest, 17 + more - 2 * wide)), 18 + wide, 18 + wide, 7, 7, 6),
        strict=True,
    ):
        made.add_column(name, width=width, justify="left" if name == "method" else "right", overflow="fold")
    for entry in data["rows"]:
        kilobytes = (4 * entry["parameters"] + entry["bytes_beside"]) / 1000
        made.add_row(
            entry["method"],
            _cell(entry["average_performance"]),
            "-" if entry["network_per_task"] else _cell(entry["forgetting"]),
            _cell(entry["learned"], interval=False),
            _cell(entry["forward_transfer"], interval=False),
            f"{kilobytes:,.0f}k" if kilobytes < 10_000 else f"{kilobytes / 1000:,.0f}M",
        )
    return made


def notes(data: Mapping[str, Any]) -> list[str]:
    """Sentences under the table."""
    known = "is told which task it is in" if data["task_known"] else "is not told which task it is in"
    lines = [
        f"Scores: 0 = random policy, 1 = expert. performance: mean over all tasks at the end; forgetting: mean over "
        f"earlier tasks of the score when learned minus the score at the end; learned: mean score of the tasks after "
        f"the first when learned; forward: (mean score while learning - scratch's) / (1 - scratch's); size: bytes of "
        f"network and memory at the end. Heads are {data['heads'].replace('_', ' ')}, and the agent {known}.",
        "scratch and random_frozen have a network for each task, and so forget nothing.",
    ]
    reference = next((r for r in data["rows"] if r["reference"]), None)
    if reference is not None and reference["forgetting"]["iqm"] > 0:
        base, performance = reference["forgetting"]["iqm"], reference["average_performance"]["iqm"]
        for entry in data["rows"]:
            if entry is reference or entry["network_per_task"]:
                continue
            share = entry["forgetting"]["iqm"] / base
            gain = entry["average_performance"]["iqm"] - performance
            lines.append(
                f"{entry['method']}: {share:.0%} of {reference['method']}'s forgetting, performance {gain:+.2f}."
            )
    lines += [f"{r['method']}: {r['missing_seeds']} seeds missing." for r in data["rows"] if r["missing_seeds"]]
    if 0 < min((r["seeds"] for r in data["rows"]), default=0) < 5:
        lines.append("Fewer than 5 seeds: the intervals are too narrow for a claim.")
    estimated = [t for t, b in zip(data["sequence"], data["bounds"], strict=True) if b["how"].startswith("estimated")]
    if estimated:
        lines.append(f"Scores of {', '.join(estimated)} are scaled by estimates from this experiment.")
    return [*lines, cost(data)]
