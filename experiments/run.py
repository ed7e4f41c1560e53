"""The command line: `python -m experiments.run [CONFIG] [key=value ...] [--out DIR] [--jobs N] [--dry-run]`."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from envs.errors import GraftError
from experiments import plots, report
from experiments.config import DEFAULT, Config, load_config, packaged_configs
from experiments.graph import Comparison, Graph, expand, preflight
from experiments.launchers.local import LocalLauncher
from experiments.progress import Progress
from experiments.store import Store, write_json
from transfer.method import label
from transfer.transplant import TransplantReport

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes."""

EXAMPLES = """examples:
  python -m experiments.run                              the quickstart, a few minutes on two cores
  python -m experiments.run mechanics --dry-run          stages and transplant reports, without training
  python -m experiments.run mechanics seeds=3 --jobs 4   three seeds, four worker processes
  python -m experiments.run my.yaml transfer.steps=1e5 targets.0.kwargs.slip=0.5 --out runs/slippery

The same command again goes on where it was stopped; stages that its folder holds are never run again.
"""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.run",
        description="Pretrain agents on source tasks, transfer them to target tasks by every method, and compare.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "config",
        nargs="*",
        metavar="CONFIG | key=value",
        help=f"a YAML file or one of {', '.join(packaged_configs())} (default: {DEFAULT}); overrides by dotted key",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the results (default: runs/NAME, with a suffix for overrides)",
    )
    made.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: one per usable core)")
    made.add_argument("--dry-run", action="store_true", help="show what would run and be carried over; write nothing")
    return made


def _read(words: Sequence[str]) -> tuple[Config, bool]:
    """The config, and whether overrides changed it."""
    configs = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(configs) > 1:
        raise GraftError(f"One config at a time; got {', '.join(configs)}.")
    return load_config(configs[0] if configs else DEFAULT, overrides), bool(overrides)


def _default_out(config: Config, overridden: bool) -> Path:
    """``runs/NAME``; with overrides, a hash of the config sets it apart from the plain experiment."""
    digest = hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    return Path("runs") / (f"{config.name}-{digest[:6]}" if overridden else config.name)


def _transplant_table(comparison: Comparison, found: TransplantReport, losses_only: bool = False) -> Table:
    table = Table(title=f"{label(comparison.method)}: {comparison.source} to {comparison.target}", title_justify="left")
    for column in ("tensor", "status", "from source", "detail"):
        table.add_column(column, overflow="fold", justify="right" if column == "from source" else "left")
    for row in (row for row in found.rows if not losses_only or (row.wanted and row.detail)):
        table.add_row(row.tensor, row.status, f"{row.share:.0%}", row.detail)
    return table


def _dry_run(console: Console, graph: Graph, out: Path) -> None:
    for comparison, found in preflight(graph):
        if found is not None:
            console.print(_transplant_table(comparison, found))
    steps = sum(stage.budget for stage in graph.stages.values())
    for stage in graph.stages.values():
        console.print(f"{stage.id}  {stage.label}  {stage.budget:,} env steps", highlight=False, soft_wrap=True)
    console.print(
        f"{len(graph.stages)} stages, {steps:,} env steps, into {out}. Nothing was trained or written.", soft_wrap=True
    )


def _warn_partial(console: Console, found: list[tuple[Comparison, TransplantReport | None]]) -> None:
    """A table of what is new or lost, for every transplant that carries something over in part only."""
    for comparison, transplanted in found:
        if transplanted is not None and transplanted.partial:
            console.print(_transplant_table(comparison, transplanted, losses_only=True))


def _conclude(console: Console, config: Config, graph: Graph, store: Store, failed: dict[str, str]) -> None:
    """Write results and plots, print the table."""
    scales = report.target_bounds(config, graph, store)
    measured = report.measure(graph, store, scales)
    data = report.results(config, graph, store, measured, scales, failed)
    write_json(store.out / "results.json", data)
    if measured:
        plots.learning_curves(measured, store.out / "curves.png", config.name)
        for table in report.tables(data["rows"]):
            console.print(table)
    for line in report.notes(data):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    pictures = f", {store.out}/curves.png" if measured else ""
    console.print(f"Results: {store.out}/results.json{pictures}", highlight=False, soft_wrap=True)
    console.print(f"Curves of every stage: tensorboard --logdir {store.out}/stages", highlight=False, soft_wrap=True)


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the experiment that the arguments ask for; returns the exit code.

    Raises:
        GraftError: bad input of any kind.
    """
    config, overridden = _read(arguments.config)
    launcher = LocalLauncher(arguments.jobs)
    store = Store(arguments.out or _default_out(config, overridden))
    graph = expand(config)
    store.check(config)
    if arguments.dry_run:
        _dry_run(console, graph, store.out)
        return 0
    found = preflight(graph)
    with store.locked():
        return _run_stages(console, config, graph, found, launcher, store)


def _run_stages(
    console: Console,
    config: Config,
    graph: Graph,
    found: list[tuple[Comparison, TransplantReport | None]],
    launcher: LocalLauncher,
    store: Store,
) -> int:
    """Run what is not done yet, and report; returns the exit code."""
    todo = [stage_id for stage_id in graph.stages if not store.done(stage_id)]
    store.open(config)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    if len(todo) < len(graph.stages) and (changed := store.changed_since()):
        say(f"Note: finished stages were made with other software ({', '.join(changed)}); see experiment.json.")
    failed: dict[str, str] = {}
    if todo:
        _warn_partial(console, found)
        done, budget = len(graph.stages) - len(todo), sum(graph.stages[i].budget for i in todo)
        say(
            f"{config.name}: {len(todo)} of {len(graph.stages)} stages to run, {budget:,} env steps, "
            f"{launcher.jobs} workers, into {store.out}"
        )
        try:
            with Progress(console, len(graph.stages), done, budget) as progress:
                failed = launcher.run(graph, todo, store, progress)
        except KeyboardInterrupt:
            say("Interrupted. Finished stages are kept; the same command goes on from there.")
            return INTERRUPTED
    else:
        say(f"{config.name}: all {len(graph.stages)} stages are done already, in {store.out}")
    _conclude(console, config, graph, store, failed)
    return FAILED if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 where stages failed, 2 for bad input, 130 after Ctrl-C."""
    options = parser().parse_intermixed_args(arguments)
    console = Console()
    try:
        return run(console, options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except GraftError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    except BrokenPipeError:
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
