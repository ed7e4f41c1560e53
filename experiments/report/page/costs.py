"""What a report's page says of cost: of each method, a fine-tuning run and each stage, and when a source has paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft.experiments.report import transfer
from graft.experiments.report.costs import amount, sentence
from graft.experiments.report.page.cells import (
    NONE,
    Cell,
    Section,
    Table,
    count_of,
    is_control,
    name,
    number,
    rows_of,
    score,
    targets_of,
)
from graft.experiments.report.page.summary import break_even_of
from graft.experiments.report.run_folder import Row, RunFolder

Spent = Mapping[str, Any]

WORK = {"FLOP": "flops", "memory": "peak_bytes", "energy": "watt_hours", "CO2e": "grams_co2e"}
UNITS = {"flops": "FLOP", "peak_bytes": "B", "watt_hours": "Wh", "grams_co2e": "g"}


def costs(run: RunFolder) -> Section:
    """What everything took, and after how many transfers pretraining has paid."""
    tables = []
    if run.is_sequence:
        kinds = ["training", "consolidation"]
        lines = [[name(row["method"]), *_steps(row, kinds)] for row in run.rows]
        tables.append(Table("Env steps of a seed (at most), over all tasks", ["method", *kinds], lines))
        tables += _work("A seed, all its tasks", [(row["method"], row) for row in run.rows])
    else:
        head = ["method", "pretraining", "consolidation", "transfer", "core seconds before", "core seconds of transfer"]
        head += ["transfer efficiency", "has paid after", "by core seconds"]
        for target in targets_of(run):
            rows = rows_of(run, target)
            title = f"{target}: env steps (at most) and core seconds (on average) of a seed"
            tables.append(Table(title, head, [_cost_row(run, row, rows) for row in rows]))
            tables += _work(f"{target}: a fine-tuning run", [(transfer.row_name(row, rows), row) for row in rows])
    return Section("Cost", _notes(run), tables, folded=[_stage_table(run)])


def _notes(run: RunFolder) -> list[str]:
    notes = [sentence(run.results)]
    if factors := (run.results.get("cost") or {}).get("factors"):
        notes.append(
            f"Energy and CO2e are estimates, not measured: {factors['watts_per_core']:g} W for each busy core, "
            f"{factors['watts_per_gpu']:g} W for each GPU that trains, {factors['grams_per_kwh']:g} g for each kWh "
            f"(`cost` in the config). FLOP: one update and one forward pass counted by torch, times their numbers; "
            f"environments and evaluations are not in it. ms: a forward pass of one observation."
        )
    if not run.is_sequence:
        notes.append(
            f"Has paid after: (pretraining + consolidation) / (scratch's steps - the method's steps) transfers, "
            f"rounded up, by the env steps until the score stays above {run.results.get('threshold') or 0:g}, the "
            f"median over seeds, or by the core seconds that these took. Where scratch never gets there its whole "
            f"training counts, and the number is an upper bound. It has no interval. Transfer efficiency: scratch's "
            f"steps / (pretraining + consolidation + the method's steps), above 1 where one transfer has paid. Domain "
            f"gap: score on the source before the transfer minus zero-shot score on the target."
        )
    return notes


def _steps(row: Row, kinds: Sequence[str]) -> list[Cell]:
    spent = row["env_steps"] or {}
    return [number(spent.get(kind), count_of(spent.get(kind))) for kind in kinds]


def _cost_row(run: RunFolder, row: Row, rows: Sequence[Row]) -> list[Cell]:
    kinds, ids = _steps(row, ("pretrain", "consolidation", "transfer")), run.stages_of(row)
    if is_control(row):
        kinds[:2] = [NONE, NONE]
    if (taken := row["cost"]) is not None:
        before = (taken["before"] or {}).get("core_seconds")
        seconds = [_seconds(before), _seconds(taken["own"]["core_seconds"])]
    else:  # of an older Graft, which took the clock's
        totals = [sum(run.seconds(i) for stage in ids for i in run.sources_of(stage)), sum(map(run.seconds, ids))]
        seconds = [_seconds(total / len(ids) if ids else None) for total in totals]
        if (row["env_steps"] or {}).get("pretrain") is None:
            seconds[0] = NONE
    if is_control(row):
        seconds[0] = NONE
    paid = [_paid_cell(run, row), _paid_cell(run, row, seconds=True)]
    return [name(transfer.row_name(row, rows)), *kinds, *seconds, number(row["transfer_efficiency"]), *paid]


def _seconds(value: float | None) -> Cell:
    return number(value, None if value is None else f"{value:,.1f}")


def _paid_cell(run: RunFolder, row: Row, seconds: bool = False) -> Cell:
    if is_control(row):
        return NONE
    paid = break_even_of(run, row, seconds)
    if paid.transfers is None:
        return Cell("never" if paid.why.startswith("has not") else "not known")
    return Cell(f"{'at most ' if paid.most else ''}{paid.transfers:,}", (float(paid.transfers),))


def _work(title: str, rows: Sequence[tuple[str, Row]]) -> list[Table]:
    """A table of what a seed's own stages took; none where no row knows."""
    gaps = ["domain gap"] if any("domain_gap" in row for _, row in rows) else []
    lines = []
    for label, row in rows:
        cost = row["cost"] or {}
        own = cost.get("own") or {}
        cells = [number(own.get("updates"), count_of(own.get("updates"))), *_amounts(own)]
        cells.append(number(cost.get("inference_ms"), f"{cost.get('inference_ms') or 0:.2f}"))
        lines.append([name(label), *cells, *(score(row["domain_gap"]) for _ in gaps)])
    return (
        [Table(title, ["method", "updates", *WORK, "ms", *gaps], lines)] if any(row["cost"] for _, row in rows) else []
    )


def _amounts(spent: Spent) -> list[Cell]:
    values = {key: spent.get(key) for key in WORK.values()}
    return [number(v, None if v is None else amount(v, UNITS[key])) for key, v in values.items()]


def _stage_table(run: RunFolder) -> Table:
    known = any(stage.get("cost") for stage in run.results["stages"])
    head = ["stage", "status", "env steps", "seconds", *(["core seconds", "updates", "FLOP", "memory", "ms"] * known)]
    return Table(
        "All stages", [*head, "error"], [_stage(stage, known) for stage in run.results["stages"]], numbers=False
    )


def _stage(stage: Spent, known: bool) -> list[Cell]:
    cost = stage.get("cost") or {}
    taken = [
        _seconds(cost.get("core_seconds")),
        number(cost.get("updates"), count_of(cost.get("updates"))),
        *_amounts(cost)[:2],
        number(cost.get("inference_ms")),
    ]
    return [
        name(stage["label"]),
        Cell(stage["status"], tone="negative" if stage.get("error") else ""),
        number(stage["env_steps"], f"{stage['env_steps']:,}"),
        _seconds(stage["seconds"]),
        *(taken if known else ()),
        Cell(stage.get("error") or ""),
    ]
