"""Results of a run that goes on or was killed: the run writes them as its stages end, reports read what is written.

A report reads JSON only: nothing that a folder names is imported, as it may be somebody else's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from graft.errors import GraftError
from graft.experiments.plan.stage import Stage
from graft.experiments.report.progress import Progress
from graft.experiments.report.run_folder import RunFolder, read_run
from graft.experiments.store.records import write_json

UNFINISHED = ("waiting", "running", "stopped")

LEAST, SHARE = 10.0, 0.02
"""Seconds between two results so far at least, and the largest share of a run's time that they take."""


class ProgressWithResults(Progress):
    """Also writes the results so far to ``path``: at the start, and when stages have ended, but not often.

    ``results``: {stage that failed: why} -> what `results.json` has.
    """

    def __init__(
        self,
        console: Console,
        todo: Sequence[Stage],
        done: int,
        path: Path,
        results: Callable[[Mapping[str, str]], Mapping[str, Any]],
    ) -> None:
        super().__init__(console, todo, done)
        self._path, self._results = path, results
        self.failed: dict[str, str] = {}
        self._changed, self._next = True, 0.0

    def finished(self, stage: Stage, error: str | None) -> None:
        super().finished(stage, error)
        self._changed = True
        if error is not None:
            self.failed[stage.id] = error

    def tick(self) -> None:
        super().tick()
        start = time.monotonic()
        if not self._changed or start < self._next:
            return
        self._changed = False
        with suppress(GraftError, OSError):  # the run's end writes them again, and says what is wrong
            write_json(self._path, self._results(self.failed))
        now = time.monotonic()
        self._next = now + max(LEAST, (now - start) / SHARE)


def latest(folder: Path) -> RunFolder:
    """What a folder holds, with the env steps so far of its stages that have not ended; raises as `read_run`."""
    run = read_run(folder)
    stages = [_with_steps(run, stage) for stage in run.results["stages"]]
    return replace(run, results={**run.results, "stages": stages})


def _with_steps(run: RunFolder, stage: Mapping[str, Any]) -> Mapping[str, Any]:
    if stage.get("status") not in UNFINISHED:
        return stage
    status = run.record(stage["id"]).get("status")
    if status not in ("running", "stopped"):
        return stage
    points = run.logged(stage["id"])
    return {**stage, "status": status, "env_steps": points[-1]["env_steps"] if points else 0}
