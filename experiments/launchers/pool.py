"""Runs stages with workers that come and go: a stage whose worker is lost continues in another."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from graft.agents.checkpoints.files import replace_file
from graft.errors import GraftError
from graft.experiments.launchers.launcher import RunListener, StageQueue
from graft.experiments.launchers.worker import StageProgress, StageResult, WorkerInfo, software
from graft.experiments.plan.stage import Stage
from graft.experiments.store.records import Store

POLL_SECONDS = 0.5
NO_ROOM_SECONDS = 30.0
"""After so long without room for a worker a message says so, and every ten times as long again."""

RECORD_SECONDS = 60.0
"""What other machines wrote shows here within this time."""

MAX_FAILED_STARTS = 10
"""The run ends where more workers in a row die before they are ready."""

SHARED = ".shared"
"""File in the experiment's folder by which a worker sees that its machine has the same folder."""


class WorkerLost(Exception):
    """A worker has died, or can't be reached; its text is an error message."""


class Worker(Protocol):
    """A `StageWorker` somewhere, as its launcher sees it; ``where``: its node for people, empty before it is ready."""

    where: str

    def poll_ready(self) -> WorkerInfo | None:
        """None before it is ready. Raises WorkerLost, or GraftError where none could ever start."""

    def start(self, stage: Stage) -> None:
        """Let it run a stage."""

    def poll(self) -> StageProgress | StageResult | None:
        """News of its stage since the last call. Raises WorkerLost."""


