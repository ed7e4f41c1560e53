"""A stage that was stopped goes on from its snapshot, and its metrics go on from where they were at that moment."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

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

    It can where its snapshot is intact and of the same stage, software and machine, and its metrics reach that far.
    """
    folder = store.folder(stage.id)
    found = Snapshots(folder / SNAPSHOT, _identity(stage)).latest()
    metrics = folder / METRICS
    if found is None or not metrics.exists() or metrics.stat().st_size < found.parts["caller"].values["metrics"]:
        return store.start(stage)
    return store.start(stage, keep=(SNAPSHOT, METRICS, "tb"))


def snapshots(stage: Stage, store: Store, ledger: Ledger, running: Part | None) -> Snapshots:
    """Snapshots of the stage's training, with the state of what is running beside it, and how long the metrics are."""

    def save() -> Saved:
        tensors, values = ({}, {}) if running is None else running.save()
        return Saved(tensors, {"running": values, "metrics": ledger.length()})

    def restore(saved: Saved, env_steps: int) -> None:
        ledger.rewind(saved.values["metrics"], env_steps)
        if running is not None:
            running.restore(Saved(saved.tensors, saved.values["running"]))

    folder = store.folder(stage.id) / SNAPSHOT
    return Snapshots(folder, _identity(stage), SECONDS, save=save, restore=restore)
