"""The folder of an experiment: its config, and each stage's record, metrics and checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.files import read_file, replace_file
from graft.envs.core.task import Bounds
from graft.errors import GraftError
from graft.experiments.config.experiment import AnyConfig
from graft.experiments.plan.stage import Stage
from graft.experiments.store.lock import Fence, LockHeld, hold_lock
from graft.experiments.store.provenance import provenance
from graft.transfer.metrics import Curve

LOCK = ".lock"
BUILDS = "builds.json"
"""In the folder of `graft patch`: build -> its task and the sha256 of the modules that its environments are from."""

LOCKS = ".locks"
"""Folder of the stages' locks and the files that name the holders; a stage's own folder is emptied when it starts."""

METRICS = "metrics.jsonl"
SNAPSHOT = "snapshot"
FAULT_CHECKPOINT = "checkpoint-at-fault"
"""Checkpoint of a stage whose environments failed too often, in its folder; kept until the stage is done."""

DIVERGED = "diverged"
"""Status of a stage whose training diverged in all its tries, and the key of these in records."""

MINIBATCHES = "diverged-*.safetensors"
"""Files in a stage's folder: the minibatches by which it diverged."""

STARTS = "starts"
"""In records of stages: ``return_means`` before training of what a method could start from, and what was ``taken``."""

RACE = "race"
"""In records of stages, what raced (`stages/race.py`); and the folder of a stage that its candidates are in."""

RECALL_SECONDS = "time/recall_s"
"""Tag of the seconds that a stage's evaluations on earlier tasks took, after its training."""

COST = "cost"
"""In records of stages and in snapshots: what it took; nothing else depends on it."""

AUDIT = "audit"
"""In entries of `results.json`: metrics of a training that went above their limits."""