class Cluster(Protocol):
    """Where workers come from."""

    def capacity(self) -> int:
        """Workers that fit into it, whatever else runs there."""

    def describe(self) -> str:
        """For people."""

    def request(self, token: str) -> Worker:
        """A worker, which is ready when there is room for it. ``token``: see `StageWorker.prepare`."""

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Wait until one of them may have news."""

    def end(self, workers: Sequence[Worker]) -> None:
        """End them, and wait until they have ended."""


class Pool:
    """Workers of a cluster for one run.

    Args:
        need: what a stage takes, in words. retries: how often a stage is started again whose worker was lost.
        jobs: stages at once, at most. So many workers are requested even where fewer fit, as long as there are stages
            for them: a cluster that can grow does so for those that wait. None for as many as fit.
        node_timeout: seconds to wait for the first node that fits.
    """

    def __init__(
        self,
        cluster: Cluster,
        need: str,
        jobs: int | None,
        retries: int,
        store: Store,
        listener: RunListener,
        node_timeout: float = 0.0,
    ) -> None:
        self._cluster, self._need, self._jobs, self._retries = cluster, need, jobs, retries
        self._store, self._listener, self._node_timeout = store, listener, node_timeout
        self._token, self._software = uuid.uuid4().hex, software()
        self._starting: list[Worker] = []
        self._idle: list[Worker] = []
        self._busy: list[tuple[Worker, Stage]] = []
        self._losses: Counter[str] = Counter()
        self._failed_starts = 0
        self._noted: set[tuple[str, str]] = set()
        self._waiting_since: float | None = None
        self._next_note = NO_ROOM_SECONDS

    def run(self, queue: StageQueue) -> None:
        begun, empty = time.monotonic(), not self._cluster.capacity()
        if empty and not self._node_timeout:
            raise self._no_node("--wait SECONDS waits for one")
        self._listener.noted(f"{self._cluster.describe()}; {self._need} for a stage")
        shared = self._store.out / SHARED
        try:
            replace_file(shared, self._token.encode())
            while queue or self._busy:
                empty = empty and not self._cluster.capacity()
                if empty and time.monotonic() - begun > self._node_timeout:
                    raise self._no_node(f"None came in the {self._node_timeout:.0f} s of --wait")
                self._start_stages(queue)
                self._cluster.wait(self._workers(), POLL_SECONDS)
                self._poll(queue)
                self._note_waiting()
                self._listener.tick()
        finally:
            self._cluster.end(self._workers())
            shared.unlink(missing_ok=True)

    def _no_node(self, then: str) -> GraftError:
        there = self._cluster.describe()
        return GraftError(f"A stage needs {self._need}, and no node has that; there are {there}. {then}.")

    def _workers(self) -> list[Worker]:
        return [*self._starting, *self._idle, *(worker for worker, _ in self._busy)]

    def _start_stages(self, queue: StageQueue) -> None:
        """Start stages that are ready on idle workers; request more workers, or end those that are left over."""
        while self._idle and (stage := queue.take()):
            worker, losses = self._idle.pop(0), self._losses[stage.id]
            if not losses:
                self._listener.started(stage)
            self._listener.placed(stage, f"{worker.where}, try {losses + 1}" if losses else worker.where)
            worker.start(stage)
            self._busy.append((worker, stage))
        most = max(1, self._cluster.capacity() if self._jobs is None else self._jobs)
        wanted = min(len(queue.ready()), most - len(self._idle) - len(self._busy))
        self._starting += [self._cluster.request(self._token) for _ in range(wanted - len(self._starting))]
        if not queue and (left := [*self._starting, *self._idle]):
            self._starting, self._idle = [], []
            self._cluster.end(left)

    def _poll(self, queue: StageQueue) -> None:
        for worker in list(self._starting):
            self._poll_ready(worker)
        for worker in list(self._idle):
            try:
                worker.poll()
            except WorkerLost:
                self._idle.remove(worker)
        for worker, stage in list(self._busy):
            try:
                news = worker.poll()
            except WorkerLost as lost:
                self._busy.remove((worker, stage))
                self._requeue_after_loss(worker, stage, lost, queue)
                continue
            progress = news.progress if isinstance(news, StageResult) else news
            if progress is not None and progress.reports:
                self._note_once(stage.id, progress.note)
                self._listener.progressed(stage, progress.env_steps, progress.values)
            if isinstance(news, StageResult):
                self._busy.remove((worker, stage))
                self._idle.append(worker)
                if news.error is None:
                    self._wait_for_record(stage)
                queue.finish(stage, news.error)

    def _poll_ready(self, worker: Worker) -> None:
        try:
            info = worker.poll_ready()
        except WorkerLost as lost:
            self._starting.remove(worker)
            self._failed_starts += 1
            if self._failed_starts > MAX_FAILED_STARTS:
                raise GraftError(f"Workers die before they can start: {lost}.") from lost
            return
        if info is None:
            return
        self._failed_starts = 0
        self._starting.remove(worker)
        self._idle.append(worker)
        if not info.sees_folder:
            raise GraftError(
                f"{worker.where} does not see {self._store.out.resolve()} as this machine does; give an --out on a "
                f"path that all nodes share."
            )
        others = sorted(name for name in self._software if info.software.get(name) != self._software[name])
        if others:
            self._note_once(
                worker.where,
                f"Note: {worker.where} has other software than this machine ({', '.join(others)}): results may differ, "
                f"and a stage that began elsewhere starts over there.",
            )

    def _note_once(self, of: str, text: str) -> None:
        if text and (of, text) not in self._noted:
            self._noted.add((of, text))
            self._listener.noted(text)

    def _requeue_after_loss(self, worker: Worker, stage: Stage, lost: WorkerLost, queue: StageQueue) -> None:
        """The stage continues elsewhere, or has failed; `Store.lock_stage` keeps out a worker that is only cut off."""
        self._losses[stage.id] += 1
        losses = self._losses[stage.id]
        given_up = losses > self._retries
        then = "given up" if given_up else f"goes on from its last snapshot, try {losses + 1}"
        self._listener.noted(f"lost     {stage.label} on {worker.where}: {lost}; {then}")
        if self._store.done(stage.id):  # that was its last act
            queue.finish(stage, None)
        elif given_up:
            error = f"its worker died {losses} times, at last: {lost}; --retries allows more"
            self._store.fail(stage, error)
            queue.finish(stage, error)
        else:
            queue.requeue(stage)

    def _note_waiting(self) -> None:
        """Say now and then that no worker comes, while none works."""
        if not self._starting or self._idle or self._busy:
            self._waiting_since, self._next_note = None, NO_ROOM_SECONDS
            return
        self._waiting_since = self._waiting_since or time.monotonic()
        waited = time.monotonic() - self._waiting_since
        if waited >= self._next_note:
            self._next_note = waited + 10 * NO_ROOM_SECONDS
            reason = "those that have it are busy" if self._cluster.capacity() else "none that is there has it"
            self._listener.noted(f"waiting  {waited:.0f} s for a node with {self._need}: {reason}; Ctrl-C stops")

    def _wait_for_record(self, stage: Stage) -> None:
        """Wait until this machine sees the record of a stage that was done elsewhere."""
        deadline = time.monotonic() + RECORD_SECONDS
        while not self._store.done(stage.id):
            if time.monotonic() > deadline:
                raise GraftError(
                    f"Stage {stage.id} is done, but its record does not show in {self._store.out.resolve()}; give "
                    f"an --out on a path that all nodes share."
                )
            time.sleep(POLL_SECONDS)
