"""A stage that was stopped goes on from its snapshot, and its metrics go on from where they were at that moment."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from graft.agents.checkpoints.files import replace_file
from graft.agents.checkpoints.snapshot import MANIFEST, Part, Saved, Snapshot, Snapshots
from graft.experiments.plan.graph import Stage
from graft.experiments.stages.metrics_log import Ledger
from graft.experiments.store.records import METRICS, SNAPSHOT, Store, surroundings

SECONDS = 30.0
"""Between two snapshots of a stage; a shorter stage takes none, and starts over."""

LIBRARIES = ("graft", "python", "torch", "numpy", "gymnasium", "stable-baselines3", "numba", "envpool", "minigrid")
"""What a snapshot is bound to; None stands for one that is not installed."""

PACKAGES = ("envs", "agents", "transfer", "experiments")


@lru_cache(maxsize=1)
def code() -> str:
    """sha256 of this software's own source files: what one version began, another does not go on with."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
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


class Resumption:
    """What a stopped run of a stage left: read once, checked, and given to its training.

    ``why`` is for people: why the stage can't go on from its snapshot; empty where it can, or has none. It can where
    the snapshot is intact and of the same stage, software and system, and the metrics are those of that moment and
    what came after.
    """

    def __init__(self, stage: Stage, store: Store) -> None:
        folder = store.folder(stage.id)
        self._check_holder = partial(store.check_holder, stage.id)
        self._folder, self._metrics_file, self._identity = folder / SNAPSHOT, folder / METRICS, _identity(stage)
        self._snapshot = Snapshot.read(self._folder, self._identity)
        self.metrics, self.why = b"", ""
        if self._snapshot is None:
            self.why = _refusal(self._folder / MANIFEST, self._identity)
            return
        length, digest = self._snapshot.parts["caller"].values["metrics"]
        self.metrics = _beginning(self._metrics_file, length)
        if hashlib.sha256(self.metrics).hexdigest() != digest:
            self._snapshot, self.why = None, f"{METRICS} was altered"

    @property
    def possible(self) -> bool:
        """Whether there is something to go on from."""
        return self._snapshot is not None

    def _take(self) -> Snapshot | None:
        """The snapshot, once, so that nobody holds its tensors while training goes on."""
        found, self._snapshot = self._snapshot, None
        return found

    def snapshots(self, ledger: Ledger, running: Part) -> Snapshots:
        """Of the stage's training, with the state of what is ``running`` beside it, and how long the metrics are."""

        def save() -> Saved:
            self._check_holder()
            tensors, values = running.save()
            length = ledger.length()
            digest = hashlib.sha256(_beginning(self._metrics_file, length)).hexdigest()
            return Saved(tensors, {"running": values, "metrics": [length, digest]})

        def restore(saved: Saved, env_steps: int) -> None:
            ledger.rewind(saved.values["metrics"][0], env_steps)
            running.restore(Saved(saved.tensors, saved.values["running"]))

        return Snapshots(self._folder, self._identity, SECONDS, save=save, restore=restore, found=self._take)


def begin(stage: Stage, store: Store) -> Resumption:
    """Prepare the folder of a stage that runs now: as a stopped run left it where that can go on, else clean.

    The metrics go into a new file: a run that was thought dead holds on to the old one.
    """
    left = Resumption(stage, store)
    if left.possible:
        replace_file(store.folder(stage.id) / METRICS, left.metrics)
    store.start(stage, keep=(SNAPSHOT, METRICS, "tb") if left.possible else ())
    return left


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


def _beginning(path: Path, length: int) -> bytes:
    """The first bytes of a file; none of one that is not there."""
    try:
        with path.open("rb") as file:
            return file.read(length)
    except FileNotFoundError:
        return b""
