"""The command ``graft run``: an experiment from its config, trained, compared and reported."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graft.command import FAILED, INTERRUPTED, command, command_parser
from graft.errors import GraftError
from graft.experiments.config.packaged import DEFAULT, packaged_configs

if TYPE_CHECKING:  # which take seconds to load
    from rich.console import Console

    from graft.experiments.config.experiment import AnyConfig
    from graft.experiments.launchers.launcher import Launcher
    from graft.experiments.plan.stage import Graph
    from graft.experiments.report.conclusions import TransplantTables
    from graft.experiments.store.records import Store

WIDE = 160  # columns of tables where the output is a file

EXAMPLES = """examples:
  graft run                              the quickstart, three minutes on two cores
  graft run mechanics --dry-run          stages and transplant reports, without training
  graft run mechanics seeds=3 --jobs 4   three seeds, four worker processes
  graft run my.yaml --jobs 1 --workers 4 one stage at a time, its slow environments in four processes
  graft run mechanics --launcher ray --address head:6379 --gpus 0.25 --out /shared/mechanics
                                         on a Ray cluster, four stages to a GPU
  graft run --describe packnet           what a method does, and its options
  graft run my.yaml transfer.steps=1e5 targets.0.kwargs.slip=0.5 --out runs/slippery

The same command again goes on where it was stopped; stages that its folder holds are never run again.
"""


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "run", "Pretrain agents on source tasks, transfer them to target tasks by every method, and compare.", EXAMPLES
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
    made.add_argument(
        "--jobs", type=int, metavar="N", help="stages at once (default: one per usable core; with ray, as many as fit)"
    )
    made.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that each training spreads its environments over (default: 1); the results are the same. It "
        "pays where cores are left, for Gymnasium environments whose steps are slow: a few milliseconds for the whole "
        "batch. Built-in games, EnvPool and PettingZoo run as before",
    )
    add_launcher_options(made)
    made.add_argument(
        "--schema",
        nargs="?",
        const="config",
        choices=("config", "results"),
        help="print the JSON schema of configs, by which editors complete YAML, or of results.json",
    )
    made.add_argument("--describe", metavar="NAME", help="a method or an algorithm (ppo, rllib/ppo) and its options")
    made.add_argument("--dry-run", action="store_true", help="show what would run and be carried over; write nothing")
    return made


def add_launcher_options(made: argparse.ArgumentParser) -> None:
    """The options that say where stages run."""
    made.add_argument(
        "--launcher",
        choices=("local", "ray"),
        default="local",
        help="local (default): processes of this machine. ray: a Ray cluster, whose nodes need Graft installed in the "
        "same version, and --out on a path that all of them share; a stage whose worker or node dies goes on from its "
        "last snapshot in another",
    )
    ray = made.add_argument_group("with --launcher ray")
    ray.add_argument(
        "--address",
        metavar="WHERE",
        help="auto (default): the cluster that runs on this machine, or that RAY_ADDRESS names. local: one that is "
        "started on this machine and ends with the run. HOST:PORT: of a cluster's head node",
    )
    ray.add_argument("--cpus", type=int, metavar="N", help="cores that a stage takes (default: as --workers)")
    ray.add_argument(
        "--gpus",
        type=float,
        metavar="F",
        help="GPUs that a stage takes, 0.25 for four stages to a GPU (default: 0, which hides them from it)",
    )
    ray.add_argument(
        "--retries",
        type=int,
        metavar="N",
        help="how often a stage is begun again whose worker or node died (default: 3); a stage that fails by itself "
        "is not",
    )
    ray.add_argument(
        "--wait",
        type=int,
        metavar="SECONDS",
        help="how long to wait at the start for a node that has what a stage takes (default: 0), where the cluster "
        "grows by itself: an autoscaler brings nodes for as many stages as --jobs says",
    )


def launcher_of(arguments: argparse.Namespace) -> Launcher:
    """The launcher that the arguments ask for; nothing is started yet."""
    options = {name: getattr(arguments, name) for name in ("address", "cpus", "gpus", "retries", "wait")}
    given = {name: value for name, value in options.items() if value is not None}
    if arguments.launcher == "local":
        if given:
            raise GraftError(f"--{next(iter(given))} is for --launcher ray; leave it out, or choose that launcher.")
        from graft.experiments.launchers.local import LocalLauncher

        return LocalLauncher(arguments.jobs, arguments.workers)
    try:
        from graft.experiments.launchers.ray import RayLauncher
    except ModuleNotFoundError as error:
        raise GraftError("--launcher ray needs Ray; install it with: pip install 'ray[rllib]'") from error
    return RayLauncher(arguments.jobs, arguments.workers, **given)


def read_config(words: Sequence[str]) -> tuple[AnyConfig, bool]:
    """The config, and whether overrides changed it."""
    from graft.experiments.config.experiment import load_config
    from graft.experiments.config.names import check_names

    configs = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(configs) > 1:
        raise GraftError(f"One config at a time; got {', '.join(configs)}.")
    config = load_config(configs[0] if configs else DEFAULT, overrides)
    check_names(config)
    return config, bool(overrides)


def default_out(name: str, identity: Any, changed: bool) -> Path:
    """``runs/NAME``; where the plain experiment was changed, a hash of its ``identity`` sets it apart."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Path("runs") / (f"{name}-{digest[:6]}" if changed else name)


