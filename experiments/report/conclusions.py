"""Output before and after an experiment's stages: transplant tables, then results, plots and closing tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from graft.experiments.config.experiment import Config, SequenceConfig
from graft.experiments.plan.stage import Graph
from graft.experiments.report import continual, lifelong, plots, sim2real, transfer
from graft.experiments.report.common import Best, Name, best_notes
from graft.experiments.stages.preflight import preflight, preflight_sequence
from graft.experiments.store.records import Store, write_json
from graft.transfer.method import label
from graft.transfer.transplant_report import TensorRow


class TransplantTables(NamedTuple):
    """What methods carry over alike: how their tensors differ from the source's, or a sentence where none does, and a
    table of what is new or lost against their wish (None: nothing).
    """

    differences: Table | str
    losses: Table | None


class Fate(NamedTuple):
    """What became of tensors alike; ``names``: the first, and how many others."""

    names: str
    status: str
    share: float
    detail: str


def fates(rows: Sequence[TensorRow]) -> list[Fate]:
    """Rows of a transplant report, those that say the same together."""
    alike: dict[tuple[str, float, str], list[str]] = {}
    for row in rows:
        alike.setdefault((row.status, row.share, row.detail), []).append(row.tensor)
    return [
        Fate(names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else ""), *key) for key, names in alike.items()
    ]


def _transplant_table(title: str, rows: Sequence[TensorRow]) -> Table:
    """A line for each fate of tensors; all of them are in ``transplant.json``."""
    table = Table(title=title, title_justify="left")
    for column in ("tensor", "status", "from source", "detail"):
        table.add_column(column, overflow="fold", justify="right" if column == "from source" else "left")
    for names, status, share, detail in fates(rows):
        table.add_row(Name(names), status, f"{share:.0%}", detail)
    return table


def check_pairs(graph: Graph) -> list[TransplantTables]:
    """Preflight of a transfer experiment; methods that carry the same over share their tables."""
    alike: dict[tuple[str, tuple[TensorRow, ...]], list[str]] = {}
    partial: dict[tuple[str, tuple[TensorRow, ...]], bool] = {}
    for comparison, report in preflight(graph):
        if report is not None:
            key = f"{comparison.source} to {comparison.target}", report.rows
            alike.setdefault(key, []).append(label(comparison.method))
            partial[key] = report.partial
    return [_tables(f"{', '.join(names)}: {key[0]}", key[1], partial[key]) for key, names in alike.items()]


def _tables(title: str, rows: Sequence[TensorRow], partial: bool) -> TransplantTables:
    changed = [row for row in rows if row.status != "copied"]
    lost = _transplant_table(title, [row for row in rows if row.wanted and row.detail]) if partial else None
    same = f"{title}: all {len(rows)} tensors are copied"
    return TransplantTables(_transplant_table(title, changed) if changed else same, lost)


def check_sequence(graph: Graph) -> list[TransplantTables]:
    """Preflight of a sequence, whose tasks share a schema, so that no tensor is lost."""
    preflight_sequence(graph)
    return []


def pairs_results(
    config: Config, graph: Graph, store: Store, failed: Mapping[str, str]
) -> tuple[list[transfer.TransferResult], dict[str, Any]]:
    """What a transfer experiment's stages measured, and its ``results.json``."""
    scales = transfer.target_bounds(config, graph, store)
    measured = transfer.measure(graph, store, scales)
    data = transfer.results(config, graph, store, measured, scales, failed)
    if config.sim_to_sim:
        data["recovery"] = sim2real.rows(graph, store, scales)
    return measured, data


def sequence_results(
    config: SequenceConfig, graph: Graph, store: Store, failed: Mapping[str, str]
) -> tuple[list[continual.ContinualResult], dict[str, Any]]:
    """The same of a sequence."""
    measured = continual.measure(config, graph, store)
    data = continual.results(config, graph, store, measured, failed)
    scratch = next((result for result in measured if result.method.baseline), None)
    for row, result in zip(data["rows"], measured, strict=True):
        row["lifelong"] = lifelong.metrics_of(result, scratch, data["sequence"])
    return measured, data


def conclude_pairs(console: Console, config: Config, graph: Graph, store: Store, failed: Mapping[str, str]) -> None:
    """Write results and plots of a transfer experiment, print the tables."""
    measured, data = pairs_results(config, graph, store, failed)
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
    tables = transfer.tables(data["rows"], console.width)
    notes = [*transfer.notes(data), *transfer.uncompared(graph, store)]
    if config.sim_to_sim:
        tables, notes = [*tables, sim2real.table(data["recovery"])], [sim2real.NOTE, *notes]
    _print(console, store, tables, notes, pictures, transfer.best(store, measured))


def conclude_sequence(
    console: Console, config: SequenceConfig, graph: Graph, store: Store, failed: Mapping[str, str]
) -> None:
    """Write results and the score matrices of a sequence, print its table."""
    measured, data = sequence_results(config, graph, store, failed)
    write_json(store.out / "results.json", data)
    tables, notes, pictures = [], continual.notes(data), []
    if measured:
        tables = [continual.table(data, console.width), lifelong.table(data["rows"], console.width)]
        notes, pictures = [notes[0], lifelong.NOTE, *notes[1:]], ["matrix.png", "profiles.png"]
        own, tasks = continual.own_scale(data), data["sequence"]
        plots.score_matrices(measured, tasks, store.out / "matrix.png", config.name, own)
        plots.profiles(plots.final_scores(measured, tasks, own), store.out / "profiles.png", config.name)
        lifelong.write_logs(measured, data["sequence"], store.out / "l2logs")
    _print(console, store, tables, notes, pictures, continual.best(measured))


def _print(
    console: Console,
    store: Store,
    tables: Sequence[Table],
    notes: Sequence[str],
    pictures: Sequence[str],
    best: Sequence[Best],
) -> None:
    for table in tables:
        console.print(table)
        console.print()
    files = ", ".join(f"{store.out}/{name}" for name in ("results.json", *pictures))
    for line in (*notes, f"Results: {files}", *best_notes(store, best)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
