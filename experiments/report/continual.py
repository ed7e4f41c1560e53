"""Report of a continual experiment: the matrix R of scores, its metrics, and the closing table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from graft.envs.core.task import Bounds
from graft.experiments.config.experiment import SequenceConfig
from graft.experiments.plan.stage import ContinualComparison, Graph
from graft.experiments.report import costs
from graft.experiments.report.common import (
    NO_SCRATCH,
    OWN_SCALE,
    TWO_GROUPS,
    Best,
    Name,
    audit_notes,
    bounded,
    clip_notes,
    diverged_words,
    env_steps,
    estimate_bounds,
    failed_notes,
    format_score,
    has_scale,
    interval,
    is_estimated,
    resume_notes,
    score_table,
    seed_notes,
    stage_records,
    unfinished_notes,
)
from graft.experiments.report.results import VERSION
from graft.experiments.store.records import COST, Store
from graft.transfer import metrics
from graft.transfer.method import TransferMethod, label
from graft.transfer.metrics import Curve
from graft.transfer.statistics import Estimate, bootstrap, interquartile_mean, iqm_estimate, is_bimodal, ratio_interval

Matrices = NDArray[np.float64]


@dataclass(frozen=True)
class ContinualResult:
    """A method on the whole sequence, for the seeds that have finished it.

    Attributes:
        matrices: R per seed, normalised, (S, N, N): row = after which task, column = score on which task; NaN where a
            task was not evaluated.
        curves: per seed and task, the normalised score while it was learned.
        sizes: per seed, parameters and bytes of memory in the end.
        missing: number of seeds whose stages failed or have not run. diverged: those of them in which one diverged.
        env_steps: of one seed, on all tasks.
        networks: per seed, (seed, id of the stage that made the last network).
        stages: per seed, ids of the stages whose curves these are, in the order of the tasks.
        spent: per seed, ids of all its stages, consolidations as well.
    """

    method: TransferMethod
    matrices: Matrices
    curves: tuple[tuple[Curve, ...], ...]
    sizes: tuple[Mapping[str, int], ...]
    missing: int
    env_steps: Mapping[str, int] = field(default_factory=dict)
    networks: tuple[tuple[int, str], ...] = ()
    stages: tuple[tuple[str, ...], ...] = ()
    spent: tuple[tuple[str, ...], ...] = ()
    diverged: int = 0


def task_bounds(config: SequenceConfig, graph: Graph, store: Store) -> list[Bounds]:
    """Scale of every task: the config's, else the registered one, else an estimate from this experiment's runs.

    Where there is none (`has_scale`), the expert's return is infinite, so that every score is 0.
    """
    scales = []
    for j, entry in enumerate(config.sequence):
        ids = [run[j] for comparison in graph.continual for run in comparison.trained]
        scratch = [run[j] for comparison in graph.continual if comparison.method.baseline for run in comparison.trained]
        scales.append(entry.scale or estimate_bounds(store, ids, scratch, inf))
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
    matrices, curves, sizes, networks, stages, spent = [], [], [], [], [], []
    consolidations = comparison.consolidated or [()] * len(comparison.trained)
    runs = list(zip(comparison.trained, consolidations, strict=True))
    for seed, (trained, consolidated) in zip(comparison.seeds, runs, strict=True):
        if not all(store.done(i) for i in (*trained, *consolidated)):
            continue
        own = tuple(store.evaluations(i, scale) for i, scale in zip(trained, scales, strict=True))
        curves.append(own)
        networks.append((seed, (consolidated or trained)[-1]))
        stages.append(tuple(trained))
        spent.append((*consolidated, *trained))
        sizes.append(_size(store, consolidated[-1:] or trained))
        matrices.append(_matrix(consolidated, own, scales, store))
    steps = {
        kind: max((env_steps(store, ids) for ids in runs), default=0)  # of the seed that took most
        for kind, runs in (("training", comparison.trained), ("consolidation", comparison.consolidated))
    }
    missing = len(comparison.seeds) - len(matrices)
    return ContinualResult(
        comparison.method,
        np.array(matrices),
        tuple(curves),
        tuple(sizes),
        missing,
        steps,
        tuple(networks),
        tuple(stages),
        tuple(spent),
        sum(any(map(store.diverged, (*run, *after))) for run, after in runs),
    )


def _size(store: Store, stage_ids: Sequence[str]) -> dict[str, int]:
    records = [store.record(i) or {} for i in stage_ids]
    return {name: sum(record["size"][name] for record in records) for name in ("parameters", "bytes_beside")}


def forward_transfer(result: ContinualResult, scratch: ContinualResult) -> Estimate | None:
    """Interquartile mean over seeds of the mean over tasks after the first of (A - B) / (1 - B).

    A is a seed's AUC on the task and B the mean of scratch's seeds, whose error counts as well. Tasks on which B leaves
    nothing to gain (1 - B < 0.01) are left out; None where that is all of them.

    Source: Wolczyk et al. 2021 (Continual World); their mean includes the first task.
    """
    own, base = (np.array([[metrics.area(c) for c in run[1:]] for run in r.curves]) for r in (result, scratch))
    open_tasks = 1 - base.mean(axis=0) >= metrics.SMALLEST_DENOMINATOR
    if not open_tasks.any():
        return None

    def gain(own: Matrices, base: Matrices) -> Matrices:
        mean = base.mean(axis=1, keepdims=True)
        gains = (own - mean) / np.maximum(1 - mean, metrics.SMALLEST_DENOMINATOR)
        return interquartile_mean(gains.mean(axis=2), axis=1)

    return bootstrap(gain, own[:, open_tasks], base[:, open_tasks])


def intransigence(result: ContinualResult, scratch: ContinualResult) -> Estimate:
    """Interquartile mean over seeds of the mean over tasks after the first of B - R[k, k]: what could not be learned.

    B is the mean final score of scratch's seeds, whose error counts as well.

    Source: Chaudhry et al. 2018 (Riemannian walk), eq. 3, with scratch on the task's own budget as the reference.
    """
    base = np.array([[metrics.final_score(c) for c in run[1:]] for run in scratch.curves])
    own = np.diagonal(result.matrices, axis1=1, axis2=2)[:, 1:]

    def loss(own: Matrices, base: Matrices) -> Matrices:
        return interquartile_mean((base.mean(axis=1, keepdims=True) - own).mean(axis=2), axis=1)

    return bootstrap(loss, own, base)


def _performances(result: ContinualResult) -> list[float]:
    return [metrics.average_performance(matrix) for matrix in result.matrices]


def _forgotten(result: ContinualResult) -> list[float]:
    return [metrics.forgetting(matrix, include_last=False) for matrix in result.matrices]


def _against(result: ContinualResult, reference: ContinualResult) -> dict[str, dict[str, float | None] | None]:
    """Performance minus the reference's, and forgetting divided by it where it forgets, with the errors of both."""
    gain = iqm_estimate(_performances(result)) - iqm_estimate(_performances(reference))
    own, base = iqm_estimate(_forgotten(result)), iqm_estimate(_forgotten(reference))
    several = min(len(result.matrices), len(reference.matrices)) > 1  # no ratio of one seed
    share = bounded(ratio_interval(own, base)) if base.value > 0 and several else None
    return {"performance": bounded(gain.interval()), "forgetting": share}


