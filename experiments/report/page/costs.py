"""What a report's page says of cost: of each method, a fine-tuning run and each stage, and when a source has paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from graft.experiments.report.costs import amount, sentence
from graft.experiments.report.page.cells import (
    NONE,
    Cell,
    Section,
    Table,
    count_of,
    is_baseline,
    name,
    named,
    number,
    rows_of,
    score,
    targets_of,
    without_empty,
)
from graft.experiments.report.page.origin import Origin, origins
from graft.experiments.report.page.summary import most, own_seconds
from graft.experiments.report.run_folder import Row, RunFolder
from graft.transfer.metrics import break_even

Spent = Mapping[str, Any]

WORK = {"FLOP": "flops", "memory": "peak_bytes", "energy": "watt_hours", "CO2e": "grams_co2e"}
UNITS = {"flops": "FLOP", "peak_bytes": "B", "watt_hours": "Wh", "grams_co2e": "g"}


def costs(run: RunFolder) -> Section:
    """What everything took, and after how many transfers pretraining has paid."""
    if run.is_sequence:
        head, title = ["method", "training", "consolidation"], "Env steps of a seed, over all tasks, and what it took"
        lines = [
            [name(row["method"]), *_steps(run, row, ("training", "consolidation")), *_work(row)] for row in run.rows
        ]
        same, table = _constants(Table(title, [*head, *WORK_HEAD], lines))
        return Section("Cost", [*_notes(run, table), *same], [table], folded=[_stage_table(run)])
    known = origins(run)
    lines = [
        [name(f"{named(row, run.rows)} on {row['target']}"), *_cost_row(run, row, known.get(str(row["source"])))]
        for row in run.rows
    ]
    same, table = _constants(Table("All that each method took on each target, for a seed", COST_HEAD, lines))
    notes = [*_notes(run, table), *same]
    tables = [_seconds_table(run)] if run.rows else []
    return Section("Cost", notes, tables, folded=[*([table] if len(table.head) > 1 else []), _stage_table(run)])


WORK_HEAD = ["updates", *WORK, "ms"]

COST_HEAD = ["method", "pretraining", "consolidation", "env steps", "core seconds before", "core seconds"]
COST_HEAD += [*WORK_HEAD, "domain gap", "transfer efficiency", "has paid after", "by core seconds"]


def _seconds_table(run: RunFolder) -> Table:
    """Core seconds of a transfer: a line for each target, a column for each method."""
    methods = list(dict.fromkeys(named(row, run.rows) for row in run.rows))
    lines = []
    for target in targets_of(run):
        taken = {named(row, run.rows): own_seconds(run, row) for row in rows_of(run, target)}
        lines.append([name(target), *(_seconds(taken.get(method)) for method in methods)])
    return Table("Core seconds of a transfer, mean over seeds", ["target", *methods], lines)


def _constants(table: Table) -> tuple[list[str], Table]:
    """A sentence on the columns that say the same of all rows, and the table without those and without empty ones."""
    table = without_empty(table)
    columns = {head: {row[i].text for row in table.rows} for i, head in enumerate(table.head) if i}
    same = {head: texts for head, texts in columns.items() if len(texts) == 1 and len(table.rows) > 1}
    shown = [i for i, head in enumerate(table.head) if head not in same]
    rows = [[row[i] for i in shown] for row in table.rows]
    said = ", ".join(f"{head} {text}" for head, (text,) in same.items())
    return [f"The same for all of them, for a seed: {said}."] if said else [], table._replace(
        head=[table.head[i] for i in shown], rows=rows
    )


def _notes(run: RunFolder, table: Table) -> list[str]:
    notes, spent = [sentence(run.results)], run.results.get("cost") or {}
    if not spent.get("total"):
        notes.append("FLOP, memory, energy and CO2e are not recorded.")
    elif factors := spent.get("factors"):
        notes.append(
            f"Energy and CO2e are estimates, not measured: {factors['watts_per_core']:g} W for each busy core, "
            f"{factors['watts_per_gpu']:g} W for each GPU that trains, {factors['grams_per_kwh']:g} g for each kWh "
            f"(`cost` in the config). FLOP: one update and one forward pass counted by torch, times their numbers; "
            f"environments and evaluations are not in it. ms: a forward pass of one observation."
        )
    if "has paid after" in table.head:
        notes.append(
            f"Has paid after: (pretraining + consolidation) / (scratch's steps - the method's steps) transfers, "
            f"rounded up, by the env steps until the score stays above {run.results.get('threshold') or 0:g}, the "
            f"median over seeds, or by the core seconds that these took. Where scratch never gets there its whole "
            f"training counts, and the number is an upper bound. It has no interval. Transfer efficiency: scratch's "
            f"steps / (pretraining + consolidation + the method's steps), above 1 where one transfer has paid. Domain "
            f"gap: score on the source before the transfer minus zero-shot score on the target."
        )
    return notes


def _steps(run: RunFolder, row: Row, kinds: Sequence[str]) -> list[Cell]:
    """Env steps of a seed of each kind; what none took is empty."""
    spent = row["env_steps"] or {}
    first = f"{most(run, row)}{count_of(spent.get(kinds[0]))}"
    rest = [number(spent.get(kind) or None, count_of(spent.get(kind))) for kind in kinds[1:]]
    return [number(spent.get(kinds[0]), first), *rest]


def _pretraining(row: Row, origin: Origin | None) -> float | None:
    """Env steps before a row's transfers, of a seed; its own, where a method learns the source in its own way."""
    own = (row["env_steps"] or {}).get("pretrain")
    return None if origin is None else origin.steps if own is None else float(own)


