"""The command ``graft inspect``: what a checkpoint is and where it comes from, and how two of them differ."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.command import FAILED, command, command_parser
from graft.errors import GraftError

if TYPE_CHECKING:
    from rich.console import Console

    from graft.experiments.store.lineage import Member

EXAMPLES = """examples:
  graft inspect runs/mechanics                      the checkpoints of a run, each below the one it was made from
  graft inspect runs/mechanics/stages/27ab12        one of them: task, network, method, score, cost, licence, family
  graft inspect shipped/agent --search runs         its ancestors lie in other folders
  graft inspect runs/mechanics --verify             all hashes again; exit code 1 where a file was altered or is missing
  graft inspect runs/a/stages/27ab12 --diff runs/a/stages/9c01de
"""


GOOD = ": all files are as they were written"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "inspect",
        "Says what a checkpoint is: its task, network, method, score, cost, licence and ancestors.\n"
        "Of a run, its checkpoints as a tree.",
        EXAMPLES,
    )
    parser.add_argument(
        "folder", type=Path, metavar="CHECKPOINT | RUN", help="folder of a checkpoint, a stage or a run"
    )
    parser.add_argument(
        "--search", type=Path, action="append", default=[], metavar="DIR", help="where ancestors may lie"
    )
    parser.add_argument("--verify", action="store_true", help="compute every hash again, of ancestors as well")
    parser.add_argument(
        "--diff", type=Path, metavar="OTHER", help="how another checkpoint differs: weights, names, options"
    )
    options = parser.parse_args(arguments)
    if options.diff is not None and (options.verify or options.search):
        raise GraftError("--diff compares two checkpoints; --verify and --search are for one, or a run.")
    from rich.console import Console

    from graft.experiments.playback.agent import find_checkpoint
    from graft.experiments.store.lineage import family, is_run, members_of

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    if is_run(options.folder):
        if options.diff is not None:
            raise GraftError(f"{options.folder} is a run; --diff compares two checkpoints, such as two of its stages.")
        return _run(console, options.folder, members_of(options.folder, options.search), options.verify)
    folder = find_checkpoint(options.folder)
    if options.diff is not None:
        return _diff(console, folder, find_checkpoint(options.diff))
    return _checkpoint(console, family(folder, options.search), options.verify)


def _checkpoint(console: Console, members: list[Member], verify: bool) -> int:
    from graft.agents.checkpoints.checkpoint import Checkpoint
    from graft.experiments.report.inspection import facts, family_tree

    last, notes = members[-1], _notes(members) if verify else {}
    assert last.folder is not None
    if notes.get(last.id, GOOD) == GOOD:
        console.print(facts(last, Checkpoint.load(last.folder)))
    if len(members) > 1 or verify:
        console.print(family_tree(members, notes))
    return _code(notes)


def _run(console: Console, folder: Path, members: list[Member], verify: bool) -> int:
    from graft.experiments.report.inspection import run_tree

    if not members:
        raise GraftError(f"No stage in {folder} has finished, so there is no checkpoint to inspect.")
    notes = _notes(members) if verify else {}
    console.print(run_tree(str(folder), members, notes))
    return _code(notes)


def _diff(console: Console, first: Path, second: Path) -> int:
    from graft.agents.checkpoints.checkpoint import Checkpoint
    from graft.experiments.report.inspection import changes, changes_table, difference_lines

    a, b = Checkpoint.load(first), Checkpoint.load(second)
    console.print(changes_table(changes(a.tensors, b.tensors), (str(first), str(second))))
    for line in difference_lines(a, b):
        console.print(line)
    return 0


def _notes(members: list[Member]) -> dict[str, str]:
    """What is said of each checkpoint's files, by id."""
    from graft.experiments.store.lineage import fault_of

    return {m.id: f": {fault}" if (fault := fault_of(m)) else GOOD for m in members if not m.file}


def _code(notes: dict[str, str]) -> int:
    return FAILED if any(note != GOOD for note in notes.values()) else 0
