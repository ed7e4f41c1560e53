"""Results of a run that goes on or was killed, from the stages that are there; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from graft import __version__
from graft.errors import GraftError
from graft.experiments.config.experiment import AnyConfig, Config, SequenceConfig
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.sequence import expand_sequence
from graft.experiments.plan.stage import Graph
from graft.experiments.report.conclusions import pairs_results, sequence_results
from graft.experiments.report.run_folder import RunFolder, read_run
from graft.experiments.store.records import METRICS, Store


def latest(folder: Path, store: Store | None = None) -> RunFolder:
    """What a folder holds: its ``results.json``, or the results so far where stages are newer than that.

    ``store``: of the folder, which remembers the stages that it has checked.
    Raises:
        GraftError: as `read_run`, where stages say nothing either.
    """
    written = folder / "results.json"
    stages = [path.stat().st_mtime for path in folder.glob("stages/*/stage.json")]
    if not stages or (written.exists() and max(stages) <= written.stat().st_mtime):
        return read_run(folder)
    try:
        return read_run(folder, _results(folder, store or Store(folder)))
    except GraftError:
        if not written.exists():
            raise
        return read_run(folder)


def _results(folder: Path, store: Store) -> dict[str, Any]:
    try:
        record = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
        made_with, given = record["versions"]["graft"], record["config"]
        config: AnyConfig = TypeAdapter(AnyConfig).validate_python(given)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(f"{folder} has no results, and its experiment.json can't be read.") from error
    if made_with != __version__:
        raise GraftError(f"{folder} has no results; Graft {made_with}, which began it, can read its stages.")
    data = _data(config, store)
    for stage in data["stages"]:
        if stage["status"] in ("running", "stopped"):
            stage["env_steps"] = _env_steps(store.folder(stage["id"]) / METRICS)
    found: dict[str, Any] = json.loads(json.dumps(data))
    return found


def _data(config: AnyConfig, store: Store) -> dict[str, Any]:
    if isinstance(config, Config):
        graph = expand(config)
        return pairs_results(config, graph, store, _failed(graph, store))[1]
    assert isinstance(config, SequenceConfig)
    graph = expand_sequence(config)
    return sequence_results(config, graph, store, _failed(graph, store))[1]


def _failed(graph: Graph, store: Store) -> dict[str, str]:
    """Stages that failed -> the last line of why."""
    records = {stage: store.record(stage) or {} for stage in graph.stages}
    failed = {stage: record.get("error") for stage, record in records.items() if record.get("status") == "failed"}
    return {stage: (str(error).strip().splitlines() or ["failed"])[-1] for stage, error in failed.items()}


def _env_steps(metrics: Path) -> int:
    """Of a stage's latest metric; its last line may be half written."""
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        return int(json.loads([line for line in lines if line.endswith("\n")][-1])["env_steps"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0