def _cost_row(run: RunFolder, row: Row, origin: Origin | None) -> list[Cell]:
    steps, consolidation = _steps(run, row, ("transfer", "consolidation"))
    if (taken := row["cost"]) is not None:
        before = (taken["before"] or {}).get("core_seconds")
    else:  # of an older Graft, which took the clock's
        ids = run.stages_of(row)
        totals = [run.seconds(i) for stage in ids for i in run.sources_of(stage)]
        before = sum(totals) / len(ids) if totals else None
    pretraining = _pretraining(row, origin)
    return [
        number(pretraining, count_of(pretraining)),
        consolidation,
        steps,
        _seconds(before if origin else None),
        _seconds(own_seconds(run, row)),
        *_work(row),
        score(row["domain_gap"]),
        number(row["transfer_efficiency"]),
        _paid_cell(run, row, origin),
        _paid_cell(run, row, origin, seconds=True),
    ]


def _work(row: Row) -> list[Cell]:
    """What a seed's own stages took."""
    cost = row["cost"] or {}
    own, ms = cost.get("own") or {}, cost.get("inference_ms")
    return [number(own.get("updates"), count_of(own.get("updates"))), *_amounts(own), number(ms)]


def _seconds(value: float | None) -> Cell:
    return number(value, None if value is None else f"{value:,.1f}")


class Paid(NamedTuple):
    """After how many transfers what came before them has paid (`break_even`); ``most``: whether it is an upper bound.

    Where there is no number: ``never`` where it has not paid, else it is not known.
    """

    transfers: int | None
    most: bool = False
    never: bool = False


def break_even_of(run: RunFolder, row: Row, origin: Origin, seconds: bool = False) -> Paid:
    """Of a method on a target; by the env steps to the experiment's threshold, or the core seconds that they took."""
    spent = row["env_steps"] or {}
    base = next(filter(is_baseline, rows_of(run, row["target"])), None)
    pretraining = _pretraining(row, origin)
    if base is None or row["scored"] is False or spent.get("transfer") is None or pretraining is None:
        return Paid(None)
    slow, fast = base["steps_to_threshold"], row["steps_to_threshold"]
    before, theirs, own = float(pretraining + (spent.get("consolidation") or 0)), 1.0, 1.0
    if seconds:
        known = (row["cost"] or {}).get("before")
        if known is None or origin.given is not None or not base["cost"] or not spent["transfer"]:
            return Paid(None)
        before = known["core_seconds"]
        theirs, own = (r["cost"]["own"]["core_seconds"] / r["env_steps"]["transfer"] for r in (base, row))
    saved_from = theirs * (spent["transfer"] if slow is None else slow)
    count = break_even(before, saved_from, None if fast is None else own * fast)
    if count is None:  # where only scratch is slower than its training, it was too short to compare
        return Paid(None, never=fast is None or slow is not None)
    return Paid(count, slow is None)


def _paid_cell(run: RunFolder, row: Row, origin: Origin | None, seconds: bool = False) -> Cell:
    if origin is None:
        return NONE
    paid = break_even_of(run, row, origin, seconds)
    if paid.transfers is None:
        return Cell("never") if paid.never else NONE
    return Cell(f"{'at most ' if paid.most else ''}{paid.transfers:,}", (float(paid.transfers),))


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
