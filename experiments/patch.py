"""The command ``graft patch``: what a changed game does to an agent, and what it takes to get it back."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.command import FAILED, INTERRUPTED, command, command_parser
from graft.errors import GraftError
from graft.experiments.run import WIDE, add_launcher_options, launcher_of, run_stages, write_report

if TYPE_CHECKING:  # which take seconds to load
    from rich.console import Console

    from graft.experiments.patching.prepare import Patch
    from graft.experiments.report.page.cells import Section
    from graft.experiments.store.records import Store

EXAMPLES = """examples:
  graft patch check.yaml                                    minutes on two cores, into runs/patch-check
  graft patch check.yaml --junit patch.xml --html patch.html --json patch.json
  graft patch check.yaml --dry-run                          what changed and what would be carried over
  graft patch --schema > patch.schema.json                  by which editors complete the file

check.yaml:
  agent: runs/npc/stages/27ab12          # its folder, or that of a checkpoint
  new: {kwargs: {slip: 0.2}}             # the agent's own task, changed; or another id
  gates:
    - zero_shot: 0.8                     # of the old score, untrained
    - {recovered: 0.95, within_steps: 50000}

Exit code 0: all gates and scenarios passed; 1: one failed, or a training; 2: bad input. The same command again goes on
where it was stopped.
"""


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "patch",
        "Compare an agent on two builds of its game: what changed, what it lost, how soon training brings it back, and "
        "what it forgets meanwhile. Gates decide the exit code.",
        EXAMPLES,
    )
    made.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a YAML file with agent and new")
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the trainings, as of graft run (default: runs/patch-NAME)"
    )
    made.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML: a case for each gate, scenario")
    made.add_argument("--html", type=Path, metavar="FILE", help="also write one page")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers")
    made.add_argument("--jobs", type=int, metavar="N", help="trainings at once (default: one per usable core)")
    made.add_argument("--workers", type=int, default=1, metavar="N", help="as of graft run")
    add_launcher_options(made)
    made.add_argument("--schema", action="store_true", help="print the JSON schema of the file")
    made.add_argument("--dry-run", action="store_true", help="show what changed and would be carried; play nothing")
    return made


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Check the patch that the arguments name; returns the exit code. Raises GraftError for bad input."""
    from graft.experiments.config.patch import PatchConfig, load_patch

    if arguments.schema:
        print(json.dumps(PatchConfig.model_json_schema(), indent=1))
        return 0
    if arguments.config is None:
        raise GraftError("Give a YAML file with agent and new, such as graft patch check.yaml.")
    config = load_patch(arguments.config)
    targets = {"--junit": arguments.junit, "--html": arguments.html, "--json": arguments.json}
    import torch

    from graft.experiments.patching import builds, check, files, gates, prepare, sections
    from graft.experiments.store.records import Store

    torch.set_num_threads(1)
    files.check_names(targets, arguments.config)
    patch = prepare.prepare(config)
    store = Store(arguments.out or Path("runs") / f"patch-{config.name}")
    if config.steps and not arguments.dry_run:
        store.check(patch.experiment)
        builds.check_builds(patch, store)
    data: dict[str, Any] = check.described(patch)
    console.print(f"{config.name}: {config.agent}, from {patch.old} to {patch.new}\n", markup=False, highlight=False)
    sections.show(console, sections.schemas(data))
    sections.show(console, sections.transplant(data))
    if arguments.dry_run:
        return 0
    files.make_folders(targets)
    data |= check.before_training(patch)
    sections.show(console, sections.zero_shot(data))
    data["scenarios"] = [check.scenario_result(patch, scenario) for scenario in config.scenarios]
    sections.show(console, sections.scenarios(data))
    curves: list[Section | None] = []
    failed: dict[str, str] | None = {}
    if config.steps:
        failed = _train(console, patch, store, arguments)
        if failed is None:
            return INTERRUPTED
        data["methods"] = [check.method_result(patch, store, failed, method, data) for method in patch.methods]
        curves = _curves(store)
        sections.show(console, sections.methods(data))
    data["gates"] = gates.judge(patch, store, data)
    data["failed"] = [{"training": patch.graph.stages[i].label, "error": why} for i, why in (failed or {}).items()]
    data["passed"] = not failed and all(one["passed"] for one in [*data["gates"], *data["scenarios"]])
    sections.show(console, sections.gates(data))
    files.write_all(targets, data, curves)
    return 0 if data["passed"] else FAILED


def _train(console: Console, patch: Patch, store: Store, arguments: argparse.Namespace) -> dict[str, str] | None:
    """Run what is not done yet as ``graft run`` does; returns what failed and why, or None after Ctrl-C."""
    from graft.experiments.patching.builds import record_builds
    from graft.experiments.report import transfer
    from graft.experiments.store.records import write_json

    with store.lock():
        record_builds(patch, store)
        failed = run_stages(console, patch.experiment, patch.graph, [], launcher_of(arguments), store, "patch")
        scales = transfer.target_bounds(patch.experiment, patch.graph, store)
        measured = transfer.measure(patch.graph, store, scales)
        if measured:
            found = transfer.results(patch.experiment, patch.graph, store, measured, scales, failed or {})
            write_json(store.out / "results.json", found)
            write_report(console, store)
            console.print()
    return failed


def _curves(store: Store) -> list[Section | None]:
    """Learning curves of the trainings; none where nothing has finished."""
    from graft.experiments.report.page import curves
    from graft.experiments.report.run_folder import read_run

    return [curves.curves(read_run(store.out))] if (store.out / "results.json").exists() else []


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 where a gate or a training failed, 2 for bad input, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    from rich.console import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    return run(Console(width=wide), options)


if __name__ == "__main__":
    sys.exit(main())
