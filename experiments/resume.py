"""A stage that was stopped goes on from its snapshot, and its metrics go on from where they were at that moment."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from agents.checkpoint import replace_file
from agents.snapshot import Part, Saved, Snapshots
from experiments.graph import Stage
from experiments.ledger import Ledger
from experiments.store import METRICS, SNAPSHOT, Store, surroundings

SECONDS = 30.0
"""Between two snapshots of a stage; a shorter stage takes none, and starts over."""

PACKAGES = ("envs", "agents", "transfer", "experiments")


@lru_cache(maxsize=1)
def code() -> str:
    """sha256 of this software's own source files: what one version began, another does not go on with."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _identity(stage: Stage) -> dict[str, Any]:
    around = surroundings()
    return {"stage": stage.id, "versions": around["versions"], "platform": around["platform"], "code": code()}


def begin(stage: Stage, store: Store) -> Path:
    """The folder of a stage that runs now: as a stopped run left it where that can go on, else clean.

    It can where its snapshot is intact and of the same stage, software and machine, and its metrics are those of that
    moment and what came after. They go into a new file: a run that was thought dead holds on to the old one.
    """
    folder = store.folder(stage.id)
    found = Snapshots(folder / SNAPSHOT, _identity(stage)).latest()
    if found is None:
        return store.start(stage)
    length, digest = found.parts["caller"].values["metrics"]
    metrics = _beginning(folder / METRICS, length)
    if hashlib.sha256(metrics).hexdigest() != digest:
        return store.start(stage)
    replace_file(folder / METRICS, metrics)
    return store.start(stage, keep=(SNAPSHOT, METRICS, "tb"))


def _beginning(path: Path, length: int) -> bytes:
    """The first bytes of a file; none of one that is not there."""
    try:
        with path.open("rb") as file:
            return file.read(length)
    except FileNotFoundError:
        return b""


def snapshots(stage: Stage, store: Store, ledger: Ledger, running: Part | None) -> Snapshots:
    """Snapshots of the stage's training, with the state of what is running beside it, and how long the metrics are."""

    def save() -> Saved:
        tensors, values = ({}, {}) if running is None else running.save()
        length = ledger.length()
        digest = hashlib.sha256(_beginning(store.folder(stage.id) / METRICS, length)).hexdigest()
        return Saved(tensors, {"running": values, "metrics": [length, digest]})

    def restore(saved: Saved, env_steps: int) -> None:
        ledger.rewind(saved.values["metrics"][0], env_steps)
        if running is not None:
            running.restore(Saved(saved.tensors, saved.values["running"]))

    folder = store.folder(stage.id) / SNAPSHOT
    return Snapshots(folder, _identity(stage), SECONDS, save=save, restore=restore)
