"""Runs a stage graph in worker processes of this machine, one torch thread each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from envs.errors import GraftError
from envs.faults import TooManyFaults
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


def _work(connection: Connection, out: Path) -> None:
    """A worker's life: receive a stage, run it, say how it went; the launcher ends it."""
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    import torch

    from experiments.stage import run_stage

    torch.set_num_threads(1)
    store = Store(out)
    while True:
        stage = connection.recv()
        try:
            run_stage(stage, store, _Reporter(connection))
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

    def __init__(self, out: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, out), daemon=True)
        with _ignoring_ctrl_c():
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


@contextlib.contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Ctrl-C is the launcher's to handle; a worker that starts here inherits this before its first line runs."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_launcher() -> None:
    """End this worker as soon as the launcher is gone, so that it cannot write where the next run works already."""
    launcher = multiprocessing.parent_process()
    if launcher is not None:
        launcher.join()
        os._exit(1)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Environment of the workers: numeric libraries read these when they load, before torch can be told."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class LocalLauncher:
    """Runs stages in the order of the graph, each as soon as its source is done, ``jobs`` at a time.

    Args:
        jobs: worker processes; None is one for each usable core.
    """

    def __init__(self, jobs: int | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise GraftError(f"--jobs {jobs} is not allowed; at least 1 worker is needed.")
        self.jobs = jobs or usable_cores()

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
            with _one_thread_each():
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
                    worker = _Worker(store.out)
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