RESUMED = "resumed_with_fresh_episodes"
"""In records of stages: how often that was, and at which env steps."""


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` in one step by indented JSON."""
    replace_file(path, json.dumps(data, indent=1, sort_keys=True).encode())


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted keys at which two configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{prefix}{k}.")]
    return [] if old == new else [prefix.rstrip(".")]


def _with_defaults(before: dict[str, Any], config: AnyConfig) -> dict[str, Any]:
    """The config of an older Graft, which lacks newer keys, as this one writes it; as it is where it can't be read."""
    try:
        return type(config).model_validate(before).model_dump(mode="json", by_alias=True)
    except ValueError:
        return before


RECORD_KEYS = {"metrics_sha256", "checkpoint", "env_steps", "seconds"}
"""Keys of a finished stage's record beside those of every record."""


class _Recalled(BaseModel, strict=True):
    return_mean: float


class _Record(BaseModel, strict=True):  # as the file itself is used, in which no text becomes a number
    """What is read of a ``stage.json``, which somebody else may have written."""

    status: Literal["running", "failed", "stopped", "diverged", "done"]
    label: str = ""
    error: str | None = None
    env_steps: int = 0
    seconds: float = 0.0
    size: dict[str, int] = {}
    recall: list[_Recalled] = []
    recall_before: list[_Recalled] = []
    cost: dict[str, float | None] = {}
    clipped: dict[str, Any] = {}


class _Experiment(BaseModel, strict=True):
    """The same of ``experiment.json``."""

    config: dict[str, Any]
    invocations: list[Any] = []
    versions: dict[str, str] = {}


MUTABLE_KEYS = {"audit", "clips", "cost", "methods", "seeds", "sinks", "sources", "targets"}
"""Parts of a config that may change while its folder stays the same."""


class Store:
    """The folder ``out`` of one experiment; `open` creates it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._checked: set[str] = set()
        self._fences: dict[str, Fence] = {}

    def check(self, config: AnyConfig) -> None:
        """Raise GraftError where ``out`` holds something else than this experiment; writes nothing."""
        record = self.out / "experiment.json"
        try:
            known = record.exists()
            names = {path.name for path in self.out.iterdir()} if self.out.exists() else set()
        except OSError as error:
            raise GraftError(f"{self.out} cannot be used ({error.strerror}); choose another --out.") from error
        if not known:
            if names - {LOCK, LOCKS, BUILDS}:
                raise GraftError(f"{self.out} is not an experiment's folder and not empty; choose another --out.")
            return
        try:
            before = _Experiment.model_validate(json.loads(read_file(record))).config
        except OSError as error:
            raise GraftError(f"{record} cannot be read ({error.strerror}).") from error
        except (ValueError, RecursionError) as error:
            raise GraftError(f"{record} cannot be read; choose another --out.") from error
        differences = _differences(_with_defaults(before, config), config.model_dump(mode="json", by_alias=True))
        if {key.partition(".")[0] for key in differences} - MUTABLE_KEYS:
            raise GraftError(
                f"{self.out} holds another experiment ('{before.get('name')}', which differs in "
                f"{', '.join(differences[:5])}); choose another --out, or remove that folder."
            )

    def open(self, config: AnyConfig, command: str = "run") -> None:
        """Create the folder, or add an invocation of ``graft COMMAND`` to the record of an existing one."""
        self.check(config)
        record = self.out / "experiment.json"
        self.out.mkdir(parents=True, exist_ok=True)
        data: dict[str, Any] = {**provenance(), "invocations": []}
        if record.exists():
            data = json.loads(record.read_text(encoding="utf-8"))
        data["config"] = config.model_dump(mode="json", by_alias=True)
        words = ["graft", command, *sys.argv[1:]]
        data.setdefault("invocations", []).append({"command": words, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        write_json(record, data)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it; raises GraftError where it can't, or another runs in it."""
        if any("\udc80" <= letter <= "\udcff" for letter in str(self.out.absolute())):  # TensorBoard could not write
            raise GraftError(
                f"{self.out} has letters that the file names of this locale ({sys.getfilesystemencoding()}) lack; "
                f"choose another --out, or set PYTHONUTF8=1."
            )
        try:
            (self.out / LOCKS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GraftError(f"{self.out} cannot be made ({error.strerror}); choose another --out.") from error
        if not os.access(self.out / LOCKS, os.W_OK):
            raise GraftError(f"{self.out} cannot be written; make it writable, or choose another --out.")
        try:
            with hold_lock(self.out / LOCK, self.out / LOCKS / "run.holder"):
                yield
        except LockHeld as by:
            raise GraftError(
                f"{self.out} is in use by another run, {by}; wait for it, or choose another --out."
            ) from by

    @contextmanager
    def lock_stage(self, stage_id: str, seconds: float) -> Iterator[None]:
        """Keep other processes out of a stage's folder (`Fence`); raises GraftError if one stays for ``seconds``."""
        (self.out / LOCKS).mkdir(parents=True, exist_ok=True)
        path = self.out / LOCKS / stage_id
        try:
            with hold_lock(path, path.with_name(f"{stage_id}.holder"), seconds) as self._fences[stage_id]:
                yield
        except LockHeld as held:
            by = str(held)
            raise GraftError(
                f"{by[0].upper()}{by[1:]} still writes into {self.folder(stage_id)}; end it, and start again."
            ) from held
        finally:
            self._fences.pop(stage_id, None)

    def check_holder(self, stage_id: str) -> None:
        """Raise TakenOver where another process took over the stage whose lock this one has."""
        if stage_id in self._fences:
            self._fences[stage_id].check()

    def software_changes(self) -> list[str]:
        """Dotted keys of versions and git state that changed since the experiment was created."""
        record = json.loads((self.out / "experiment.json").read_text(encoding="utf-8"))
        now, known = provenance(), record.get("versions", {})  # an older Graft recorded fewer libraries
        versions = {library: version for library, version in now["versions"].items() if library in known}
        return _differences({"versions": known, "git": record.get("git")}, {"versions": versions, "git": now["git"]})

    def folder(self, stage_id: str) -> Path:
        return self.out / "stages" / stage_id

    def record(self, stage_id: str) -> dict[str, Any] | None:
        """The stage's ``stage.json``, or None where it never started."""
        path = self.folder(stage_id) / "stage.json"
        if not path.exists():
            return None
        try:
            record: dict[str, Any] = json.loads(read_file(path))
            done = _Record.model_validate(record).status == "done"
            intact = not done or (record.keys() >= RECORD_KEYS and record["id"] == stage_id)
        except OSError as error:  # the folder may be whole, so nothing is to be removed
            raise GraftError(f"{path} cannot be read ({error.strerror}).") from error
        except (ValueError, RecursionError):
            intact = False
        if not intact:
            raise GraftError(f"{path} was altered; remove the stage's folder to train it again.")
        return record

    def done(self, stage_id: str) -> bool:
        """Whether the stage is finished; raises GraftError where a file of it is missing or was altered since."""
        record = self.record(stage_id)
        if record is None or record["status"] != "done":
            return False
        if stage_id in self._checked:
            return True
        metrics = self.folder(stage_id) / METRICS
        if not metrics.is_file() or hashlib.sha256(metrics.read_bytes()).hexdigest() != record["metrics_sha256"]:
            raise GraftError(
                f"{metrics} of a finished stage is missing or was altered; remove {metrics.parent} to train it again."
            )
        if self.checkpoint(stage_id).id != record["checkpoint"]:
            raise GraftError(f"{metrics.parent}/checkpoint is not the one the stage made; remove it to train it again.")
        self._checked.add(stage_id)
        return True

    def diverged(self, stage_id: str) -> bool:
        """Whether the stage ended without a result, as its training diverged in all its tries."""
        return (self.record(stage_id) or {}).get("status") == DIVERGED

    def checkpoint(self, stage_id: str) -> Checkpoint:
        """The stage's checkpoint; its hashes are checked."""
        return Checkpoint.load(self.folder(stage_id) / "checkpoint")

    def start(self, stage: Stage, keep: Container[str] = ()) -> Path:
        """The folder of a stage that runs now, emptied but for the names in ``keep`` and what tells of failures.

        A stage that ended as diverged begins with all its tries; one that was interrupted goes on with those left.
        """
        folder = self.folder(stage.id)
        self._checked.discard(stage.id)
        folder.mkdir(parents=True, exist_ok=True)
        ended = self.diverged(stage.id)
        for path in folder.iterdir():
            if path.name in keep or path.name == FAULT_CHECKPOINT or path.name == "stage.json":
                continue
            if ended or not path.match(MINIBATCHES):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._write_record(stage, "running")
        return folder

    def finish(self, stage: Stage, **cost: Any) -> None:
        """Record that a stage is done, after all its other files are on the disk; raises as `check_holder`."""
        metrics = (self.folder(stage.id) / METRICS).read_bytes()
        self._write_record(stage, "done", metrics_sha256=hashlib.sha256(metrics).hexdigest(), **cost)
        for name in (SNAPSHOT, FAULT_CHECKPOINT):
            shutil.rmtree(self.folder(stage.id) / name, ignore_errors=True)

    def fail(self, stage: Stage, error: str, status: str = "failed", **details: Any) -> None:
        """Record why a stage failed, even before it could start; ``status``: "failed" or `DIVERGED`."""
        self.folder(stage.id).mkdir(parents=True, exist_ok=True)
        self._write_record(stage, status, error=error, **details)

    def stop(self, stage: Stage) -> None:
        """Record that a stage was ended early on purpose; it can continue from its snapshot."""
        self._write_record(stage, "stopped")

    def _write_record(self, stage: Stage, status: str, **rest: Any) -> None:
        self.check_holder(stage.id)
        record = {"id": stage.id, "label": stage.label, "kind": stage.kind, "status": status, "spec": stage.to_json()}
        write_json(self.folder(stage.id) / "stage.json", record | rest)

    def evaluations(self, stage_id: str, scale: Bounds | None = None, tag: str = "eval/return_mean") -> Curve:
        """A metric of the stage's evaluations, by default mean returns; normalised where ``scale`` is given.

        Raises GraftError where the metrics can't be read.
        """
        with self._reading(stage_id) as points:
            found = [point for point in points if tag in point]
            scores = [point[tag] if scale is None else scale.normalise(point[tag]) for point in found]
            return Curve([point["env_steps"] for point in found], scores)

    def largest(self, stage_id: str, tag: str) -> tuple[float, int] | None:
        """The largest value of a metric and its env steps; None where there is none. Raises as `evaluations`."""
        with self._reading(stage_id) as points:
            found = [(float(point[tag]), int(point["env_steps"])) for point in points if tag in point]
            return max(found, key=lambda entry: entry[0], default=None)

    @contextmanager
    def _reading(self, stage_id: str) -> Iterator[list[dict[str, Any]]]:
        """The stage's metrics; GraftError where they, or what is then made of them, are not as Graft wrote them."""
        path = self.folder(stage_id) / METRICS
        try:
            yield [json.loads(line) for line in read_file(path).decode().splitlines()]
        except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise GraftError(f"{path} can't be read; remove the stage's folder, and run `graft run` again.") from error
        except OSError as error:
            raise GraftError(f"{path} can't be read ({error.strerror}).") from error
