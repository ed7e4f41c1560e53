"""Runs stages in worker processes of this machine, one torch thread each."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from graft.command import at_least
from graft.envs.supervision.processes import end_with_parent, ignoring_ctrl_c, one_thread_each
from graft.experiments.launchers.launcher import RunListener, StageQueue, attempt, usable_cores
from graft.experiments.plan.stage import Stage
from graft.experiments.store.records import Store

POLL_SECONDS = 0.5
REPORT_SECONDS = 0.3
"""A worker reports its progress no more often than this."""


def _work(connection: Connection, out: Path, env_workers: int) -> None:
    """A worker's main function: runs the stages that it receives, until the launcher ends it."""
    end_with_parent()  # or it could write where the next run works already
    multiprocessing.current_process().daemon = False  # no daemon may start processes, such as those of environments
    import torch

    torch.set_num_threads(1)
    store = Store(out)
    while True:
        stage = connection.recv()
        connection.send(("done", attempt(stage, store, _Reporter(connection), env_workers)))


class _Reporter:
    """Sends a stage's progress now and then, always with the latest value of every tag."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last_report = 0.0
        self._latest: dict[str, float] = {}

    def __call__(self, env_steps: int, values: Mapping[str, float]) -> None:
        self._latest.update(values)
        if "eval/return_mean" in values or time.monotonic() - self._last_report > REPORT_SECONDS:
            self._last_report = time.monotonic()
            self._connection.send(("progress", env_steps, self._latest))

    def noted(self, text: str) -> None:
        self._connection.send(("note", text))


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

    def start(self, stage: Stage) -> None:
        self.stage = stage
        with contextlib.suppress(BrokenPipeError):  # it died just now, which `_poll` notices
            self.pipe.send(stage)

    def end(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
        self.process.join(timeout=10)
        self.pipe.close()


class LocalLauncher:
    """Runs stages in the order of the queue, ``jobs`` at a time; a worker that dies fails its stage.

    Args:
        jobs: worker processes; None is one for each usable core, fewer where each has ``env_workers`` of its own.
        env_workers: processes that slow environments of a stage are spread over (`graft.envs.make`).
    """

    def __init__(self, jobs: int | None = None, env_workers: int = 1) -> None:
        at_least(1, jobs=jobs, workers=env_workers)
        self.jobs: int | None = jobs or max(1, usable_cores() // env_workers)
        self.env_workers = env_workers

    def run(self, queue: StageQueue, store: Store, listener: RunListener) -> None:
        workers: list[_Worker] = []
        try:
            with one_thread_each():
                while queue or any(w.stage for w in workers):
                    self._start_stages(queue, workers, store, listener)
                    busy = [w for w in workers if w.stage]
                    wait([*(w.pipe for w in busy), *(w.process.sentinel for w in busy)], POLL_SECONDS)
                    for worker in busy:
                        _poll(worker, queue, store, listener)
                    # A dead worker that still has a stage is polled once more: the end of its pipe says that it died.
                    workers = [w for w in workers if w.stage or w.process.is_alive()]
                    listener.tick()
        finally:
            for worker in workers:
                worker.end()

    def _start_stages(self, queue: StageQueue, workers: list[_Worker], store: Store, listener: RunListener) -> None:
        assert self.jobs is not None
        while sum(w.stage is not None for w in workers) < self.jobs and (stage := queue.take()) is not None:
            worker = next((w for w in workers if w.stage is None), None)
            if worker is None:
                worker = _Worker(store.out, self.env_workers)
                workers.append(worker)
            worker.start(stage)
            listener.started(stage)


def _poll(worker: _Worker, queue: StageQueue, store: Store, listener: RunListener) -> None:
    """Pass on a worker's messages; a worker that died fails its stage."""
    assert worker.stage is not None
    stage, error, ended = worker.stage, None, False
    try:
        while not ended and worker.pipe.poll():
            kind, *rest = worker.pipe.recv()
            if kind == "progress":
                listener.progressed(stage, *rest)
            elif kind == "note":
                listener.noted(*rest)
            else:
                ended, error = True, rest[0]
    except (EOFError, ConnectionResetError):
        worker.process.join(timeout=10)
        ended = True
        if not store.done(stage.id):
            error = _how_it_died(worker.process.exitcode)
            store.fail(stage, error)
    if ended:
        worker.stage = None
        queue.finish(stage, error)


def _how_it_died(code: int | None) -> str:
    """``code``: the exit code of a worker, the negative number of a signal where one ended it."""
    by = f"was killed by {_signal_name(-code)}" if code and code < 0 else f"died with exit code {code}"
    memory = ", as systems do when memory is used up (fewer --jobs need less)" if code == -9 else ""
    return f"its worker {by}{memory}; the same command goes on from its latest snapshot, if it has one"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals but the first and the last have no names
        return f"signal {number}"
