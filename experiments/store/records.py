"""The files of an experiment: what was asked for, and each stage's record, metrics and checkpoint."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from graft import __version__
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.files import replace_file
from graft.errors import GraftError
from graft.experiments.config.experiment import AnyConfig
from graft.experiments.plan.graph import Stage
from graft.experiments.store.lock import Fence, Held, locked
from graft.transfer.metrics import Curve

LOCK = ".lock"
LOCKS = ".locks"
"""Folder of a lock for each stage, and of the files that name the holders; beside the stages, because what is in a
stage's folder is removed when it starts."""

METRICS = "metrics.jsonl"
SNAPSHOT = "snapshot"
AT_FAULT = "checkpoint-at-fault"
"""Folder of a stage's network as it was when its environments had failed too often; kept until the stage is done."""

LIBRARIES = (
    *("torch", "numpy", "gymnasium", "stable-baselines3", "numba", "envpool", "minigrid"),
    *("ray", "optuna", "scipy", "mujoco", "ale-py", "pettingzoo", "mpe2", "box2d"),
)
"""Whose versions are recorded, where they are installed."""


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` in one step by indented JSON."""
    replace_file(path, json.dumps(data, indent=1, sort_keys=True).encode())


def _git(*arguments: str) -> str | None:
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def surroundings() -> dict[str, Any]:
    """Versions, platform, git commit and whether the working tree differs from it."""
    versions: dict[str, str] = {}
    for library in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    status = _git("status", "--porcelain")
    return {
        "versions": {"graft": __version__, "python": platform.python_version(), **versions},
        "platform": platform.platform(),
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)},
    }


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted keys at which two configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{prefix}{k}.")]
    return [] if old == new else [prefix.rstrip(".")]


RECORDED = {"metrics_sha256", "checkpoint", "env_steps", "seconds"}
"""What the record of a finished stage holds beside the stage itself."""


MUTABLE_KEYS = {"methods", "seeds", "sources", "targets"}
"""Parts of a config that may change while its folder stays the same."""


class Store:
    """The folder ``out`` of one experiment.

    Args:
        out: created by `open` where it does not exist.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._checked: set[str] = set()
        self._fences: dict[str, Fence] = {}

    def check(self, config: AnyConfig) -> None:
        """Raise GraftError where ``out`` holds something else than this experiment; writes nothing.

        Methods, seeds, sources and targets may be others than before: stages that both share are kept.
        """
        record = self.out / "experiment.json"
        try:
            known = record.exists()
            inside = {path.name for path in self.out.iterdir()} if self.out.exists() else set()
        except OSError as error:
            raise GraftError(f"{self.out} cannot be used ({error.strerror}); choose another --out.") from error
        if not known:
            if inside - {LOCK, LOCKS}:
                raise GraftError(f"{self.out} is not an experiment's folder and not empty; choose another --out.")
            return
        try:
            before = dict(json.loads(record.read_text(encoding="utf-8"))["config"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise GraftError(f"{record} cannot be read; choose another --out.") from error
        differences = _differences(before, config.model_dump(mode="json", by_alias=True))
        if set(differences) - MUTABLE_KEYS:
            raise GraftError(
                f"{self.out} holds another experiment ('{before.get('name')}', which differs in "
                f"{', '.join(differences[:5])}); choose another --out, or remove that folder."
            )

    def open(self, config: AnyConfig, command: str = "run") -> None:
        """Create the folder, or note one more invocation, of ``graft COMMAND``, in the record of an existing one."""
        self.check(config)
        record = self.out / "experiment.json"
        self.out.mkdir(parents=True, exist_ok=True)
        data: dict[str, Any] = {**surroundings(), "invocations": []}
        if record.exists():
            data = json.loads(record.read_text(encoding="utf-8"))
        data["config"] = config.model_dump(mode="json", by_alias=True)
        words = ["graft", command, *sys.argv[1:]]
        data["invocations"].append({"command": words, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        write_json(record, data)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other runs out of it meanwhile.

        Raises:
            GraftError: it can't be made, or another process runs in it.
        """
        try:
            (self.out / LOCKS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GraftError(f"{self.out} cannot be made ({error.strerror}); choose another --out.") from error
        try:
            with locked(self.out / LOCK, self.out / LOCKS / "run.holder"):
                yield
        except Held as held:
            raise GraftError(
                f"{self.out} is in use by another run, {held.by}; wait for it, or choose another --out."
            ) from held

    @contextmanager
    def alone(self, stage_id: str, seconds: float) -> Iterator[None]:
        """Keep other processes out of a stage's folder meanwhile; ends with this process, however that ends.

        A worker that was thought dead may still write there. Where it can't be kept out, since the file system has no
        locks between machines, it can record nothing any more; see `graft.experiments.store.lock.Fence`.

        Raises:
            GraftError: another process was in it for ``seconds``.
        """
        (self.out / LOCKS).mkdir(parents=True, exist_ok=True)
        path = self.out / LOCKS / stage_id
        try:
            with locked(path, path.with_name(f"{stage_id}.holder"), seconds) as self._fences[stage_id]:
                yield
        except Held as held:
            raise GraftError(
                f"{held.by[0].upper()}{held.by[1:]} still writes into {self.folder(stage_id)}; end it, and start again."
            ) from held
        finally:
            self._fences.pop(stage_id, None)

    def check_holder(self, stage_id: str) -> None:
        """Raise TakenOver where another process took over the stage that this one runs alone."""
        if stage_id in self._fences:
            self._fences[stage_id].check()

    def changed_since(self) -> list[str]:
        """What differs between this machine's software and what the record says its first stages were made with."""
        record = json.loads((self.out / "experiment.json").read_text(encoding="utf-8"))
        now, known = surroundings(), record.get("versions", {})  # of fewer libraries in folders of an older Graft
        versions = {library: version for library, version in now["versions"].items() if library in known}
        return _differences({"versions": known, "git": record.get("git")}, {"versions": versions, "git": now["git"]})

    def folder(self, stage_id: str) -> Path:
        """Of a stage."""
        return self.out / "stages" / stage_id

    def record(self, stage_id: str) -> dict[str, Any] | None:
        """The stage's ``stage.json``, or None where it never started."""
        path = self.folder(stage_id) / "stage.json"
        if not path.exists():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            intact = record["status"] in ("running", "failed", "stopped") or (
                record["status"] == "done" and record.keys() >= RECORDED and record["id"] == stage_id
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            intact = False
        if not intact:
            raise GraftError(f"{path} was altered; remove the stage's folder to train it again.")
        return record

    def done(self, stage_id: str) -> bool:
        """Whether the stage is finished and its files are as they were when it was.

        Raises:
            GraftError: a file of a finished stage is missing or was altered.
        """
        record = self.record(stage_id)
        if record is None or record["status"] != "done":
            return False
        if stage_id in self._checked:
            return True
        metrics = self.folder(stage_id) / "metrics.jsonl"
        if not metrics.exists() or hashlib.sha256(metrics.read_bytes()).hexdigest() != record["metrics_sha256"]:
            raise GraftError(
                f"{metrics} of a finished stage is missing or was altered; remove {metrics.parent} to train it again."
            )
        if self.checkpoint(stage_id).id != record["checkpoint"]:
            raise GraftError(f"{metrics.parent}/checkpoint is not the one the stage made; remove it to train it again.")
        self._checked.add(stage_id)
        return True

    def checkpoint(self, stage_id: str) -> Checkpoint:
        """What the stage trained; its hashes are checked."""
        return Checkpoint.load(self.folder(stage_id) / "checkpoint")

    def start(self, stage: Stage, keep: Container[str] = ()) -> Path:
        """A folder for a stage that runs now; of what an interrupted run of it left, only ``keep`` stays."""
        folder = self.folder(stage.id)
        self._checked.discard(stage.id)
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name not in keep and path.name != AT_FAULT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._write_record(stage, "running")
        return folder

    def finish(self, stage: Stage, **cost: Any) -> None:
        """Record that a stage is done, after everything else of it is on the disk.

        Raises:
            TakenOver: another process took the stage over.
        """
        metrics = (self.folder(stage.id) / "metrics.jsonl").read_bytes()
        self._write_record(stage, "done", metrics_sha256=hashlib.sha256(metrics).hexdigest(), **cost)
        for outlived in (SNAPSHOT, AT_FAULT):
            shutil.rmtree(self.folder(stage.id) / outlived, ignore_errors=True)

    def fail(self, stage: Stage, error: str, **found: Any) -> None:
        """Record why a stage ended early, even before it could start, and what else was found out about it."""
        self.folder(stage.id).mkdir(parents=True, exist_ok=True)
        self._write_record(stage, "failed", error=error, **found)

    def stop(self, stage: Stage) -> None:
        """Record that a stage was ended early on purpose; it can go on from its snapshot."""
        self._write_record(stage, "stopped")

    def _write_record(self, stage: Stage, status: str, **rest: Any) -> None:
        self.check_holder(stage.id)
        record = {"id": stage.id, "label": stage.label, "kind": stage.kind, "status": status, "spec": stage.to_json()}
        write_json(self.folder(stage.id) / "stage.json", record | rest)

    def evaluations(self, stage_id: str, tag: str = "eval/return_mean") -> Curve:
        """A metric of the stage's evaluations, by default mean returns; not normalised."""
        lines = (self.folder(stage_id) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        points = [json.loads(line) for line in lines]
        points = [p for p in points if tag in p]
        return Curve([p["env_steps"] for p in points], [p[tag] for p in points])
