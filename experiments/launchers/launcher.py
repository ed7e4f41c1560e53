"""What launchers share: their interface, the queue of a graph's stages, and how a worker runs a stage."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from typing import Protocol

from graft.envs.core.faults import TooManyFaults
from graft.errors import GraftError, disk_error
from graft.experiments.plan.stage import Graph, Stage, StoppedEarly
from graft.experiments.store.lock import TakenOver
from graft.experiments.store.records import DIVERGED, Store

LOCK_TIMEOUT = 150.0
"""Seconds that a worker waits for the lock of a stage's folder. Ray ends the workers of a node that was cut off within
a minute; a file server may keep the lock of a machine that died for two."""

STOPPED = "stopped early"
"""What `attempt` returns of a stage whose observer stopped it."""


class RunListener(Protocol):
    """Callbacks of a launcher, for progress displays."""

    def started(self, stage: Stage) -> None:
        """A worker took the stage."""

    def placed(self, stage: Stage, where: str) -> None:
        """The node of the worker of a stage that has started; again where the stage continues on another node."""

    def progressed(self, stage: Stage, env_steps: int, values: Mapping[str, float]) -> None:
        """Env steps that the stage has taken, and its latest metrics."""

    def finished(self, stage: Stage, error: str | None) -> None:
        """The stage is done, or ended with ``error``."""

    def noted(self, text: str) -> None:
        """A message for people, such as a worker that was lost."""

    def tick(self) -> None:
        """Called about twice a second."""


class StageQueue(Protocol):
    """Stages for a launcher's workers. It is falsy when no more stages will come."""

    def __bool__(self) -> bool: ...

    def ready(self) -> Sequence[Stage]:
        """Stages that could run now."""

    def take(self) -> Stage | None:
        """The first stage that is ready, for a worker; None where none is."""

    def requeue(self, stage: Stage) -> None:
        """A stage that was taken has to be run again."""

    def finish(self, stage: Stage, error: str | None) -> None:
        """A stage that was taken is done, or ended with ``error``."""


class Launcher(Protocol):
    """Runs stages in workers; the stage function and its files are the same under all launchers.

    Attributes:
        jobs: stages at once, at most; None for as many as there is room for.
    """

    jobs: int | None

    def run(self, queue: StageQueue, store: Store, listener: RunListener) -> None:
        """Run the stages of ``queue`` until no more come; when it returns or raises, its workers have ended.

        Raises:
            GraftError: it can't run stages at all.
        """


class StageReporter(Protocol):
    """Called with the env steps that a stage has taken and its latest metrics."""

    def __call__(self, env_steps: int, values: Mapping[str, float], /) -> None: ...

    def noted(self, text: str) -> None:
        """A message about the stage for people."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class GraphQueue:
    """A graph's stages ``todo`` in order, each after its source. ``failed``: id -> error, also if a source failed."""

    def __init__(self, graph: Graph, todo: Sequence[str], listener: RunListener) -> None:
        self.failed: dict[str, str] = {}
        self._waiting = [graph.stages[stage_id] for stage_id in todo]
        self._unfinished, self._listener = set(todo), listener

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ready(self) -> list[Stage]:
        """Waiting stages whose source is done; those whose source failed end here, with all that need them."""
        for stage in list(self._waiting):
            if stage.source in self.failed:
                self._waiting.remove(stage)
                self.finish(stage, "its source failed")
        return [stage for stage in self._waiting if stage.source not in self._unfinished]

    def take(self) -> Stage | None:
        if (stage := next(iter(self.ready()), None)) is not None:
            self._waiting.remove(stage)
        return stage

    def requeue(self, stage: Stage) -> None:
        self._waiting.insert(0, stage)

    def finish(self, stage: Stage, error: str | None) -> None:
        self._unfinished.discard(stage.id)
        if error is not None:
            self.failed[stage.id] = error
        self._listener.finished(stage, error)


def run_graph(
    launcher: Launcher, graph: Graph, todo: Sequence[str], store: Store, listener: RunListener
) -> dict[str, str]:
    """Run the stages ``todo``, whose sources are in ``store`` or among them; returns id -> error of failed ones."""
    queue = GraphQueue(graph, todo, listener)
    launcher.run(queue, store, listener)
    return queue.failed


def attempt(
    stage: Stage, store: Store, reporter: StageReporter, env_workers: int, lock_timeout: float = LOCK_TIMEOUT
) -> str | None:
    """Run a stage in this process, unless another has done it meanwhile; returns the error for people, or None.

    The stage's record says why it failed; where another process takes it over, or the disk takes no more, nothing is
    recorded here, and the stage goes on from its snapshot when it is run again.

    Args:
        env_workers: processes for its environments (`graft.envs.make`).
        lock_timeout: seconds to wait for another process that writes the stage's folder.
    """
    try:
        with store.lock_stage(stage.id, lock_timeout):
            return None if store.done(stage.id) else _run(stage, store, reporter, env_workers)
    except GraftError as error:  # the folder is another process's, so nothing may be recorded there
        return str(error)
    except OSError as error:
        if (sentence := disk_error(error)) is None:
            raise
        return sentence


def _run(stage: Stage, store: Store, reporter: StageReporter, env_workers: int) -> str | None:
    from graft.experiments.stages.divergence import Diverged
    from graft.experiments.stages.race import run_race

    def report(env_steps: int, values: Mapping[str, float]) -> None:
        reporter(env_steps, values)
        if stage.observer is not None:
            stage.observer(env_steps, values)

    try:
        run_race(stage, store, report, env_workers, reporter.noted)
    except TakenOver:
        raise
    except StoppedEarly:
        store.stop(stage)
        return STOPPED
    except TooManyFaults as error:  # with what the environment raised, for its author
        store.fail(stage, str(error), faults=dict(error.faults), traceback=traceback.format_exc())
        return str(error)
    except Diverged as error:
        store.fail(stage, str(error), DIVERGED, **{DIVERGED: error.divergences})
        return str(error)
    except GraftError as error:
        store.fail(stage, str(error))
        return str(error)
    except Exception as error:
        if (sentence := disk_error(error)) is not None:
            return sentence
        store.fail(stage, traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    return None
