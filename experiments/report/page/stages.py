"""What a report's page says of stages: what transfers carried over, did to the network, and cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graft.experiments.report import transfer
from graft.experiments.report.common import cost
from graft.experiments.report.page.cells import (
    NONE,
    Cell,
    Section,
    Table,
    count_of,
    is_baseline,
    is_control,
    name,
    number,
    rows_of,
    targets_of,
)
from graft.experiments.report.page.summary import break_even_of
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


def _paid_cell(run: RunFolder, row: Row) -> Cell:
    if is_control(row):
        return NONE
    paid = break_even_of(run, row)
    if paid.transfers is None:
        return Cell("never" if paid.why.startswith("has not") else "not known")
    return Cell(f"{'at most ' if paid.most else ''}{paid.transfers:,}", (float(paid.transfers),))


def costs(run: RunFolder) -> Section:
    """What everything took, and after how many transfers pretraining has paid."""
    tables = []
    if not run.is_sequence:
        head = ["method", "pretraining", "consolidation", "transfer", "core seconds before", "core seconds of transfer"]
        for target in targets_of(run):
            rows = rows_of(run, target)
            lines = [_cost_row(run, row, rows) for row in rows]
            tables.append(
                Table(
                    f"{target}: env steps (at most) and core seconds (on average) of a seed",
                    [*head, "has paid after"],
                    lines,
                )
            )
    else:
        lines = []
        for row in run.rows:
            steps = row["env_steps"] or {}
            kinds = [number(steps.get(kind), count_of(steps.get(kind))) for kind in ("training", "consolidation")]
            lines.append([name(row["method"]), *kinds])
        tables.append(
            Table("Env steps of a seed (at most), over all tasks", ["method", "training", "consolidation"], lines)
        )
    notes = [cost(run.results)]
    if not run.is_sequence:
        notes.append(
            f"Has paid after: (pretraining + consolidation) / (scratch's steps - the method's steps) transfers, "
            f"rounded up, by the env steps until the score stays above {run.results.get('threshold') or 0:g}, the "
            f"median over seeds. Where scratch never gets there its whole training counts, and the number is an upper "
            f"bound. It has no interval."
        )
    return Section("Cost", notes, tables, folded=[_stage_table(run)])


def _cost_row(run: RunFolder, row: Row, rows: Sequence[Row]) -> list[Cell]:
    spent, ids = row["env_steps"] or {}, run.stages_of(row)
    kinds = [number(spent.get(kind), count_of(spent.get(kind))) for kind in ("pretrain", "consolidation", "transfer")]
    if is_control(row):
        kinds[:2] = [NONE, NONE]
    before = sum(run.seconds(source) for stage in ids for source in run.sources_of(stage))
    own = sum(map(run.seconds, ids))
    seconds = [_seconds(total, len(ids)) for total in (before, own)]
    if is_control(row) or spent.get("pretrain") is None:
        seconds[0] = NONE
    return [name(transfer.row_name(row, rows)), *kinds, *seconds, _paid_cell(run, row)]


def _seconds(total: float, seeds: int) -> Cell:
    return number(total / seeds, f"{total / seeds:,.1f}") if seeds else NONE


def _stage_table(run: RunFolder) -> Table:
    lines = [
        [
            name(stage["label"]),
            Cell(stage["status"], tone="negative" if stage.get("error") else ""),
            number(stage["env_steps"], f"{stage['env_steps']:,}"),
            number(stage["seconds"], f"{stage['seconds']:,.1f}"),
            Cell(stage.get("error") or ""),
        ]
        for stage in run.results["stages"]
    ]
    return Table("All stages", ["stage", "status", "env steps", "core seconds", "error"], lines, numbers=False)
