"""Resuming a stopped stage from its snapshot, with the metrics up to that snapshot."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from graft.agents.checkpoints.files import read_file, replace_file
from graft.agents.checkpoints.snapshot import MANIFEST, Savable, SavedState, Snapshot, Snapshots
from graft.envs.core.parts import source_hash
from graft.envs.core.task import Task
from graft.envs.factory import modules
from graft.experiments.plan.stage import Stage
from graft.experiments.stages.meter import Meter
from graft.experiments.stages.metrics_log import MetricsLog
from graft.experiments.store.provenance import provenance
from graft.experiments.store.records import COST, METRICS, SNAPSHOT, STARTS, Store

SECONDS = 30.0
"""Between two snapshots of a stage; a shorter stage has none, and starts over."""

LIBRARIES = (
    *("graft", "python", "torch", "numpy", "gymnasium", "stable-baselines3", "numba", "envpool", "minigrid"),
    *("ray", "mujoco", "ale-py", "pettingzoo", "mpe2", "box2d"),
)
"""Libraries that a snapshot depends on; one that is not installed counts as None."""

PACKAGES = ("envs", "agents", "transfer", "experiments")


@lru_cache(maxsize=1)
def code_hash() -> str:
    """sha256 of Graft's source files: a snapshot is resumed by the code that took it only."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _environment_hash(task: Task) -> str:
    """sha256 of the files that the task's environments are written in; one that they import in turn is not seen."""
    return source_hash(modules(task))


def identity_of(stage: Stage) -> dict[str, Any]:
    """All that results depend on, but the processor.

    The C library counts, as it has some of the mathematical functions; the kernel's release does not, as nodes of a
    cluster differ in it. Another model of processor may round otherwise, but a stage continues there all the same:
    on spot machines of several models, starting over might never end.
    """
    versions = provenance()["versions"]
    return {
        "stage": stage.id,
        "versions": {library: versions.get(library) for library in LIBRARIES},
        "platform": [platform.system(), platform.machine(), platform.python_implementation(), *platform.libc_ver()],
        "code": code_hash(),
        "environment": _environment_hash(stage.task),
    }


class Leg(NamedTuple):
    """Of a stage that is trained on in several calls: until when, and of which budget (None: the stage's own).

    ``levels``: which ones its episodes at the end are played on; each number has its own.
    """

    until: int | None = None
    budget: int | None = None
    levels: int = 0


WHOLE = Leg()


class Resumption:
    """The snapshot and metrics of a stopped stage: read once, checked, and given to its training.

    ``refusal``: why the stage can't continue from its snapshot, in words; empty where it can, or has none. The snapshot
    must be intact and of the same stage, software and system, and the metrics must begin with those of the snapshot.
    ``starts``: what the stage's method started from (`STARTS`), once that is known. ``meter``: what the stage takes, on
    top of what it took up to the snapshot. ``leg``: what of the stage is trained now.
    """

    leg = WHOLE

    def __init__(self, stage: Stage, store: Store) -> None:
        folder = store.folder(stage.id)
        self.check_holder = partial(store.check_holder, stage.id)
        self._folder, self._metrics_file, self._identity = folder / SNAPSHOT, folder / METRICS, identity_of(stage)
        self._snapshot = Snapshot.read(self._folder, self._identity)
        self.metrics, self.refusal = b"", ""
        self.starts: dict[str, Any] = {}
        self.meter = Meter()
        if self._snapshot is None:
            self.refusal = _refusal(self._folder / MANIFEST, self._identity)
            return
        try:
            found = self._snapshot.parts["caller"].values
            length, digest = found["metrics"]
            self.metrics = _beginning(self._metrics_file, length)
            if hashlib.sha256(self.metrics).hexdigest() != digest:
                self._snapshot, self.refusal = None, f"{METRICS} was altered"
                return
            self.starts, self.meter = dict(found.get(STARTS, {})), Meter(found.get(COST, {}))
        except (KeyError, ValueError, TypeError, AttributeError):  # sealed, but not by Graft
            self._snapshot, self.metrics, self.refusal = None, b"", "its snapshot is damaged"

    @property
    def possible(self) -> bool:
        """Whether there is a snapshot to continue from."""
        return self._snapshot is not None

    def _take(self) -> Snapshot | None:
        """The snapshot, once, so that its tensors are freed during training."""
        snapshot, self._snapshot = self._snapshot, None
        return snapshot

    def snapshots(
        self,
        log: MetricsLog,
        session: Savable,
        resumed: Callable[[int], None],
        fresh: Callable[[int], None],
        pause: Callable[[int], None],
    ) -> Snapshots:
        """Of the stage's training, with the state of its transfer session and the length of its metrics.

        ``resumed`` is called with the env steps of the snapshot that training goes on from; ``fresh`` with the same
        where environments whose state can't be saved begin fresh episodes; ``pause`` where the leg ends.
        """

        def save() -> SavedState:
            self.check_holder()
            tensors, values = session.save()
            length = log.length()
            digest = hashlib.sha256(_beginning(self._metrics_file, length)).hexdigest()
            values = {"running": values, "metrics": [length, digest], STARTS: self.starts, COST: self.meter.spent()}
            return SavedState(tensors, values)

        def restore(saved: SavedState, env_steps: int) -> None:
            log.truncate(saved.values["metrics"][0], env_steps)
            session.restore(SavedState(saved.tensors, saved.values["running"]))
            resumed(env_steps)

        where = self._folder, self._identity, SECONDS
        return Snapshots(
            *where,
            pause_at=self.leg.until,
            pause=pause,
            save=save,
            restore=restore,
            fresh=fresh,
            found=self._take,
        )


def prepare(stage: Stage, store: Store) -> Resumption:
    """Prepare the folder of a stage that runs now: empty, but for the snapshot and metrics that it continues from.

    Metrics are copied to a new file, as a worker thought dead may still have the old one open.
    """
    resumption = Resumption(stage, store)
    if resumption.possible:
        replace_file(store.folder(stage.id) / METRICS, resumption.metrics)
    store.start(stage, keep=(SNAPSHOT, METRICS) if resumption.possible else ())
    return resumption


def _refusal(manifest: Path, identity: dict[str, Any]) -> str:
    """Why the snapshot with this manifest can't be used, in words; empty where there is none."""
    if not manifest.exists():
        return ""
    try:
        other = dict(json.loads(read_file(manifest))["identity"])
        differences = [key for key, value in json.loads(json.dumps(identity)).items() if other.get(key) != value]
        if "versions" in differences:
            theirs, mine = other["versions"], identity["versions"]
            differences += [f"{n} {theirs.get(n)}, not {mine.get(n)}" for n in mine if theirs.get(n) != mine[n]]
            differences.remove("versions")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        differences = []
    if not differences:
        return "its snapshot is damaged"
    words = {
        "platform": "another operating system or C library",
        "code": "another version of Graft's code",
        "environment": "another version of the environment's code",
    }
    return f"its snapshot is of {', '.join(words.get(key, key) for key in differences)}"


def _beginning(path: Path, length: int) -> bytes:
    """The first bytes of a file; none where there is no file. Raises OSError where it is there and can't be read."""
    try:
        return read_file(path)[:length]
    except FileNotFoundError:
        return b""
