"""A stage that was stopped goes on from its snapshot, and its metrics go on from where they were at that moment."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from agents.checkpoint import replace_file
from agents.snapshot import MANIFEST, Part, Saved, Snapshots
from experiments.graph import Stage
from experiments.ledger import Ledger
from experiments.store import METRICS, SNAPSHOT, Store, surroundings

SECONDS = 30.0
"""Between two snapshots of a stage; a shorter stage takes none, and starts over."""

LIBRARIES = ("graft", "python", "torch", "numpy", "gymnasium", "stable-baselines3", "numba", "envpool", "minigrid")
"""What a snapshot is bound to; None stands for one that is not installed."""

PACKAGES = ("envs", "agents", "transfer", "experiments")


@lru_cache(maxsize=1)
def code() -> str:
    """sha256 of this software's own source files: what one version began, another does not go on with."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _identity(stage: Stage) -> dict[str, Any]:
    """What a snapshot belongs to: all that numbers depend on, but the processor.

    The C library counts, since it has some of the mathematical functions; the kernel's release does not, or nodes of
    one cluster would start each other's stages over. Another model of processor may round otherwise, as vectors are
    longer there. A stage goes on there all the same: that costs equality to the last bit, where starting over could
    go on for ever on spot machines of several models.
    """
    versions = surroundings()["versions"]
    return {
        "stage": stage.id,
        "versions": {library: versions.get(library) for library in LIBRARIES},
        "platform": [platform.system(), platform.machine(), platform.python_implementation(), *platform.libc_ver()],
        "code": code(),
    }


class _Found(NamedTuple):
    """What a stopped run left. ``metrics``: those of the snapshot's moment; None where the stage can't go on.

    ``why`` is for people: why it can't; empty where it has no snapshot.
    """

    metrics: bytes | None
    why: str = ""


def _found(stage: Stage, store: Store) -> _Found:
    folder = store.folder(stage.id)
    snapshot = Snapshots(folder / SNAPSHOT, _identity(stage)).latest()
    if snapshot is None:
        return _Found(None, _refusal(folder / SNAPSHOT / MANIFEST, _identity(stage)))
    length, digest = snapshot.parts["caller"].values["metrics"]
    metrics = _beginning(folder / METRICS, length)
    if hashlib.sha256(metrics).hexdigest() != digest:
        return _Found(None, f"{METRICS} was altered")
    return _Found(metrics)


def _refusal(manifest: Path, identity: dict[str, Any]) -> str:
    """Why the snapshot with this manifest does not fit, in words; empty where there is none."""
    if not manifest.exists():
        return ""
    try:
        other = dict(json.loads(manifest.read_bytes())["identity"])
        others = [key for key, value in json.loads(json.dumps(identity)).items() if other.get(key) != value]
        if "versions" in others:
            theirs, mine = other["versions"], identity["versions"]
            others += [f"{n} {theirs.get(n)}, not {mine.get(n)}" for n in mine if theirs.get(n) != mine[n]]
            others.remove("versions")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        others = []
    words = {"platform": "another operating system or C library", "code": "another version of Graft's code"}
    return f"its snapshot is of {', '.join(words.get(o, o) for o in others)}" if others else "its snapshot is damaged"


def starts_over(stage: Stage, store: Store) -> str:
    """Why a stage that has a snapshot can't go on from it, for people; empty where it can, or has none."""
    return _found(stage, store).why


def begin(stage: Stage, store: Store) -> Path:
    """The folder of a stage that runs now: as a stopped run left it where that can go on, else clean.

    It can where its snapshot is intact and of the same stage, software and system, and its metrics are those of that
    moment and what came after. They go into a new file: a run that was thought dead holds on to the old one.
    """
    metrics = _found(stage, store).metrics
    if metrics is None:
        return store.start(stage)
    replace_file(store.folder(stage.id) / METRICS, metrics)
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
        store.check_holder(stage.id)
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
