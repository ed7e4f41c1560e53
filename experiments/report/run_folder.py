"""A run's folder as reports read it: its results, the learning curves behind them, and what its stages recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from types import GenericAlias
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from graft.agents.checkpoints.files import read_file
from graft.envs.core.task import Bounds
from graft.errors import GraftError
from graft.experiments.report.results import (
    RESULTS,
    VERSION,
    ExperimentCost,
    RecoveryRow,
    Scale,
    SequenceRow,
    StageResult,
    TransferRow,
)
from graft.experiments.store.records import METRICS, Store
from graft.transfer.metrics import Curve

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """What a folder of ``graft run`` holds.

    Attributes:
        results: ``results.json``; fields that an older version lacks are None.
        experiment: ``experiment.json``; empty where there is none.
    """

    path: Path
    results: Mapping[str, Any]
    experiment: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.results["name"])

    @property
    def rows(self) -> Sequence[Row]:
        rows: Sequence[Row] = self.results["rows"]
        return rows

    @property
    def is_sequence(self) -> bool:
        return "sequence" in self.results

    def stages_of(self, row: Row) -> list[str]:
        """Ids of the stages of a row of a transfer experiment; of older results, those that its label names."""
        if row["stages"] is not None:
            return list(row["stages"])
        start = f"{row['method']} · {row['target']} · seed "
        found = [
            stage["id"]
            for stage in self.results["stages"]
            if stage["label"].startswith(start) and stage["status"] == "done"
        ]
        return found if len(found) == row["seeds"] else []  # one row of several sources has the same label

    def curves(self, row: Row) -> list[Curve]:
        """Normalised scores of a transfer experiment's row, a curve per seed; empty where its stages are not here."""
        return self._curves(self.stages_of(row), _bounds(self.results["bounds"].get(row["target"])))

    def task_curves(self, row: Row, task: int) -> list[Curve]:
        """The same of a sequence's row, on one of its tasks while it was learned."""
        stages = [run[task] for run in row["stages"] or ()]
        return self._curves(stages, _bounds(self.results["bounds"][task]))

    def _stage(self, stage: str) -> Path:
        """A stage's folder; raises GraftError for an id that could lead elsewhere."""
        if not re.fullmatch(r"[0-9A-Za-z]+", stage):
            raise GraftError(f"{self.path} has a stage {stage!r}, which is no id of one; run `graft run` on it again.")
        return self.path / "stages" / stage

    def _curves(self, stages: Sequence[str], scale: Bounds | None) -> list[Curve]:
        if not stages or not all((self._stage(stage) / METRICS).is_file() for stage in stages):
            return []
        return [Store(self.path).evaluations(stage, scale) for stage in stages]

    def logged(self, stage: str) -> list[Mapping[str, Any]]:
        """What a stage that goes on has logged so far: the lines up to the first that is no metrics with env steps.

        Its last line may be half written.
        """
        found: list[Mapping[str, Any]] = []
        try:
            for line in read_file(self._stage(stage) / METRICS).splitlines(keepends=True):
                point = json.loads(line.decode())
                if not line.endswith(b"\n") or not 0 <= int(point["env_steps"]) < 1 << 53:
                    break
                found.append({**point, "env_steps": int(point["env_steps"])})
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            pass
        return found

    def record(self, stage: str) -> Mapping[str, Any]:
        """A stage's ``stage.json``; empty where it is not here."""
        return _typed(_Record, self._stage(stage) / "stage.json")

    def transplant(self, stage: str) -> Mapping[str, Any]:
        """A stage's ``transplant.json``; empty where it carried nothing over."""
        return _typed(_Transplant, self._stage(stage) / "transplant.json")

    def seconds(self, stage: str) -> float:
        """What a stage took, of one core."""
        return float(next((s["seconds"] for s in self.results["stages"] if s["id"] == stage), 0.0))

    def seed_of(self, stage: str) -> int | None:
        """The seed that a stage's label names; None where it names none."""
        label = next((s["label"] for s in self.results["stages"] if s["id"] == stage), "")
        found = re.search(r"\bseed (\d+)$", label)
        return int(found[1]) if found else None

    def sources_of(self, stage: str) -> Iterator[str]:
        """Ids of the stages that a stage started from: its consolidation, and its pretraining."""
        ids = {entry["id"] for entry in self.results["stages"]}
        while (source := (self.record(stage).get("spec") or {}).get("source")) in ids:
            ids.remove(source)
            stage = str(source)
            yield stage

    def diagnostics(self, stage: str) -> dict[str, list[float]]:
        """Each tag under ``transfer/`` that a stage logged -> its values in the order of env steps."""
        path, found = self._stage(stage) / METRICS, dict[str, list[float]]()
        if not path.is_file():
            return found
        try:
            for line in map(json.loads, read_file(path).decode().splitlines()):
                for tag, value in line.items():
                    if tag.startswith("transfer/"):
                        found.setdefault(tag.removeprefix("transfer/"), []).append(float(value))
        except (ValueError, TypeError, AttributeError, OSError, OverflowError, RecursionError) as error:
            raise GraftError(f"{path} can't be read; run `graft run` on its folder again.") from error
        return found


def _bounds(scale: Mapping[str, Any] | None) -> Bounds | None:
    """Of `results.json`, where an expert of None is one that nobody reaches; None where a run had no scales."""
    if scale is None:
        return None
    return Bounds(scale["random"], inf if scale["expert"] is None else scale["expert"], scale["how"])


