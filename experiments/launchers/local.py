"""Runs a stage graph in worker processes of this machine, one torch thread each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Protocol

from envs.errors import GraftError
from envs.faults import TooManyFaults
from envs.processes import end_with_parent, ignoring_ctrl_c, one_thread_each
from experiments.graph import Graph, Stage
from experiments.store import Store

POLL_SECONDS = 0.5
SECONDS_BETWEEN_REPORTS = 0.3
"""A worker reports its progress no more often than this."""


class Watcher(Protocol):
    """Whoever shows what goes on."""

    def started(self, stage: Stage) -> None:
        """A worker took the stage."""

    def progressed(self, stage: Stage, env_steps: int, values: Mapping[str, float]) -> None:
        """The stage has taken ``env_steps``; ``values`` are its latest metrics."""

    def finished(self, stage: Stage, error: str | None) -> None:
        """The stage is done, or ended with ``error``."""

    def tick(self) -> None:
        """Time has passed."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(connection: Connection, out: Path, env_workers: int) -> None:
    """A worker's life: receive a stage, run it, say how it went; the launcher ends it."""
    end_with_parent()  # or it could write where the next run works already
    import torch

    from experiments.stage import run_stage

    torch.set_num_threads(1)
    _allow_children()
    store = Store(out)
    while True:
        stage = connection.recv()
        try:
            run_stage(stage, store, _Reporter(connection), env_workers)
            connection.send(("done", None))
        except TooManyFaults as error:  # with what the environment raised, for its author
            store.fail(stage, str(error), faults=dict(error.faults), traceback=traceback.format_exc())
            connection.send(("done", str(error)))
        except GraftError as error:
            store.fail(stage, str(error))
            connection.send(("done", str(error)))
        except Exception as error:
            store.fail(stage, traceback.format_exc())
            connection.send(("done", f"{type(error).__name__}: {error}"))


def _allow_children() -> None:
    """Let this worker start processes that play environments, which no daemon may; they end when it does.

    They would load its main module as well: torch and all, where that is the command line.
    """
    multiprocessing.current_process().daemon = False
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name.startswith("experiments."):
        sys.modules["__main__"] = ModuleType("__main__")


class _Reporter:
    """Sends a stage's progress now and then, always with the latest value of every tag."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last = 0.0
        self._latest: dict[str, float] = {}

    def __call__(self, env_steps: int, values: Mapping[str, float]) -> None:
        self._latest.update(values)
        if "eval/return_mean" in values or time.monotonic() - self._last > SECONDS_BETWEEN_REPORTS:
            self._last = time.monotonic()
            self._connection.send(("progress", env_steps, self._latest))


class _Worker:
    """A process, the pipe to it, and the stage it runs."""

    def __init__(self, out: Path, env_workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, out, env_workers), daemon=True)
        with ignoring_ctrl_c():
            self.process.start()
        theirs.close()
        self.stage: Stage | None = None

    def give(self, stage: Stage) -> None:
        self.stage = stage
        with contextlib.suppress(BrokenPipeError):  # it died just now, which the end of its pipe will say
            self.pipe.send(stage)

    def end(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
        self.process.join(timeout=10)
        self.pipe.close()


class LocalLauncher:
    """Runs stages in the order of the graph, each as soon as its source is done, ``jobs`` at a time.

    Args:
        jobs: worker processes; None is one for each usable core, fewer where each has ``env_workers`` of its own.
        env_workers: processes that slow environments of a stage are spread over (`envs.make`).
    """

    def __init__(self, jobs: int | None = None, env_workers: int = 1) -> None:
        for name, count in {"jobs": jobs, "workers": env_workers}.items():
            if count is not None and count < 1:
                raise GraftError(f"--{name} {count} is not allowed; at least 1 worker is needed.")
        self.jobs, self.env_workers = jobs or max(1, usable_cores() // env_workers), env_workers

    def run(self, graph: Graph, todo: list[str], store: Store, watcher: Watcher) -> dict[str, str]:
        """Run the stages ``todo``; those they depend on are in ``store`` or in ``todo`` themselves.

        Returns:
            Stage id -> error, for stages that failed and those that needed them. The others go on.
        """
        waiting = [graph.stages[stage_id] for stage_id in todo]
        unfinished = set(todo)
        failed: dict[str, str] = {}
        workers: list[_Worker] = []
        try:
            with one_thread_each():
                while waiting or any(w.stage for w in workers):
                    self._give_out(waiting, unfinished, failed, workers, store, watcher)
                    busy = [w for w in workers if w.stage]
                    wait([*(w.pipe for w in busy), *(w.process.sentinel for w in busy)], POLL_SECONDS)
                    for worker in busy:
                        self._listen(worker, unfinished, failed, store, watcher)
                    # A dead worker that still has a stage is heard once more: the end of its pipe says that it died.
                    workers = [w for w in workers if w.stage or w.process.is_alive()]
                    watcher.tick()
        finally:
            for worker in workers:
                worker.end()
        return failed

    def _give_out(
        self,
        waiting: list[Stage],
        unfinished: set[str],
        failed: dict[str, str],
        workers: list[_Worker],
        store: Store,
        watcher: Watcher,
    ) -> None:
        """Give stages whose source is done to idle workers, and drop those whose source failed."""
        for stage in list(waiting):
            if stage.source in failed:
                waiting.remove(stage)
                failed[stage.id] = "its source failed"
                unfinished.discard(stage.id)
                watcher.finished(stage, failed[stage.id])
            elif stage.source not in unfinished:
                worker = next((w for w in workers if w.stage is None), None)
                if worker is None and len(workers) < self.jobs:
                    worker = _Worker(store.out, self.env_workers)
                    workers.append(worker)
                if worker is None:
                    return
                waiting.remove(stage)
                worker.give(stage)
                watcher.started(stage)

    @staticmethod
    def _listen(worker: _Worker, unfinished: set[str], failed: dict[str, str], store: Store, watcher: Watcher) -> None:
        """Pass on what a worker says; a worker that died fails its stage."""
        assert worker.stage is not None
        stage, error, ended = worker.stage, None, False
        try:
            while not ended and worker.pipe.poll():
                kind, *rest = worker.pipe.recv()
                if kind == "progress":
                    watcher.progressed(stage, *rest)
                else:
                    ended, error = True, rest[0]
        except (EOFError, ConnectionResetError):
            worker.process.join(timeout=10)
            ended = True
            if not store.done(stage.id):
                error = f"its worker died (exit code {worker.process.exitcode}); was the memory used up?"
                store.fail(stage, error)
        if ended:
            worker.stage = None
            unfinished.discard(stage.id)
            if error is not None:
                failed[stage.id] = error
            watcher.finished(stage, error)
