"""A worker that may be on another machine: it runs stages, and says how far it is."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graft.envs.supervision.processes import ONE_THREAD

if TYPE_CHECKING:  # numeric libraries load when a worker has said how many threads they get
    from graft.experiments.plan.stage import Stage

SECONDS_TO_SEE = 10.0
"""A folder that is shared shows within this time what another machine wrote."""


class Progress(NamedTuple):
    """How far a worker's stage is.

    Attributes:
        stage: its number, from 1. reports: how often it said something; 0 where never.
        note: what people should know of it.
    """

    stage: int = 0
    reports: int = 0
    env_steps: int = 0
    values: Mapping[str, float] = {}
    note: str = ""


class _Reporter:
    """Keeps what a stage says last, for whoever asks; see `graft.experiments.launchers.launcher.ProgressOfStage`."""

    def __init__(self, stage: int) -> None:
        self.latest = Progress(stage)

    def __call__(self, env_steps: int, values: Mapping[str, float]) -> None:
        last = self.latest
        self.latest = Progress(last.stage, last.reports + 1, env_steps, {**last.values, **values}, last.note)

    def noted(self, text: str) -> None:
        self.latest = self.latest._replace(reports=self.latest.reports + 1, note=text)


class Done(NamedTuple):
    """A stage has ended, and how far it had come. ``error``: for people."""

    error: str | None
    progress: Progress


class Hello(NamedTuple):
    """A worker that can start. ``sees``: whether it sees the launcher's folder; ``software``: name -> version."""

    sees: bool
    software: Mapping[str, Any]


class StageWorker:
    """Runs one stage after another; its methods are called from two threads, `work` and `hello` from the same.

    A launcher that can't reach it (a network that is cut, a node that is thought dead) lets another go on with its
    stage. `graft.experiments.store.records.Store.lock_stage` keeps the two apart.

    Args:
        out: folder of the experiment. env_workers: see `envs.make`. gpu: whether it may use a GPU.
    """

    def __init__(self, out: str, env_workers: int, gpu: bool) -> None:
        os.environ.update(ONE_THREAD)  # before numeric libraries load, which read it then
        if not gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._out, self._env_workers = Path(out), env_workers
        self._reporter = _Reporter(0)

    def hello(self, token: str, file: str) -> Hello:
        """Get ready; ``file`` of the folder holds ``token`` where this machine sees what the launcher's does."""
        deadline = time.monotonic() + SECONDS_TO_SEE
        while not (sees := _holds(self._out / file, token)) and time.monotonic() < deadline:
            time.sleep(0.5)
        import torch

        import graft.experiments.stages.run_stage  # noqa: F401  (as stages should not wait for it)
        from graft.experiments.launchers.launcher import forget_main

        torch.set_num_threads(1)
        forget_main()  # of processes for environments, which `step_timeout` starts, too
        return Hello(sees, software())

    def look(self) -> Progress:
        """How far the stage is."""
        return self._reporter.latest

    def work(self, stage: Stage) -> Done:
        """Run a stage."""
        from graft.experiments.launchers.launcher import attempt
        from graft.experiments.store.records import Store

        self._reporter = _Reporter(self._reporter.latest.stage + 1)
        error = attempt(stage, Store(self._out), self._reporter, self._env_workers)
        return Done(error, self._reporter.latest)

    def end(self) -> None:
        """End the process now, in the middle of whatever it does."""
        os._exit(0)


def software() -> dict[str, Any]:
    """What a stage's results depend on: versions of packages, and this software's own code."""
    from graft.experiments.stages.resume import code_hash
    from graft.experiments.store.provenance import provenance

    return {**provenance()["versions"], "code": code_hash()}


def _holds(path: Path, token: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == token
    except OSError:
        return False