def row(
    result: ContinualResult, scratch: ContinualResult | None, reference: ContinualResult | None = None
) -> dict[str, Any]:
    """A row of the table; the fields are described in docs/output.md."""

    def of_each(metric: Callable[[Matrices], float]) -> dict[str, float | None] | None:
        return interval([metric(matrix) for matrix in result.matrices])

    gained = None if scratch is None else forward_transfer(result, scratch)
    return {
        "method": label(result.method),
        "seeds": len(result.matrices),
        "missing_seeds": result.missing,
        "diverged_seeds": result.diverged,
        "network_per_task": not result.method.uses_source,
        "reference": "reference" in result.method.provides,
        "average_performance": interval(_performances(result)),
        "bimodal": is_bimodal(_performances(result)),
        "forgetting": interval(_forgotten(result)),
        "backward_transfer": of_each(metrics.backward_transfer),
        "learned": of_each(lambda m: float(np.diagonal(m)[1:].mean())),
        "forward_transfer": None if gained is None else bounded(gained.interval()),
        "intransigence": None if scratch is None else bounded(intransigence(result, scratch).interval()),
        "against_reference": None if reference in (None, result) else _against(result, reference),
        "parameters": int(np.median([size["parameters"] for size in result.sizes])),
        "bytes_beside": int(np.median([size["bytes_beside"] for size in result.sizes])),
        "env_steps": dict(result.env_steps),
        "matrix": _json(np.mean(result.matrices, axis=0)),
        "matrices": [_json(matrix) for matrix in result.matrices],
        "stages": [list(ids) for ids in result.stages],
    }