def _json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(read_file(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise GraftError(f"{path} can't be read; run `graft run` on its folder again.") from error
    return data if isinstance(data, dict) else {}


class _Spec(BaseModel):
    source: str | None = None
    budget: int | None = None


class _Record(BaseModel):
    """Of ``stage.json``, what reports read."""

    spec: _Spec | None = None
    status: str | None = None


class _Tensor(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    tensor: str
    status: str
    share: float
    detail: str = ""


class _Transplant(BaseModel):
    """Of ``transplant.json``, what reports read."""

    rows: list[_Tensor] = []
    lost: list[str] = []
    summary: str = ""


def _typed(model: type[BaseModel], path: Path) -> Mapping[str, Any]:
    """A file of a stage as this model has it; raises GraftError where it has something else."""
    try:
        return model.model_validate(_json(path)).model_dump()
    except ValidationError as error:
        raise GraftError(f"{path} can't be read; run `graft run` on its folder again.") from error


def read_run(folder: Path, results: Mapping[str, Any] | None = None) -> RunFolder:
    """What a folder holds; raises GraftError where it has no results, or those of a newer Graft.

    ``results``: what to take for its ``results.json``.
    """
    data = _json(folder / "results.json") if results is None else results
    experiment = _json(folder / "experiment.json")
    if not data:
        raise GraftError(
            f"{folder} has no results; `graft run` writes them from its start on; the same command goes on, "
            f"and then writes them."
        )
    version = data.get("version", 1)
    if isinstance(version, int) and version > VERSION:
        raise GraftError(f"{folder} has version {version}, which a newer Graft wrote; this one reads up to {VERSION}.")
    try:
        if version == VERSION:
            RESULTS.validate_python(data)
        sequence = "sequence" in data
        model: type[BaseModel] = SequenceRow if sequence else TransferRow
        filled = {"name": folder.name, "bounds": {}, "not_kept": {}, **_OLDER, **data}
        filled["rows"] = _filled(model, data["rows"])
        if data.get("recovery") is not None:
            filled["recovery"] = _filled(RecoveryRow, data["recovery"])
        (_Sequence if sequence else _Transfers).model_validate(filled)
        if not all(_fits(row, len(data["sequence"])) if sequence else _is_whole(row) for row in filled["rows"]):
            raise ValueError("rows of other lengths than they should have")
        _Experiment.model_validate(experiment)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise GraftError(f"{folder} has not the results that `graft run` writes; run it on it again.") from error
    return RunFolder(folder, filled, experiment)


_FINITE = ConfigDict(allow_inf_nan=False)

_OLDER = {"threshold": None, "heads": "shared", "task_known": False}
"""What older results may lack."""


class _Clipped(BaseModel):
    task: str
    observations: int
    first: str


class _Resumed(BaseModel):
    env_steps: list[int]


class _Stage(StageResult):
    clipped: _Clipped | None = None  # type: ignore[assignment]
    resumed_with_fresh_episodes: _Resumed | None = None  # type: ignore[assignment]


class _Results(BaseModel):
    """Of ``results.json``, what reports read beside its rows."""

    model_config = _FINITE

    name: str
    stages: list[_Stage]
    cost: ExperimentCost | None = None


class _Transfers(_Results):
    threshold: float | None
    bounds: dict[str, Scale]
    not_kept: dict[str, str]


class _Sequence(_Results):
    sequence: list[str]
    heads: str
    task_known: bool
    bounds: list[Scale]

    def model_post_init(self, _: Any) -> None:
        if len(self.bounds) != len(self.sequence):
            raise ValueError("a sequence needs the scale of each task")


class _Invocation(BaseModel):
    command: list[str]


class _Experiment(BaseModel):
    """Of ``experiment.json``, what reports show."""

    config: dict[str, Any] = {}
    versions: dict[str, str] = {}
    git: dict[str, Any] | None = None
    invocations: list[_Invocation] = []


NEEDED = {
    TransferRow: ("target", "method", "seeds", "missing_seeds", "auc", "final", "jumpstart"),
    SequenceRow: ("method", "seeds", "missing_seeds", "parameters", "bytes_beside", "matrix", "matrices"),
    RecoveryRow: ("target", "method"),
}
"""Fields that rows of all versions have."""


def _filled(model: Any, given: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows with None for what an older version lacks; raises where what they have is not what it should be."""
    rows = [{**dict.fromkeys(model.model_fields), **row} for row in given]
    for key in model.model_fields:
        values = [row[key] for row in rows if key in NEEDED[model] or row[key] is not None]
        _checks(model, key).validate_python(values)
    return rows


@cache
def _checks(model: Any, key: str) -> TypeAdapter[Any]:
    several: Any = GenericAlias(list, (model.model_fields[key].annotation,))
    return TypeAdapter(several, config=_FINITE)


def _is_whole(row: Row) -> bool:
    """Whether a row of transfers has a final score for each area, and a stage for each."""
    counts = {len(row[key]) for key in ("areas", "finals") if row[key] is not None}
    return len(counts) < 2 and 0 not in counts and (not row["stages"] or not counts or len(row["stages"]) in counts)


def _fits(row: Row, tasks: int) -> bool:
    """Whether a row of a sequence has square matrices over its tasks, and a stage for each."""
    square = all(len(matrix) == tasks and all(len(line) == tasks for line in matrix) for matrix in row["matrices"])
    whole = len(row["matrix"]) == tasks and all(len(line) == tasks for line in row["matrix"])
    return bool(row["matrices"]) and square and whole and all(len(ids) == tasks for ids in row["stages"] or ())
