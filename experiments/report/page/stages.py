"""What a report's page says of stages: what transfers carried over, and did to the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graft.experiments.report import transfer
from graft.experiments.report.page.cells import (
    NONE,
    Cell,
    Section,
    Table,
    is_baseline,
    name,
    number,
    rows_of,
    targets_of,
)
from graft.experiments.report.run_folder import Row, RunFolder
from graft.transfer.statistics import interquartile_mean


def transplants(run: RunFolder) -> Section | None:
    """What was carried over, of the first seed: a line for each method, and its tensors."""
    lines, folded = [], []
    for row in run.rows:
        ids = run.stages_of(row) if not run.is_sequence else [run_ids[-1] for run_ids in row["stages"] or ()]
        report = run.transplant(ids[0]) if ids else {}
        if not report.get("rows"):
            continue
        title = row["method"] if run.is_sequence else f"{transfer.row_name(row, run.rows)} on {row['target']}"
        lost = ", ".join(report.get("lost", ())) or "-"
        share = sum(tensor["share"] for tensor in report["rows"]) / len(report["rows"])
        lines.append([name(title), Cell(report["summary"]), number(share, f"{share:.0%}"), Cell(lost)])
        changed = [tensor for tensor in report["rows"] if tensor["status"] != "copied"]
        if changed:
            head = ["tensor", "status", "from source", "detail"]
            cells = [
                [name(t["tensor"]), Cell(t["status"]), number(t["share"], f"{t['share']:.0%}"), Cell(t["detail"])]
                for t in changed
            ]
            folded.append(Table(title, head, cells, numbers=False))
    if not lines:
        return None
    head = ["method", "tensors", "mean share", "lost"]
    notes = ["Of the first seed. Mean share: of each tensor's values that came from the source, over tensors."]
    table = Table("Tensors by what became of them", head, lines, numbers=False)
    return Section("What was carried over", notes, [table], folded=_few(folded))


FOLDED = 24


def _few(tables: Sequence[Table]) -> Sequence[Table]:
    return tables[:FOLDED]


def diagnostics(run: RunFolder) -> Section | None:
    """What transfers did to the network: first and last values that were logged."""
    if run.is_sequence:
        return None
    main, parts = list[Table](), list[Table]()
    for target in targets_of(run):
        rows = [row for row in rows_of(run, target) if not is_baseline(row)]
        logged = {transfer.row_name(row, rows): _logged(run, row) for row in rows}
        tags = list(dict.fromkeys(tag for found in logged.values() for tag in found))
        for into, wanted in ((main, [t for t in tags if "/" not in t]), (parts, [t for t in tags if "/" in t])):
            lines = [
                [name(method), *(_change(found.get(t)) for t in wanted)] for method, found in logged.items() if found
            ]
            if wanted and lines:
                into.append(Table(target, ["method", *wanted], lines))
    notes = [
        "First → last value of a training, interquartile mean over seeds. cka: similarity of the features to the "
        "source's, 1 is the same. dormant: share of units that are as good as silent. effective_rank: of the features. "
        "penalty_share: of the gradient. conflict: cosine between the task's gradient and what the method adds."
    ]
    folded = [table._replace(caption=f"{table.caption}: by layer") for table in parts]
    return Section("What transfers did to the network", notes, main, folded=folded) if main or parts else None


def _logged(run: RunFolder, row: Row) -> dict[str, tuple[float, float]]:
    """Tag -> its first and last value, over seeds."""
    seeds = [run.diagnostics(stage) for stage in run.stages_of(row)]
    tags = [tag for tag in (seeds[0] if seeds else {}) if all(tag in seed for seed in seeds)]
    made = {}
    for tag in tags:
        ends = [[seed[tag][end] for seed in seeds] for end in (0, -1)]
        if np.isfinite(ends).all():
            made[tag] = interquartile_mean(ends[0]), interquartile_mean(ends[1])
    return made


def _change(ends: tuple[float, float] | None) -> Cell:
    return NONE if ends is None else Cell(f"{ends[0]:.3g} → {ends[1]:.3g}", (ends[1],))