def _json(matrix: Matrices) -> list[list[float | None]]:
    return [[None if np.isnan(v) else round(float(v), 6) for v in line] for line in matrix]


def results(
    config: SequenceConfig, graph: Graph, store: Store, measured: list[ContinualResult], failed: Mapping[str, str]
) -> dict[str, Any]:
    """What ``results.json`` holds."""
    scratch = next((result for result in measured if result.method.baseline), None)
    reference = next((result for result in measured if "reference" in result.method.provides), None)
    stages = stage_records(graph, store, failed)
    return {
        "version": VERSION,
        "name": config.name,
        "sequence": [str(entry.task) for entry in config.sequence],
        "heads": config.heads,
        "task_known": config.task_known,
        "bounds": [
            {**scale._asdict(), "expert": scale.expert if isfinite(scale.expert) else None}
            for scale in task_bounds(config, graph, store)
        ],
        "rows": [
            row(result, scratch, reference) | {COST: costs.of_seeds(store, [], result.spent, config.cost)}
            for result in measured
        ],
        "stages": stages,
        COST: costs.of_experiment(stages, config.cost),
    }


def table(data: Mapping[str, Any], width: int = 80) -> Table:
    """The closing table; it fits ``width`` columns."""
    longest = max((len(row["method"] + diverged_words(row)) for row in data["rows"]), default=0)
    spare = max(0, width - 80)  # first for intervals below zero, then for long names
    wide = min(spare // 2, 2)
    widths = {"method": max(17, min(longest, 17 + spare - 2 * wide)), "performance": 18 + wide, "forgetting": 18 + wide}
    made = score_table(" → ".join(data["sequence"]), {**widths, "learned": 7, "forward": 7, "size": 6})
    for entry in data["rows"]:
        kilobytes = (4 * entry["parameters"] + entry["bytes_beside"]) / 1000
        made.add_row(
            Name(entry["method"] + diverged_words(entry)),
            format_score(entry["average_performance"], ", "),
            "-" if entry["network_per_task"] else format_score(entry["forgetting"], ", "),
            format_score(entry["learned"]),
            format_score(entry["forward_transfer"]),
            f"{kilobytes:,.0f}k" if kilobytes < 10_000 else f"{kilobytes / 1000:,.0f}M",
        )
    return made


def _with_bounds(values: Mapping[str, float | None], style: str) -> str:
    iqm, low, high = values["iqm"], values["low"], values["high"]
    if iqm is None:
        return "-"
    ends = ("-inf" if low is None else f"{low:{style}}", "inf" if high is None else f"{high:{style}}")
    return f"{iqm:{style}}" if low is None and high is None else f"{iqm:{style}} [{', '.join(ends)}]"


def best(measured: Sequence[ContinualResult]) -> list[Best]:
    """The run with the best mean score over all tasks at the end, of one network that learned them all."""
    found = [
        Best("all tasks", f"{label(result.method)}, seed {seed}", score, stage)
        for result in measured
        if result.method.uses_source
        for (seed, stage), score in zip(result.networks, _performances(result), strict=False)
    ]
    return [max(found, key=lambda one: one.score)] if found else []


def own_scale(data: Mapping[str, Any]) -> list[str]:
    """Tasks whose scale is an estimate from the experiment's own runs."""
    return [t for t, b in zip(data["sequence"], data["bounds"], strict=True) if is_estimated(b["how"])]


def score_words(data: Mapping[str, Any]) -> str:
    """On which scale the scores of a sequence are."""
    own, estimated = f"0 = untrained scratch, 1 = {OWN_SCALE}", own_scale(data)
    if len(estimated) == len(data["bounds"]):
        return f"Scores: {own}."
    return f"Scores: 0 = random policy, 1 = expert{f'; where estimated, {own}' if estimated else ''}."


def notes(data: Mapping[str, Any]) -> list[str]:
    """Sentences under the table: two on how to read it, then what compares methods and what to be warned of."""
    known = "is told which task it is in" if data["task_known"] else "is not told which task it is in"
    lines = [
        f"{score_words(data)} performance: mean over all tasks at the end; forgetting: mean over "
        f"earlier tasks of the score when learned minus the score at the end; learned: mean score of the tasks after "
        f"the first when learned; forward: (mean score while learning - scratch's) / (1 - scratch's); size: bytes of "
        f"network and memory at the end. Heads are {data['heads'].replace('_', ' ')}, and the agent {known}.",
        "scratch and random_frozen have a network for each task, and so forget nothing.",
        *reference_notes(data),
    ]
    split = [entry["method"] for entry in data["rows"] if entry["bimodal"]]
    if split:
        lines.append(f"{', '.join(split)}: {TWO_GROUPS} 'matrices' in results.json shows them.")
    lines += [*failed_notes(data), *unfinished_notes(data), *clip_notes(data), *audit_notes(data), *resume_notes(data)]
    return [*lines, *seed_notes(data["rows"]), *scale_notes(data), costs.sentence(data)]


def reference_notes(data: Mapping[str, Any]) -> list[str]:
    """A sentence for each method that is compared with the reference."""
    lines = []
    reference = next((r["method"] for r in data["rows"] if r["reference"]), None)
    for entry in data["rows"]:
        compared = entry["against_reference"]
        if compared is None or entry["network_per_task"]:
            continue
        if compared["forgetting"] is not None and compared["performance"] is not None:
            lines.append(
                f"{entry['method']}: {_with_bounds(compared['forgetting'], '.0%')} of {reference}'s forgetting, "
                f"performance {_with_bounds(compared['performance'], '+.2f')}."
            )
    return lines


def scale_notes(data: Mapping[str, Any]) -> list[str]:
    """Sentences on tasks that have no scale, or one that was estimated."""
    lines = []
    scales = list(zip(data["sequence"], data["bounds"], strict=True))
    if alone := [task for task, scale in scales if scale["how"] == NO_SCRATCH]:
        lines.append(
            f"NO SCALE for {', '.join(alone)}: no run of scratch has finished there, and scores on it are 0. Add "
            f"scratch to the methods, or give the task 'bounds: [random, expert]'."
        )
    if without := [task for task, scale in scales if not has_scale(scale["how"]) and scale["how"] != NO_SCRATCH]:
        lines.append(
            f"NOTHING LEARNED on {', '.join(without)}: no run ends above untrained scratch. So there is no scale, and "
            f"scores on it are 0; its returns are in metrics.jsonl of its stages. Train for longer, or give the task "
            f"'bounds: [random, expert]'."
        )
    if estimated := own_scale(data):
        lines.append(
            f"Scores of {', '.join(estimated)} are scaled by estimates from this experiment: 0 is untrained scratch, 1 "
            f"the {OWN_SCALE} (its best final return)."
        )
    return lines
