"""Exports an agent as the options of ``graft export`` say, or checks an export."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

import graft
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.export.exporter import EXPORTERS, Agent, ContractExporter, Exporter, ModelExporter, check_replaceable
from graft.agents.export.recording import FEWEST, record_states
from graft.agents.export.verify import verify
from graft.command import at_least
from graft.errors import GraftError
from graft.experiments.playback.agent import find_checkpoint
from graft.experiments.playback.distil import distilled
from graft.experiments.playback.replay import write_replay


def run(console: Console, options: argparse.Namespace) -> None:
    """Export or verify; raises GraftError for bad input, or an export that is not what the agent is."""
    folder = options.checkpoint
    if options.verify is not None and (options.to is not None or options.out is not None):
        raise GraftError("--verify checks a file that is there, and --to and --out write one; give one of both.")
    if options.verify is not None:
        lines = verify(options.verify, _loaded(folder) if folder is not None else None)
    elif folder is None or options.to is None or options.out is None:
        raise GraftError("Give a checkpoint, --to FORMAT and --out PATH, or --verify FILE.")
    else:
        given = {
            name: getattr(options, name) for name in ("states", "episodes", "seed", "force", "quantise", "distil_to")
        }
        lines = export_agent(
            folder, options.to, options.out, **given, say=lambda line: console.print(line, soft_wrap=True)
        )
    for line in lines:
        console.print(line, soft_wrap=True)


def export_agent(
    folder: Path | str,
    to: str,
    out: Path | str,
    states: int = FEWEST,
    episodes: int = 20,
    seed: int = 0,
    force: bool = False,
    quantise: str | None = None,
    distil_to: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Write an agent in a format of `EXPORTERS`; returns what ``graft export`` prints.

    Args:
        folder: of a checkpoint or of its stage.
        states: to check it in, at least `FEWEST`.
        episodes: of the evaluation, where the format says how well the agent plays.
        force: replace what is at ``out``.
        quantise: ``int8`` writes weights of ONNX models in bytes.
        distil_to: ``mlp:64x64`` exports a network of these layers that has learned to play what the agent plays.
        say: takes lines on what is done meanwhile.
    Raises:
        GraftError: bad input, or an export that does not do what the agent does in evaluation; nothing is written.
    """
    at_least(FEWEST, states=states)
    exporter, out = EXPORTERS[to], Path(out)
    if quantise is not None and not isinstance(exporter, ModelExporter):
        raise GraftError(f"--quantise is for the formats of ONNX files, and {to} is none; leave it out.")
    _check_target(exporter, to, out, force)
    checkpoint, about = _loaded(folder), list[str]()
    if distil_to is not None:
        # Whether the format takes such an agent is known before minutes of fitting.
        fits = exporter.interface if isinstance(exporter, ContractExporter) else None
        checkpoint, about = distilled(checkpoint, distil_to, episodes, seed, say, fits)
    network = checkpoint.build().eval()
    recording = record_states(network, checkpoint.task, states, seed)

    def replay(into: Path) -> str | None:
        return write_replay(checkpoint, network, seed, into)

    version, smaller = graft.__version__, quantise is not None
    agent = Agent(checkpoint, network, recording, version, episodes, seed, replay, smaller)
    return [*exporter.write(agent, out), *about]


def _loaded(folder: Path | str) -> Checkpoint:
    return Checkpoint.load(find_checkpoint(Path(folder)))


def _check_target(exporter: Exporter, name: str, out: Path, force: bool) -> None:
    """Raises GraftError where ``out`` cannot be written, before anything is played."""
    if exporter.suffix and out.suffix.lower() != exporter.suffix:
        raise GraftError(f"--out {out} is not allowed; {name} writes a file whose name ends in {exporter.suffix}.")
    if out.name in ("", ".."):
        raise GraftError(f"--out {out} has no name of its own; give the path of a new file or folder.")
    if not out.parent.is_dir():
        raise GraftError(f"There is no folder {out.parent} to write {out.name} into.")
    there = [path for path in exporter.targets(out) if path.exists()]
    if there and not force:
        raise GraftError(f"{there[0]} exists; choose another name, or give --force to replace it.")
    wrong = next((path for path in there if path.is_dir() == bool(exporter.suffix)), None)
    if wrong is not None:
        kind = "folder" if wrong.is_dir() else "file"
        raise GraftError(f"{wrong} is a {kind}, which --to {name} would not replace; choose another name.")
    if exporter.marker:
        check_replaceable(out, exporter.marker)
