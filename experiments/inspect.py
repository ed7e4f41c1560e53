"""The command ``graft inspect``: what a checkpoint is and where it comes from, and how two of them differ."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.command import FAILED, command, command_parser
from graft.errors import GraftError

EXAMPLES = """examples:
  graft inspect runs/mechanics                      the checkpoints of a run, each below the one it was made from
  graft inspect runs/mechanics/stages/27ab12        one of them: task, network, method, score, cost, licence, family
  graft inspect shipped/agent --search runs         its ancestors lie in other folders
  graft inspect runs/mechanics --verify             all hashes again; exit code 1 where a file was altered or is missing
  graft inspect shipped/agent --config > again.yaml   the config that makes it again, with the command
  graft inspect runs/a/stages/27ab12 --diff runs/a/stages/9c01de
"""


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
    parser.add_argument("--config", action="store_true", help="print the config that makes it again, as YAML")
    options = parser.parse_args(arguments)
    if options.diff is not None and (options.verify or options.search):
        raise GraftError("--diff compares two checkpoints; --verify and --search are for one, or a run.")
    if options.config and (options.verify or options.diff is not None):
        raise GraftError("--config is for one checkpoint, without --verify and --diff.")
    from rich.console import Console

    from graft.experiments.playback.agent import find_checkpoint
    from graft.experiments.report import inspection
    from graft.experiments.store.lineage import family, is_run

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    if options.config:
        if is_run(options.folder):
            raise GraftError(f"{options.folder} is a run; its experiment.json has the config. Give a checkpoint.")
        from graft.experiments.store.training_config import config_text

        print(config_text(family(find_checkpoint(options.folder), options.search)), end="")
        return 0
    if is_run(options.folder):
        if options.diff is not None:
            raise GraftError(f"{options.folder} is a run; --diff compares two checkpoints, such as two of its stages.")
        good = inspection.show_run(console, options.folder, options.search, options.verify)
    elif options.diff is not None:
        good = inspection.show_differences(console, find_checkpoint(options.folder), find_checkpoint(options.diff))
    else:
        good = inspection.show_checkpoint(console, find_checkpoint(options.folder), options.search, options.verify)
    return 0 if good else FAILED
