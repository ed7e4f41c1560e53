"""The l2metrics suite of a sequence: its runs as blocks of training and tests, the metrics, and logs for that tool."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from graft.experiments.report.common import Name, fixed, score_table
from graft.experiments.report.continual import ContinualResult
from graft.transfer.lifelong import Block, Experts, lifelong_metrics
from graft.transfer.method import label
from graft.transfer.statistics import interquartile_mean

METRICS = (
    "performance_maintenance",
    "forward_transfer_ratio",
    "forward_transfer_contrast",
    "backward_transfer_ratio",
    "backward_transfer_contrast",
    "relative_performance",
    "sample_efficiency",
)

COLUMNS = {
    "maintained": "performance_maintenance",
    "forward": "forward_transfer_ratio",
    "backward": "backward_transfer_ratio",
    "relative": "relative_performance",
    "efficiency": "sample_efficiency",
}

NOTE = (
    "Lifelong metrics, as l2metrics defines them: maintained: later tests minus the first one after training; forward, "
    "backward: a task's test after another task was trained, divided by the one before; relative: sum of scores while "
    "learning, divided by scratch's; efficiency: the same of the best score, times scratch's time to it divided by its "
    "own. Ratios of scores near 0 or below say nothing."
)


def blocks(result: ContinualResult, seed: int, tasks: Sequence[str], untrained: Sequence[float]) -> list[Block]:
    """One run in the order in which it happened.

    A first test of every task by a network before any training; then each task's training curve, and tests of the tasks
    that were evaluated: those learned so far, and the next one before its training.

    Args:
        seed: number of the run among those that have finished.
        untrained: scores of an untrained network; empty where unknown.
    """
    matrix, curves = result.matrices[seed], result.curves[seed]
    made = [Block("test", task, [score]) for task, score in dict(zip(tasks, untrained, strict=False)).items()]
    for k, task in enumerate(tasks):
        made.append(Block("train", task, curves[k].scores[1:] or curves[k].scores))
        tested = {tasks[j]: float(matrix[k, j]) for j in range(len(tasks)) if np.isfinite(matrix[k, j])}
        if k + 1 < len(tasks):
            tested.setdefault(tasks[k + 1], curves[k + 1].scores[0])
        made += [Block("test", name, [score]) for name, score in tested.items()]
    return made


def _untrained(scratch: ContinualResult | None) -> list[float]:
    return [] if scratch is None else np.mean([[c.scores[0] for c in run] for run in scratch.curves], axis=0).tolist()


def _experts(scratch: ContinualResult | None, tasks: Sequence[str]) -> Experts:
    if scratch is None:
        return {}
    return {task: [run[j].scores[1:] or run[j].scores for run in scratch.curves] for j, task in enumerate(tasks)}


def metrics_of(
    result: ContinualResult, scratch: ContinualResult | None, tasks: Sequence[str]
) -> dict[str, list[float | None]]:
    """Each metric of the suite, one value per seed. All share scratch's runs, so they have no interval."""
    experts, untrained = _experts(scratch, tasks), _untrained(scratch)
    found = [lifelong_metrics(blocks(result, i, tasks, untrained), experts) for i in range(len(result.matrices))]
    return {name: [values[name] for values in found] for name in METRICS}


def table(rows: Sequence[dict[str, Any]], width: int = 80) -> Table:
    """Interquartile means over seeds."""
    longest = max((len(row["method"]) for row in rows), default=0)
    widths: dict[str, int | None] = {"method": max(17, min(longest, width - 80 + 17)), **dict.fromkeys(COLUMNS, 11)}
    made = score_table("Lifelong metrics", widths)
    for row in rows:
        cells = []
        for name in COLUMNS.values():
            known = [value for value in row["lifelong"][name] if value is not None]
            cells.append(fixed(interquartile_mean(known)) if known else "-")
        made.add_row(Name(row["method"]), *cells)
    return made


def write_logs(results: Sequence[ContinualResult], tasks: Sequence[str], folder: Path) -> None:
    """Logs that ``python -m l2metrics -l FOLDER -p score`` reads: a folder per method and run.

    Its single-task experts, stored first with ``-s a``, are those of scratch, ``ste-task<j>-run<i>``.
    """
    scratch = next((result for result in results if result.method.baseline), None)
    for number, result in enumerate(results):
        for i in range(len(result.matrices)):
            _write_log(blocks(result, i, tasks, _untrained(scratch)), tasks, folder / f"method{number}-run{i}", result)
    for j, (task, curves) in enumerate(_experts(scratch, tasks).items()):
        for i, scores in enumerate(curves):
            _write_log([Block("train", task, scores)], tasks, folder / f"ste-task{j}-run{i}", scratch)


LOG_FIELDS = (
    *("block_num", "exp_num", "worker_id", "block_type", "block_subtype"),
    *("task_name", "task_params", "exp_status", "timestamp", "score"),
)


def _write_log(run: Sequence[Block], tasks: Sequence[str], folder: Path, result: ContinualResult | None) -> None:
    method = "" if result is None else label(result.method)
    info = {"scenario_type": "custom", "complexity": "2-intermediate", "difficulty": "2-medium", "method": method}
    _write(folder / "scenario_info.json", json.dumps(info, indent=2))
    _write(folder / "logger_info.json", json.dumps({"metrics_columns": ["score"], "log_format_version": "1.1"}))
    names = {task: f"task{j}_1" for j, task in reversed(list(enumerate(tasks)))}
    experience = itertools.count()
    for number, (kind, group) in enumerate(itertools.groupby(run, key=lambda block: block.kind)):
        page = io.StringIO()
        writer = csv.writer(page, delimiter="\t", lineterminator="\n")
        writer.writerow(LOG_FIELDS)
        for block in group:
            names_of_block = ("0", kind, "wake", names[block.task], json.dumps({"task": block.task}))
            for score in block.scores:
                count = next(experience)
                time = f"20000101T000000.{count:06d}"  # the tool wants times; only their order is known
                writer.writerow((number, count, *names_of_block, "complete", time, score))
        _write(folder / "0" / f"{number}-{kind}" / "data-log.tsv", page.getvalue())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