class Kind(NamedTuple):
    """What sets one kind of experiment apart.

    ``expand``: config -> graph. ``check``: raises GraftError before any training where something does not fit, and
    gives what each transfer would carry over, as (text, whether something would be lost). ``results``: what its stages
    measured, and ``results.json``. ``conclude``: writes results and pictures, and prints the tables.
    """

    expand: Callable[[Any], Graph]
    check: Callable[[Graph], list[TransplantTables]]
    results: Callable[[Any, Graph, Store, Mapping[str, str]], tuple[Any, dict[str, Any]]]
    conclude: Callable[[Console, Any, Graph, Store, Mapping[str, str]], None]


def kind_of(config: AnyConfig) -> Kind:
    from graft.experiments.config.experiment import Config
    from graft.experiments.plan.pairs import expand
    from graft.experiments.plan.sequence import expand_sequence
    from graft.experiments.report import conclusions as of

    if isinstance(config, Config):
        return Kind(expand, of.check_pairs, of.pairs_results, of.conclude_pairs)
    return Kind(expand_sequence, of.check_sequence, of.sequence_results, of.conclude_sequence)


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the experiment that the arguments ask for; returns the exit code. Raises GraftError for bad input."""
    if arguments.describe:
        from graft.experiments.config.describe import describe

        console.print(describe(arguments.describe), markup=False, highlight=False, soft_wrap=True)
        return 0
    if arguments.schema:
        print(json.dumps(_schema(arguments.schema), indent=1))
        return 0
    config, overridden = read_config(arguments.config)
    launcher = launcher_of(arguments)
    from graft.experiments.store.records import Store

    identity = config.model_dump(mode="json", by_alias=True, exclude={"audit", "cost", "sinks"})
    store = Store(arguments.out or default_out(config.name, identity, overridden))
    kind = kind_of(config)
    graph = kind.expand(config)
    store.check(config)
    if arguments.dry_run:
        _dry_run(console, kind, graph, store.out)
        return 0
    carried = kind.check(graph)
    with store.lock():
        failed = run_stages(console, config, graph, carried, launcher, store)
        if failed is None:
            if _has_results(graph, store):
                kind.conclude(console, config, graph, store, {})
                write_report(console, store)
            return INTERRUPTED
        kind.conclude(console, config, graph, store, failed)
        _make_clips(console, config, graph, store)
        write_report(console, store)
        if "tensorboard" in config.sinks:
            curves = f"Curves of every stage: tensorboard --logdir {store.out}/tb"
            console.print(curves, highlight=False, soft_wrap=True)
        return FAILED if failed else 0


def _schema(of: str) -> dict[str, Any]:
    if of == "results":
        from graft.experiments.report.results import RESULTS

        return RESULTS.json_schema()
    from graft.experiments.config.experiment import config_schema

    return config_schema()


def _has_results(graph: Graph, store: Store) -> bool:
    """Whether a target or a sequence has been learned by any method on any seed."""
    learned = any(store.done(stage) for comparison in graph.comparisons for stage in comparison.stages)
    return learned or any(all(map(store.done, run)) for life in graph.continual for run in life.trained)


def _make_clips(console: Console, config: AnyConfig, graph: Graph, store: Store) -> None:
    """Write and name the clips that the config asks for; where a task cannot be drawn, a note says so."""
    if not getattr(config, "clips", False):
        return
    from graft.experiments.playback.clips import write_clip
    from graft.experiments.sinks.tensorboard import write_gif

    for target in dict.fromkeys(comparison.target for comparison in graph.comparisons):
        try:
            if name := write_clip(graph, store, target):
                if "tensorboard" in config.sinks:
                    write_gif(store.out, str(target), store.out / name)
                console.print(f"Clip of agents before and after: {store.out / name}", highlight=False, soft_wrap=True)
        except GraftError as error:
            note = f"Note: no clip of {target}: {error}"
            console.print(note, highlight=False, markup=False, soft_wrap=True)


def write_report(console: Console, store: Store) -> None:
    from graft.experiments.report.page.render import REPORT, write_page
    from graft.experiments.report.run_folder import read_run

    said = f"All of it in one page: {store.out / REPORT}"
    try:
        write_page([read_run(store.out)], [store.out.name], store.out / REPORT)
    except GraftError as error:  # the run has ended all the same
        said = f"Note: no page of it: {error}"
    console.print(said, highlight=False, markup=False, soft_wrap=True)


def _dry_run(console: Console, kind: Kind, graph: Graph, out: Path) -> None:
    from graft.experiments.stages.update_cost import update_cost

    for carried in kind.check(graph):
        console.print(
            carried.differences, highlight=False, markup=False, soft_wrap=isinstance(carried.differences, str)
        )
    steps = sum(stage.budget for stage in graph.stages.values())
    for stage in graph.stages.values():
        console.print(f"{stage.id}  {stage.label}  {stage.budget:,} env steps", highlight=False, soft_wrap=True)
    if cost := update_cost(list(graph.stages.values())):
        console.print(cost, highlight=False, markup=False, soft_wrap=True)
    for line in _few_evaluations(graph):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{len(graph.stages)} stages, {steps:,} env steps, into {out}. Nothing was trained or written.", soft_wrap=True
    )


def _few_evaluations(graph: Graph) -> list[str]:
    from graft.experiments.report.common import evaluation_notes

    transfers = [stage for stage in graph.stages.values() if stage.kind == "transfer"]
    return evaluation_notes([1 + math.ceil(stage.budget / stage.evaluation.every) for stage in transfers])


def run_stages(
    console: Console,
    config: AnyConfig,
    graph: Graph,
    carried: list[TransplantTables],
    launcher: Launcher,
    store: Store,
    command: str = "run",
) -> dict[str, str] | None:
    """Run what is not done yet; returns what failed and why, or None after Ctrl-C."""
    from graft.experiments.launchers.launcher import run_graph
    from graft.experiments.report.progress import Progress
    from graft.experiments.report.so_far import ProgressWithResults
    from graft.experiments.stages.update_cost import update_cost

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    todo = [stage_id for stage_id in graph.stages if not store.done(stage_id)]
    done = len(graph.stages) - len(todo)
    store.open(config, command)
    if done and (changed := store.software_changes()):
        say(f"Note: finished stages were made with other software ({', '.join(changed)}); see experiment.json.")
    if not todo:
        say(f"{config.name}: all {done} stages are done already, in {store.out}")
        return {}
    for transfer in carried:
        if transfer.losses is not None:
            console.print(transfer.losses)
    budget = sum(graph.stages[i].budget for i in todo)
    workers = "as many workers as fit" if launcher.jobs is None else f"{launcher.jobs} at once"
    say(
        f"{config.name}: {len(todo)} of {len(graph.stages)} stages to run, {budget:,} env steps, {workers}, into "
        f"{store.out}"
    )
    if cost := update_cost([graph.stages[i] for i in todo]):
        say(cost)
    for line in _few_evaluations(graph):
        say(line)

    def results(failed: Mapping[str, str]) -> dict[str, Any]:
        return kind_of(config).results(config, graph, store, failed)[1]

    stages = [graph.stages[i] for i in todo]
    made = Progress(console, stages, done)
    if command != "pretrain":  # whose stages have nothing to be compared with
        made = ProgressWithResults(console, stages, done, store.out / "results.json", results)
    try:
        with made as progress:
            return run_graph(launcher, graph, todo, store, progress)
    except KeyboardInterrupt:
        say(
            "Interrupted. Finished stages are kept, of running ones all up to their last snapshots, half a minute old "
            "at most unless a replay buffer is large; the same command goes on from there."
        )
        return None


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 where stages failed, 2 for bad input, 130 after Ctrl-C."""
    options = parser().parse_intermixed_args(arguments)
    from rich.console import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    return run(Console(width=wide), options)


if __name__ == "__main__":
    sys.exit(main())
