"""The command ``graft pretrain``: the sources of an experiment, trained and kept as checkpoints to transfer from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.command import FAILED, INTERRUPTED, command, command_parser
from graft.errors import GraftError
from graft.experiments.config.packaged import packaged_configs
from graft.experiments.run import add_launcher_options, default_out, launcher_of, read_config

if TYPE_CHECKING:  # which take seconds to load
    from graft.experiments.plan.stage import Graph

EXAMPLES = """examples:
  graft pretrain foundation                       makes the agent that comes with Graft again
  graft pretrain foundation --save my_foundation  and keeps its checkpoint in a folder of its own
  graft pretrain pairs seeds=1 --jobs 2           the eight sources of that experiment, without its transfers

A source in a config is then `checkpoint: FOLDER`. `graft run` with the same config, overrides and --out goes on with
what was trained here.
"""


def sources_only(graph: Graph) -> Graph:
    """``graph`` without what comes after pretraining."""
    from graft.experiments.plan.stage import Graph

    return Graph({key: stage for key, stage in graph.stages.items() if stage.kind == "pretrain"})


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 where trainings failed, 2 for bad input, 130 after Ctrl-C."""
    parser = command_parser("pretrain", "Train the sources of an experiment, and nothing else.", EXAMPLES)
    parser.add_argument(
        "config",
        nargs="+",
        metavar="CONFIG | key=value",
        help=f"a YAML file or one of {', '.join(packaged_configs())}; overrides by dotted key",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the experiment (default: runs/NAME)")
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="also keep the checkpoint there, where there is only one"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="trainings at once (default: one per usable core)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="as in `graft run` (default: 1)")
    add_launcher_options(parser)
    options = parser.parse_intermixed_args(arguments)
    if all("=" in word for word in options.config):
        raise GraftError(f"Which config? Give a YAML file or one of {', '.join(packaged_configs())}.")
    if options.save and options.save.exists():
        raise GraftError(f"--save {options.save} is there already; choose another folder, or remove it.")
    from rich.console import Console

    from graft.experiments.config.experiment import Config
    from graft.experiments.plan.pairs import expand
    from graft.experiments.run import run_stages
    from graft.experiments.stages.preflight import preflight
    from graft.experiments.store.records import Store

    config, overridden = read_config(options.config)
    if not isinstance(config, Config):
        raise GraftError(f"{config.name} is a sequence, which has no sources; give a config with sources.")
    store = Store(options.out or default_out(config.name, config.model_dump(mode="json", by_alias=True), overridden))
    graph, console = sources_only(expand(config)), Console()
    if not graph.stages:
        raise GraftError(f"The sources of {config.name} are checkpoints, which are trained already.")
    if options.save and len(graph.stages) > 1:
        raise GraftError(f"--save is for one training, and {config.name} has {len(graph.stages)} (see seeds, sources).")
    preflight(graph)
    store.check(config)
    with store.lock():
        failed = run_stages(console, config, graph, [], launcher_of(options), store, "pretrain")
        if failed is None:
            return INTERRUPTED
        for key, stage in graph.stages.items():
            made = store.folder(key) / "checkpoint"
            if options.save and key not in failed:
                made = options.save
                store.checkpoint(key).save(made)
            said = f"failed: {failed[key]}" if key in failed else f"checkpoint: {made}"
            console.print(f"{stage.label}: {said}", highlight=False, markup=False, soft_wrap=True)
    return FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
