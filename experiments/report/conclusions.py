"""Before and after the stages of an experiment: what would be carried over, and the results that are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from graft.experiments.config.experiment import Config, SequenceConfig
from graft.experiments.plan.stage import Comparison, Graph
from graft.experiments.report import continual, plots, sim2real, transfer
from graft.experiments.stages.preflight import preflight, preflight_sequence
from graft.experiments.store.records import Store, write_json
from graft.transfer.method import label
from graft.transfer.transplant_report import TransplantReport


class TransplantTables(NamedTuple):
    """What a transfer would carry over, tensor by tensor, and a table of what is new or lost (None: nothing)."""

    whole: Table
    losses: Table | None


def _transplant_table(comparison: Comparison, found: TransplantReport, losses_only: bool = False) -> Table:
    table = Table(title=f"{label(comparison.method)}: {comparison.source} to {comparison.target}", title_justify="left")
    for column in ("tensor", "status", "from source", "detail"):
        table.add_column(column, overflow="fold", justify="right" if column == "from source" else "left")
    for row in (row for row in found.rows if not losses_only or (row.wanted and row.detail)):
        table.add_row(row.tensor, row.status, f"{row.share:.0%}", row.detail)
    return table


def check_pairs(graph: Graph) -> list[TransplantTables]:
    """Of a transfer experiment: see `graft.experiments.stages.preflight.preflight`."""
    return [
        TransplantTables(
            _transplant_table(comparison, found),
            _transplant_table(comparison, found, losses_only=True) if found.partial else None,
        )
        for comparison, found in preflight(graph)
        if found is not None
    ]


def check_sequence(graph: Graph) -> list[TransplantTables]:
    """Of a sequence, whose tasks share a schema: everything is carried over whole."""
    preflight_sequence(graph)
    return []


def conclude_pairs(console: Console, config: Config, graph: Graph, store: Store, failed: Mapping[str, str]) -> None:
    """Write results and pictures of a transfer experiment, print the table."""
    scales = transfer.target_bounds(config, graph, store)
    measured = transfer.measure(graph, store, scales)
    data = transfer.results(config, graph, store, measured, scales, failed)
    if config.sim_to_sim:
        data["recovery"] = sim2real.rows(config, graph, store, scales)
    write_json(store.out / "results.json", data)
    pictures: list[str] = []
    if measured:
        plots.learning_curves(measured, store.out / "curves.png", config.name)
        pictures = ["curves.png", "areas.png"]
        plots.areas(data["rows"], store.out / "areas.png", config.name)
        if len(config.sources) > 1 and len(config.targets) > 1:
            pictures.append("pairs.png")
            plots.pairs(data["rows"], store.out / "pairs.png", config.name)
        for table in transfer.tables(data["rows"], console.width):
            console.print(table)
    if config.sim_to_sim:
        console.print(sim2real.table(data["recovery"]))
        console.print(sim2real.NOTE, markup=False, highlight=False, soft_wrap=True)
    for line in transfer.notes(data):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    drawn = "".join(f", {store.out}/{name}" for name in pictures)
    console.print(f"Results: {store.out}/results.json{drawn}", highlight=False, soft_wrap=True)


def conclude_sequence(
    console: Console, config: SequenceConfig, graph: Graph, store: Store, failed: Mapping[str, str]
) -> None:
    """Write results and the heat map of a sequence, print its table."""
    measured = continual.measure(config, graph, store)
    data = continual.results(config, graph, store, measured, failed)
    write_json(store.out / "results.json", data)
    if measured:
        plots.heat_maps(measured, data["sequence"], store.out / "matrix.png", config.name)
        console.print(continual.table(data, console.width))
    for line in continual.notes(data):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    pictures = f", {store.out}/matrix.png" if measured else ""
    console.print(f"Results: {store.out}/results.json{pictures}", highlight=False, soft_wrap=True)
