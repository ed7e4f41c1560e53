"""Exports an agent as the options of ``graft export`` say, or checks an export."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

import graft
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.export.contract import beside, verify
from graft.agents.export.exporter import EXPORTERS, Agent, Exporter
from graft.agents.export.recording import record
from graft.errors import GraftError
from graft.experiments.playback.agent import find_checkpoint
from graft.experiments.playback.replay import write_replay


def run(console: Console, options: argparse.Namespace) -> None:
    """Export or verify; raises GraftError for bad input, or an export that is not what the agent is."""
    folder = options.checkpoint
    checkpoint = Checkpoint.load(find_checkpoint(Path(folder))) if folder is not None else None
    lines = verify(options.verify, checkpoint) if options.verify is not None else _export(checkpoint, options)
    for line in lines:
        console.print(line, soft_wrap=True)


def _export(checkpoint: Checkpoint | None, options: argparse.Namespace) -> list[str]:
    if checkpoint is None or options.to is None or options.out is None:
        raise GraftError("Give a checkpoint, --to FORMAT and --out PATH, or --verify FILE.")
    exporter = EXPORTERS[options.to]
    out: Path = options.out
    _check_target(exporter, options.to, out, options.force)
    network = checkpoint.build().eval()
    recording = record(network, checkpoint.task, options.states, options.seed)
    agent = Agent(
        checkpoint,
        network,
        recording,
        graft.__version__,
        options.episodes,
        options.seed,
        lambda folder: write_replay(checkpoint, network, options.seed, folder),
    )
    return exporter.write(agent, out)


def _check_target(exporter: Exporter, name: str, out: Path, force: bool) -> None:
    """Raises GraftError where ``out`` cannot be written, before anything is played."""
    if exporter.suffix and out.suffix.lower() != exporter.suffix:
        raise GraftError(f"--out {out} is not allowed; {name} writes a file whose name ends in {exporter.suffix}.")
    if not out.parent.is_dir():
        raise GraftError(f"There is no folder {out.parent} to write {out.name} into.")
    taken = next((path for path in (out, beside(out, "contract"), beside(out, "vectors")) if path.exists()), None)
    if taken is not None and not force:
        raise GraftError(f"{taken} exists; choose another name, or give --force to replace it.")
    if taken is not None and taken.is_dir() == bool(exporter.suffix):
        kind = "folder" if taken.is_dir() else "file"
        raise GraftError(f"{taken} is a {kind}, which --to {name} would not replace; choose another name.")
