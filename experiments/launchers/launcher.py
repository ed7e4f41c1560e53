"""What launchers share: whom they tell, which stage is next, and how a worker runs one."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from types import ModuleType
from typing import Protocol

from graft.envs.core.faults import TooManyFaults
from graft.errors import GraftError
from graft.experiments.plan.stage import Graph, Stage, StoppedEarly
from graft.experiments.store.lock import TakenOver
from graft.experiments.store.records import Store

LOCK_TIMEOUT = 150.0
"""Seconds that a worker waits for one that still writes the stage's folder. Ray ends the workers of a node that was cut
off within a minute; a file server may keep the lock of a machine that died for two."""

STOPPED = "stopped early"
"""What `attempt` returns of a stage whose observer ended it."""


class Watcher(Protocol):
    """Whoever shows what goes on."""

    def started(self, stage: Stage) -> None:
        """A worker took the stage."""

    def placed(self, stage: Stage, where: str) -> None:
        """Where the worker of a stage that has started is; once more where it goes on somewhere else."""

    def progressed(self, stage: Stage, env_steps: int, values: Mapping[str, float]) -> None:
        """The stage has taken ``env_steps``; ``values`` are its latest metrics."""

    def finished(self, stage: Stage, error: str | None) -> None:
        """The stage is done, or ended with ``error``."""

    def noted(self, text: str) -> None:
        """Something that people should know, such as a worker that was lost."""

    def tick(self) -> None:
        """Time has passed."""


class StageQueue(Protocol):
    """Stages for a launcher's workers. It is falsy when no more stages will come."""

    def __bool__(self) -> bool: ...

    def ready(self) -> list[Stage]:
        """Those that could run now."""

    def take(self) -> Stage | None:
        """The first of them, for a worker; None where there is none."""

    def put_back(self, stage: Stage) -> None:
        """A stage that was taken has to be run again."""

    def ended(self, stage: Stage, error: str | None) -> None:
        """A stage that was taken is done, or ended with ``error``."""


class Launcher(Protocol):
    """Runs the stages of a graph; the stage function and what it leaves are the same under all of them.

    Attributes:
        jobs: stages at once, at most; None for as many as there is room for.
    """

    jobs: int | None

    def run(self, graph: Graph, todo: list[str], store: Store, watcher: Watcher) -> dict[str, str]:
        """Run the stages ``todo``; those they depend on are in ``store`` or in ``todo`` themselves.

        When it returns or raises, whatever it started and could reach no longer writes into the store.

        Returns:
            Stage id -> error, for stages that failed and those that needed them. The others go on.
        Raises:
            GraftError: it can't run stages at all.
        """

    def serve(self, agenda: StageQueue, store: Store, watcher: Watcher) -> None:
        """Run the stages of a changing agenda until no more come; otherwise as `run`."""


class ProgressOfStage(Protocol):
    """Told the env steps a stage has taken, and its latest metrics."""

    def __call__(self, env_steps: int, values: Mapping[str, float], /) -> None: ...

    def noted(self, text: str) -> None:
        """Something about the stage that people should know."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_least(minimum: int, **options: int | None) -> None:
    """Raise GraftError for an option of the command line that is given and below ``minimum``."""
    for name, count in options.items():
        if count is not None and count < minimum:
            raise GraftError(f"--{name} {count} is not allowed; at least {minimum} is needed.")


class Agenda:
    """The `StageQueue` of a graph: stages that are still to run, in their order, and what became of the others.

    Attributes:
        failed: stage id -> error, also for stages whose source failed.
    """

    def __init__(self, graph: Graph, todo: list[str], watcher: Watcher) -> None:
        self.failed: dict[str, str] = {}
        self._waiting = [graph.stages[stage_id] for stage_id in todo]
        self._unfinished, self._watcher = set(todo), watcher

    def __bool__(self) -> bool:
        """Whether stages wait."""
        return bool(self._waiting)

    def ready(self) -> list[Stage]:
        """Waiting stages whose source is done; those whose source failed end here, with all that need them."""
        for stage in list(self._waiting):
            if stage.source in self.failed:
                self._waiting.remove(stage)
                self.ended(stage, "its source failed")
        return [stage for stage in self._waiting if stage.source not in self._unfinished]

    def take(self) -> Stage | None:
        """The first stage that is ready, for a worker; None where none is."""
        stage = next(iter(self.ready()), None)
        if stage is not None:
            self._waiting.remove(stage)
        return stage

    def put_back(self, stage: Stage) -> None:
        """A stage that was taken has to be run again; it is the next."""
        self._waiting.insert(0, stage)

    def ended(self, stage: Stage, error: str | None) -> None:
        """A stage that was taken is done, or ended with ``error``."""
        self._unfinished.discard(stage.id)
        if error is not None:
            self.failed[stage.id] = error
        self._watcher.finished(stage, error)


def attempt(
    stage: Stage, store: Store, progress: ProgressOfStage, env_workers: int, patience: float = LOCK_TIMEOUT
) -> str | None:
    """Run a stage in this process, unless another has done it meanwhile; where it fails, its record says why.

    Where another process takes the stage over, this one ends with an error and records nothing.

    Args:
        patience: seconds to wait for another process that writes the stage's folder.
    Returns:
        The error for people, or None.
    """
    try:
        with store.lock_stage(stage.id, patience):
            return None if store.done(stage.id) else _run(stage, store, progress, env_workers)
    except GraftError as error:  # that folder is another process's, so nothing may be recorded there
        return str(error)


def _run(stage: Stage, store: Store, progress: ProgressOfStage, env_workers: int) -> str | None:
    from graft.experiments.stages.run_stage import run_stage

    def told(env_steps: int, values: Mapping[str, float]) -> None:
        progress(env_steps, values)
        if stage.observer is not None:
            stage.observer(env_steps, values)

    try:
        run_stage(stage, store, told, env_workers, progress.noted)
    except TakenOver:
        raise
    except StoppedEarly:
        store.stop(stage)
        return STOPPED
    except TooManyFaults as error:  # with what the environment raised, for its author
        store.fail(stage, str(error), faults=dict(error.faults), traceback=traceback.format_exc())
        return str(error)
    except GraftError as error:
        store.fail(stage, str(error))
        return str(error)
    except Exception as error:
        store.fail(stage, traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    return None


def forget_main() -> None:
    """Processes that this one starts would load its main module as well; after this, an empty one."""
    sys.modules["__main__"] = ModuleType("__main__")
