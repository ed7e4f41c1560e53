"""Report of a continual experiment: the matrix R of scores, its metrics, and the closing table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from graft.envs.core.task import Bounds
from graft.experiments.config.experiment import SequenceConfig
from graft.experiments.plan.stage import ContinualComparison, Graph
from graft.experiments.report.common import (
    clip_notes,
    cost,
    env_steps,
    estimate_bounds,
    format_score,
    interval,
    score_table,
    seed_notes,
    stage_records,
)
from graft.experiments.store.records import Store
from graft.transfer import metrics
from graft.transfer.method import TransferMethod, label
from graft.transfer.metrics import Curve

Matrices = NDArray[np.float64]


@dataclass(frozen=True)
class ContinualResult:
    """A method on the whole sequence, for the seeds that have finished it.

    Attributes:
        matrices: R per seed, normalised, (S, N, N): row = after which task, column = score on which task; NaN where a
            task was not evaluated.
        curves: per seed and task, the normalised score while it was learned.
        sizes: per seed, parameters and bytes of memory in the end.
        missing: number of seeds whose stages failed or have not run.
        env_steps: of one seed, on all tasks.
    """

    method: TransferMethod
    matrices: Matrices
    curves: tuple[tuple[Curve, ...], ...]
    sizes: tuple[Mapping[str, int], ...]
    missing: int
    env_steps: Mapping[str, int] = field(default_factory=dict)


def task_bounds(config: SequenceConfig, graph: Graph, store: Store) -> list[Bounds]:
    """Scale of every task: the config's, else the registered one, else an estimate from this experiment's runs."""
    scales = []
    for j, entry in enumerate(config.sequence):
        ids = [run[j] for comparison in graph.continual for run in comparison.trained]
        scratch = [run[j] for comparison in graph.continual if comparison.method.baseline for run in comparison.trained]
        scales.append(entry.scale or estimate_bounds(store, ids, scratch))
    return scales


def _matrix(consolidated: Sequence[str], curves: Sequence[Curve], scales: Sequence[Bounds], store: Store) -> Matrices:
    count = len(scales)
    matrix = np.full((count, count), np.nan)
    for k in range(count):
        if not consolidated:  # a network for each task
            matrix[k:, k] = metrics.final_score(curves[k])
            continue
        record = store.record(consolidated[k])
        assert record is not None
        for j, entry in enumerate(record["recall"]):
            matrix[k, j] = scales[j].normalise(entry["return_mean"])
    return matrix


def measure(config: SequenceConfig, graph: Graph, store: Store) -> list[ContinualResult]:
    """Results of every method that has finished the sequence on any seed."""
    scales = task_bounds(config, graph, store)
    measured = [_measure(comparison, scales, store) for comparison in graph.continual]
    return [result for result in measured if len(result.matrices)]


def _measure(comparison: ContinualComparison, scales: Sequence[Bounds], store: Store) -> ContinualResult:
    matrices, curves, sizes = [], [], []
    for trained, consolidated in zip(
        comparison.trained, comparison.consolidated or [()] * len(comparison.trained), strict=True
    ):
        if not all(store.done(i) for i in (*trained, *consolidated)):
            continue
        own = tuple(store.evaluations(i, scale) for i, scale in zip(trained, scales, strict=True))
        curves.append(own)
        sizes.append(_size(store, consolidated[-1:] or trained))
        matrices.append(_matrix(consolidated, own, scales, store))
    steps = {
        kind: max((env_steps(store, ids) for ids in runs), default=0)  # of the seed that took most
        for kind, runs in (("training", comparison.trained), ("consolidation", comparison.consolidated))
    }
    missing = len(comparison.seeds) - len(matrices)
    return ContinualResult(comparison.method, np.array(matrices), tuple(curves), tuple(sizes), missing, steps)


def _size(store: Store, stage_ids: Sequence[str]) -> dict[str, int]:
    records = [store.record(i) or {} for i in stage_ids]
    return {name: sum(record["size"][name] for record in records) for name in ("parameters", "bytes_beside")}


def forward_transfer(result: ContinualResult, scratch: ContinualResult) -> list[float]:
    """Per seed, the mean over tasks after the first of the forward transfer of its AUC over the mean of scratch's.

    NaN where scratch leaves nothing to gain on any task.

    Source: Wolczyk et al. 2021 (Continual World); their mean includes the first task.
    """
    base = np.mean([[metrics.area(curve) for curve in run[1:]] for run in scratch.curves], axis=0)
    means = []
    for run in result.curves:
        values = [metrics.forward_transfer(metrics.area(c), b) for c, b in zip(run[1:], base.tolist(), strict=True)]
        means.append(float(np.mean([v for v in values if v is not None] or [np.nan])))
    return means


def intransigence(result: ContinualResult, scratch: ContinualResult) -> list[float]:
    """Per seed, the mean over tasks after the first of scratch's final score minus R[k, k]: what could not be learned.

    Source: Chaudhry et al. 2018 (Riemannian walk), eq. 3, with scratch on the task's own budget as the reference.
    """
    reference = np.mean([[metrics.final_score(c) for c in run] for run in scratch.curves], axis=0)
    own = np.diagonal(result.matrices, axis1=1, axis2=2)
    return [float(v) for v in (reference - own)[:, 1:].mean(axis=1)]


def row(result: ContinualResult, scratch: ContinualResult | None) -> dict[str, Any]:
    """A row of the table; the fields are described in docs/output.md."""

    def of_each(metric: Callable[[Matrices], float]) -> dict[str, float] | None:
        return interval([metric(matrix) for matrix in result.matrices])

    return {
        "method": label(result.method),
        "seeds": len(result.matrices),
        "missing_seeds": result.missing,
        "network_per_task": not result.method.uses_source,
        "reference": "reference" in result.method.provides,
        "average_performance": of_each(metrics.average_performance),
        "forgetting": of_each(lambda m: metrics.forgetting(m, include_last=False)),
        "backward_transfer": of_each(metrics.backward_transfer),
        "learned": of_each(lambda m: float(np.diagonal(m)[1:].mean())),
        "forward_transfer": None if scratch is None else interval(forward_transfer(result, scratch)),
        "intransigence": None if scratch is None else interval(intransigence(result, scratch)),
        "parameters": int(np.median([size["parameters"] for size in result.sizes])),
        "bytes_beside": int(np.median([size["bytes_beside"] for size in result.sizes])),
        "env_steps": dict(result.env_steps),
        "matrix": _json(np.mean(result.matrices, axis=0)),
        "matrices": [_json(matrix) for matrix in result.matrices],
    }


def _json(matrix: Matrices) -> list[list[float | None]]:
    return [[None if np.isnan(v) else round(float(v), 6) for v in line] for line in matrix]


def results(
    config: SequenceConfig, graph: Graph, store: Store, measured: list[ContinualResult], failed: Mapping[str, str]
) -> dict[str, Any]:
    """What ``results.json`` holds."""
    scratch = next((result for result in measured if result.method.baseline), None)
    return {
        "name": config.name,
        "sequence": [str(entry.task) for entry in config.sequence],
        "heads": config.heads,
        "task_known": config.task_known,
        "bounds": [scale._asdict() for scale in task_bounds(config, graph, store)],
        "rows": [row(result, scratch) for result in measured],
        "stages": stage_records(graph, store, failed),
    }


def table(data: Mapping[str, Any], width: int = 80) -> Table:
    """The closing table; it fits ``width`` columns."""
    longest = max((len(row["method"]) for row in data["rows"]), default=0)
    spare = max(0, width - 80)  # first for intervals below zero, then for long names
    wide = min(spare // 2, 2)
    widths = {"method": max(17, min(longest, 17 + spare - 2 * wide)), "performance": 18 + wide, "forgetting": 18 + wide}
    made = score_table(" → ".join(data["sequence"]), {**widths, "learned": 7, "forward": 7, "size": 6})
    for entry in data["rows"]:
        kilobytes = (4 * entry["parameters"] + entry["bytes_beside"]) / 1000
        made.add_row(
            entry["method"],
            format_score(entry["average_performance"], ", "),
            "-" if entry["network_per_task"] else format_score(entry["forgetting"], ", "),
            format_score(entry["learned"]),
            format_score(entry["forward_transfer"]),
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
            if entry is not reference and not entry["network_per_task"]:
                share = entry["forgetting"]["iqm"] / base
                gain = entry["average_performance"]["iqm"] - performance
                lines.append(
                    f"{entry['method']}: {share:.0%} of {reference['method']}'s forgetting, performance {gain:+.2f}."
                )
    lines += clip_notes(data)
    lines += seed_notes(data["rows"])
    estimated = [t for t, b in zip(data["sequence"], data["bounds"], strict=True) if b["how"].startswith("estimated")]
    if estimated:
        lines.append(f"Scores of {', '.join(estimated)} are scaled by estimates from this experiment.")
    return [*lines, cost(data)]
