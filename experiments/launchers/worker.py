"""A worker that may be on another machine: it runs stages, and reports their progress."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from graft.envs.supervision.processes import ONE_THREAD

if TYPE_CHECKING:  # numeric libraries load when their number of threads is set
    from graft.experiments.plan.stage import Stage

SHARED_SECONDS = 10.0
"""A shared folder shows what another machine wrote within this time."""


class StageProgress(NamedTuple):
    """Progress of a stage. ``stage``: its number, from 1. ``reports``: how many it has made. ``note``: for people."""

    stage: int = 0
    reports: int = 0
    env_steps: int = 0
    values: Mapping[str, float] = {}
    note: str = ""


class StageResult(NamedTuple):
    """A stage has ended. ``error``: for people, or None. ``progress``: its last."""

    error: str | None
    progress: StageProgress


class WorkerInfo(NamedTuple):
    """A worker that is ready. ``sees_folder``: whether it sees the launcher's folder. ``software``: name -> version."""

    sees_folder: bool
    software: Mapping[str, Any]


class _Reporter:
    """Keeps a stage's latest progress; see `StageReporter`."""

    def __init__(self, stage: int) -> None:
        self.latest = StageProgress(stage)

    def __call__(self, env_steps: int, values: Mapping[str, float]) -> None:
        last = self.latest
        self.latest = StageProgress(last.stage, last.reports + 1, env_steps, {**last.values, **values}, last.note)

    def noted(self, text: str) -> None:
        self.latest = self.latest._replace(reports=self.latest.reports + 1, note=text)


class StageWorker:
    """Runs one stage after another; `progress` and `exit` are called from another thread than the rest.

    A launcher that can't reach it (a network that is cut, a node that is thought dead) lets another worker continue its
    stage; `Store.lock_stage` keeps the two apart.

    Args:
        out: folder of the experiment. env_workers: see `graft.envs.make`. gpu: whether it may use a GPU.
    """

    def __init__(self, out: str, env_workers: int, gpu: bool) -> None:
        os.environ.update(ONE_THREAD)  # before numeric libraries load, which read it then
        if not gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._out, self._env_workers = Path(out), env_workers
        self._reporter = _Reporter(0)

    def prepare(self, token: str, file: str) -> WorkerInfo:
        """Load what stages need; ``file`` in the folder holds ``token`` where this machine sees the launcher's."""
        deadline = time.monotonic() + SHARED_SECONDS
        while not (sees := _holds(self._out / file, token)) and time.monotonic() < deadline:
            time.sleep(0.5)
        import torch

        import graft.experiments.stages.run_stage  # noqa: F401  (as stages should not wait for it)

        torch.set_num_threads(1)
        sys.modules["__main__"] = ModuleType("__main__")  # Ray's, which processes of environments would load as well
        return WorkerInfo(sees, software())

    def progress(self) -> StageProgress:
        return self._reporter.latest

    def run(self, stage: Stage) -> StageResult:
        from graft.experiments.launchers.launcher import attempt
        from graft.experiments.store.records import Store

        self._reporter = _Reporter(self._reporter.latest.stage + 1)
        error = attempt(stage, Store(self._out), self._reporter, self._env_workers)
        return StageResult(error, self._reporter.latest)

    def exit(self) -> None:
        """End the process at once, also in the middle of a stage."""
        os._exit(0)


def software() -> dict[str, Any]:
    """Software that a stage's results depend on: versions of packages, and the hash of Graft's code."""
    from graft.experiments.stages.resume import code_hash
    from graft.experiments.store.provenance import provenance

    return {**provenance()["versions"], "code": code_hash()}


def _holds(path: Path, token: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == token
    except OSError:
        return False
