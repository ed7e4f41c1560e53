"""What a report's page says of stages: what transfers carried over, and did to the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graft.errors import some
from graft.experiments.report import transfer
from graft.experiments.report.page.cells import (
    NONE,
    Cell,
    Section,
    Table,
    is_baseline,
    is_control,
    name,
    named,
    rows_of,
    targets_of,
    without_empty,
)
from graft.experiments.report.run_folder import Row, RunFolder
from graft.transfer.statistics import interquartile_mean


def transplants(run: RunFolder) -> Section | None:
    """What was carried over, of the first seed: a line for each target, and the tensors that are not as they were."""
    found: dict[str, dict[str, Report]] = {}
    for row in run.rows:
        ids = run.stages_of(row) if not run.is_sequence else [run_ids[-1] for run_ids in row["stages"] or ()]
        if (report := run.transplant(ids[0]) if ids else {}).get("rows"):
            target = f"{run.results['sequence'][-1]}" if run.is_sequence else row["target"]
            label = row["method"] if run.is_sequence else transfer.row_name(row, run.rows)
            found.setdefault(target, {})[label] = report
    if not found:
        return None
    methods = list(dict.fromkeys(label for reports in found.values() for label in reports))
    lines = []
    for target, reports in found.items():
        lost = dict.fromkeys(text for report in reports.values() for text in report.get("lost", ()))
        lines.append([name(target), *(_share(reports.get(m)) for m in methods), Cell(some(lost) or "-")])
    head = ["target", *methods, "source inputs that the target does not have"]
    table = without_empty(Table("Weights taken from the source", head, lines, numbers=False))
    notes = ["Of the first seed; the share of each tensor's weights that came from the source, mean over tensors."]
    changed = _changed(found)
    return Section("What was carried over", notes, folded=[table, *([changed] if changed.rows else [])])


Report = Mapping[str, Any]

MOST_TENSORS = 400
"""Rows of the table of tensors, at most."""


def _share(report: Report | None) -> Cell:
    if report is None:
        return NONE
    share = sum(tensor["share"] for tensor in report["rows"]) / len(report["rows"])
    return Cell(f"{share:.0%} ({report['summary']})", (share,))


def _changed(found: Mapping[str, Mapping[str, Report]]) -> Table:
    """Tensors that were not copied; a line for those of all methods that carry the same to a target."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for target, reports in found.items():
        for method, report in reports.items():
            for t in report["rows"]:
                if t["status"] != "copied":
                    key = (target, t["tensor"], t["status"], f"{t['share']:.0%}", t["detail"])
                    lines.setdefault(key, []).append(method)
    cells = [[*map(Cell, key[:1]), Cell(", ".join(who)), *map(Cell, key[1:])] for key, who in lines.items()]
    head = ["target", "methods", "tensor", "status", "from source", "detail"]
    return Table("Tensors that were not copied as they are", head, cells[:MOST_TENSORS], numbers=False)


MEANING = {
    "cka": "similarity of the features to the source's, from 0 to 1, the same",
    "distance": "relative distance of the weights to those at the start",
    "dormant": "share of units that are as good as silent; less is better",
    "effective_rank": "of the features; more is better",
    "penalty": "of the method; it has no good direction",
    "penalty_share": "of the gradient, from 0 to 1; near 1 the task is hardly learned",
    "conflict": "cosine between the task's gradient and what the method adds; below 0 they pull apart",
    "latent_r2": "how much the student knows of the teacher's latent; 1 is all",
}


def diagnostics(run: RunFolder) -> Section | None:
    """What transfers did to the network: first and last values that were logged."""
    if run.is_sequence:
        return None
    main, parts = list[Table](), list[Table]()
    for target in targets_of(run):
        rows = [row for row in rows_of(run, target) if not is_baseline(row)]
        logged = {named(row, rows): _logged(run, row) for row in rows}
        tags = list(dict.fromkeys(tag for found in logged.values() for tag in found))
        for into, wanted in ((main, [t for t in tags if "/" not in t]), (parts, [t for t in tags if "/" in t])):
            lines = [
                [name(method), *(_change(found.get(t)) for t in wanted)] for method, found in logged.items() if found
            ]
            if wanted and lines:
                into.append(Table(target, ["method", *wanted], lines))
    shown = dict.fromkeys(tag.partition("/")[0] for table in (*main, *parts) for tag in table.head[1:])
    legend = "; ".join(f"{tag}: {MEANING[tag]}" for tag in shown if tag in MEANING)
    notes = [f"First → last value of a training, interquartile mean over seeds. {legend}."]
    folded = [table._replace(caption=f"{table.caption}: by layer") for table in parts]
    return Section("What transfers did to the network", notes, main, folded=folded) if main or parts else None


def _logged(run: RunFolder, row: Row) -> dict[str, tuple[float, float]]:
    """Tag -> its first and last value, over seeds."""
    seeds = [run.diagnostics(stage) for stage in run.stages_of(row)]
    tags = [tag for tag in (seeds[0] if seeds else {}) if all(tag in seed for seed in seeds)]
    if is_control(row):  # it has no source to be like
        tags = [tag for tag in tags if tag.partition("/")[0] != "cka"]
    made = {}
    for tag in tags:
        ends = [[seed[tag][end] for seed in seeds] for end in (0, -1)]
        if np.isfinite(ends).all():
            made[tag] = interquartile_mean(ends[0]), interquartile_mean(ends[1])
    return made


def _change(ends: tuple[float, float] | None) -> Cell:
    return NONE if ends is None else Cell(f"{ends[0]:.3g} → {ends[1]:.3g}", (ends[1],))
