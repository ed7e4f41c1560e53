"""Output before and after an experiment's stages: transplant tables, then results, plots and closing tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from graft.experiments.config.experiment import Config, SequenceConfig
from graft.experiments.plan.stage import Comparison, Graph
from graft.experiments.report import continual, lifelong, plots, sim2real, transfer
from graft.experiments.stages.preflight import preflight, preflight_sequence
from graft.experiments.store.records import Store, write_json
from graft.transfer.method import label
from graft.transfer.transplant_report import TransplantReport


class TransplantTables(NamedTuple):
    """What a transfer would carry over, tensor by tensor, and a table of what is new or lost (None: nothing)."""

    complete: Table
    losses: Table | None


def _transplant_table(comparison: Comparison, report: TransplantReport, losses_only: bool = False) -> Table:
    table = Table(title=f"{label(comparison.method)}: {comparison.source} to {comparison.target}", title_justify="left")
    for column in ("tensor", "status", "from source", "detail"):
        table.add_column(column, overflow="fold", justify="right" if column == "from source" else "left")
    for row in (row for row in report.rows if not losses_only or (row.wanted and row.detail)):
        table.add_row(row.tensor, row.status, f"{row.share:.0%}", row.detail)
    return table


def check_pairs(graph: Graph) -> list[TransplantTables]:
    """Preflight of a transfer experiment."""
    return [
        TransplantTables(
            _transplant_table(comparison, report),
            _transplant_table(comparison, report, losses_only=True) if report.partial else None,
        )
        for comparison, report in preflight(graph)
        if report is not None
    ]


def check_sequence(graph: Graph) -> list[TransplantTables]:
    """Preflight of a sequence, whose tasks share a schema, so that no tensor is lost."""
    preflight_sequence(graph)
    return []


def conclude_pairs(console: Console, config: Config, graph: Graph, store: Store, failed: Mapping[str, str]) -> None:
    """Write results and plots of a transfer experiment, print the tables."""
    scales = transfer.target_bounds(config, graph, store)
    measured = transfer.measure(graph, store, scales)
    data = transfer.results(config, graph, store, measured, scales, failed)
    if config.sim_to_sim:
        data["recovery"] = sim2real.rows(graph, store, scales)
    write_json(store.out / "results.json", data)
    pictures: list[str] = []
    if measured:
        pictures = ["curves.png", "areas.png"]
        plots.learning_curves(measured, store.out / "curves.png", config.name)
        plots.areas(data["rows"], store.out / "areas.png", config.name)
        if any(m.scored for m in measured):
            pictures.append("profiles.png")
            plots.profiles(plots.row_scores(data["rows"]), store.out / "profiles.png", config.name)
        if len(config.sources) > 1 and len(config.targets) > 1:
            pictures.append("pairs.png")
            plots.pairs(data["rows"], store.out / "pairs.png", config.name)
    tables, notes = transfer.tables(data["rows"], console.width), transfer.notes(data)
    if config.sim_to_sim:
        tables, notes = [*tables, sim2real.table(data["recovery"])], [sim2real.NOTE, *notes]
    _print(console, store, tables, notes, pictures)


def conclude_sequence(
    console: Console, config: SequenceConfig, graph: Graph, store: Store, failed: Mapping[str, str]
) -> None:
    """Write results and the score matrices of a sequence, print its table."""
    measured = continual.measure(config, graph, store)
    data = continual.results(config, graph, store, measured, failed)
    scratch = next((result for result in measured if result.method.baseline), None)
    for row, result in zip(data["rows"], measured, strict=True):
        row["lifelong"] = lifelong.metrics_of(result, scratch, data["sequence"])
    write_json(store.out / "results.json", data)
    tables, notes, pictures = [], continual.notes(data), []
    if measured:
        tables = [continual.table(data, console.width), lifelong.table(data["rows"], console.width)]
        notes, pictures = [notes[0], lifelong.NOTE, *notes[1:]], ["matrix.png", "profiles.png"]
        own, tasks = continual.own_scale(data), data["sequence"]
        plots.score_matrices(measured, tasks, store.out / "matrix.png", config.name, own)
        plots.profiles(plots.final_scores(measured, tasks, own), store.out / "profiles.png", config.name)
        lifelong.write_logs(measured, data["sequence"], store.out / "l2logs")
    _print(console, store, tables, notes, pictures)


def _print(
    console: Console, store: Store, tables: Sequence[Table], notes: Sequence[str], pictures: Sequence[str]
) -> None:
    for table in tables:
        console.print(table)
        console.print()
    for line in notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    files = ", ".join(f"{store.out}/{name}" for name in ("results.json", *pictures))
    console.print(f"Results: {files}", highlight=False, soft_wrap=True)
