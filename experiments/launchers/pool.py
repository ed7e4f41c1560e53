"""Runs a stage graph with workers that come and go: a stage whose worker is lost goes on in another."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from graft.agents.checkpoints.files import replace_file
from graft.errors import GraftError
from graft.experiments.launchers.launcher import Agenda, StageQueue, Watcher
from graft.experiments.launchers.worker import Done, Hello, Progress, software
from graft.experiments.plan.stage import Graph, Stage
from graft.experiments.store.records import Store

POLL_SECONDS = 0.5
SECONDS_WITHOUT_ROOM = 30.0
"""After so long without a place for a worker people are told, and every ten times as long again."""

SECONDS_TO_SETTLE = 60.0
"""What other machines wrote shows here within this time."""

FALSE_STARTS = 10
"""So many workers in a row that die before they can start end the run."""

SHARED = ".shared"
"""File in the experiment's folder by which a worker sees that its machine has the same folder."""


class Lost(Exception):
    """A worker has died, or can't be reached; ``why`` is for people."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Worker(Protocol):
    """A `graft.experiments.launchers.worker.StageWorker` somewhere, as its launcher sees it.

    Attributes:
        where: it is, for people; empty before it has said hello.
    """

    where: str

    def greet(self) -> Hello | None:
        """What it says when it can start; None before. Raises Lost, or GraftError where none could ever start."""

    def give(self, stage: Stage) -> None:
        """Let it run a stage."""

    def hear(self) -> Progress | Done | None:
        """What is new of its stage since the last time. Raises Lost."""


class Cluster(Protocol):
    """Where workers come from."""

    def room(self) -> int:
        """How many of them fit, whatever else runs there."""

    def describe(self) -> str:
        """For people."""

    def ask(self, token: str) -> Worker:
        """For a worker, which comes when there is a place for it. ``token``: see `StageWorker.hello`."""

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Until one of them may have news."""

    def dismiss(self, workers: Sequence[Worker]) -> None:
        """End them, and wait until they have."""


class Pool:
    """One run of a graph.

    Args:
        need: what a stage takes, in words. retries: how often a stage is begun again.
        jobs: stages at once, at most. So many workers are asked for even where fewer fit, as long as there are stages
            for them: a cluster that can grow does so for those that wait. None for as many as fit.
        patience: seconds to wait for the first node that fits.
    """

    def __init__(
        self,
        cluster: Cluster,
        need: str,
        jobs: int | None,
        retries: int,
        store: Store,
        watcher: Watcher,
        patience: float = 0.0,
    ) -> None:
        self._cluster, self._need, self._jobs, self._retries = cluster, need, jobs, retries
        self._store, self._watcher, self._patience = store, watcher, patience
        self._token, self._software = uuid.uuid4().hex, software()
        self._coming: list[Worker] = []
        self._idle: list[Worker] = []
        self._busy: list[tuple[Worker, Stage]] = []
        self._deaths: Counter[str] = Counter()
        self._false_starts = 0
        self._told: set[tuple[str, str]] = set()
        self._waiting_since: float | None = None
        self._next_word = SECONDS_WITHOUT_ROOM

    def run(self, graph: Graph, todo: list[str]) -> dict[str, str]:
        """See `graft.experiments.launchers.launcher.Launcher`."""
        agenda = Agenda(graph, todo, self._watcher)
        self.serve(agenda)
        self._settle([stage_id for stage_id in todo if stage_id not in agenda.failed])
        return agenda.failed

    def serve(self, agenda: StageQueue) -> None:
        """See `graft.experiments.launchers.launcher.Launcher`."""
        begun, empty = time.monotonic(), not self._cluster.room()
        if empty and not self._patience:
            raise self._no_node("--wait SECONDS waits for one")
        self._watcher.noted(f"{self._cluster.describe()}; {self._need} for a stage")
        shared = self._store.out / SHARED
        try:
            replace_file(shared, self._token.encode())
            while agenda or self._busy:
                empty = empty and not self._cluster.room()
                if empty and time.monotonic() - begun > self._patience:
                    raise self._no_node(f"none came in the {self._patience:.0f} s of --wait")
                self._give_out(agenda)
                self._cluster.wait(self._workers(), POLL_SECONDS)
                self._listen(agenda)
                self._say_where_no_room_is()
                self._watcher.tick()
        finally:
            self._cluster.dismiss(self._workers())
            shared.unlink(missing_ok=True)

    def _no_node(self, then: str) -> GraftError:
        there = self._cluster.describe()
        return GraftError(
            f"A stage needs {self._need}, and no node has that; there are {there}. {then[0].upper()}{then[1:]}."
        )

    def _workers(self) -> list[Worker]:
        return [*self._coming, *self._idle, *(worker for worker, _ in self._busy)]

    def _give_out(self, agenda: StageQueue) -> None:
        """Give stages whose source is done to idle workers; ask for more workers, or let those go that are left."""
        while self._idle and (stage := agenda.take()):
            worker, again = self._idle.pop(0), self._deaths[stage.id]
            if not again:
                self._watcher.started(stage)
            self._watcher.placed(stage, f"{worker.where}, try {again + 1}" if again else worker.where)
            worker.give(stage)
            self._busy.append((worker, stage))
        most = max(1, self._cluster.room() if self._jobs is None else self._jobs)
        wanted = min(len(agenda.ready()), most - len(self._idle) - len(self._busy))
        self._coming += [self._cluster.ask(self._token) for _ in range(wanted - len(self._coming))]
        if not agenda and (left := [*self._coming, *self._idle]):
            self._coming, self._idle = [], []
            self._cluster.dismiss(left)

    def _listen(self, agenda: StageQueue) -> None:
        """Pass on what workers say."""
        for worker in list(self._coming):
            self._greet(worker)
        for worker in list(self._idle):
            try:
                worker.hear()
            except Lost:
                self._idle.remove(worker)
        for worker, stage in list(self._busy):
            try:
                news = worker.hear()
            except Lost as lost:
                self._busy.remove((worker, stage))
                self._requeue_after_loss(worker, stage, lost, agenda)
                continue
            progress = news.progress if isinstance(news, Done) else news
            if progress is not None and progress.reports:
                self._say_once(stage.id, progress.note)
                self._watcher.progressed(stage, progress.env_steps, progress.values)
            if isinstance(news, Done):
                self._busy.remove((worker, stage))
                self._idle.append(worker)
                agenda.ended(stage, news.error)

    def _greet(self, worker: Worker) -> None:
        try:
            hello = worker.greet()
        except Lost as lost:
            self._coming.remove(worker)
            self._false_starts += 1
            if self._false_starts > FALSE_STARTS:
                raise GraftError(f"Workers die before they can start: {lost.why}.") from lost
            return
        if hello is None:
            return
        self._false_starts = 0
        self._coming.remove(worker)
        self._idle.append(worker)
        if not hello.sees:
            raise GraftError(
                f"{worker.where} does not see {self._store.out.resolve()} as this machine does; give an --out on a "
                f"path that all nodes share."
            )
        others = sorted(name for name in self._software if hello.software.get(name) != self._software[name])
        if others:
            self._say_once(
                worker.where,
                f"Note: {worker.where} has other software than this machine ({', '.join(others)}): results may differ, "
                f"and a stage that began elsewhere starts over there.",
            )

    def _say_once(self, of: str, text: str) -> None:
        if text and (of, text) not in self._told:
            self._told.add((of, text))
            self._watcher.noted(text)

    def _requeue_after_loss(self, worker: Worker, stage: Stage, lost: Lost, agenda: StageQueue) -> None:
        """Its stage goes on elsewhere, or has failed; one that is only cut off is kept out by `Store.lock_stage`."""
        self._deaths[stage.id] += 1
        deaths = self._deaths[stage.id]
        given_up = deaths > self._retries
        then = "given up" if given_up else f"goes on from its last snapshot, try {deaths + 1}"
        self._watcher.noted(f"lost     {stage.label} on {worker.where}: {lost.why}; {then}")
        if self._store.done(stage.id):  # that was its last act
            agenda.ended(stage, None)
        elif given_up:
            error = f"its worker died {deaths} times, at last: {lost.why}; --retries allows more"
            self._store.fail(stage, error)
            agenda.ended(stage, error)
        else:
            agenda.put_back(stage)

    def _say_where_no_room_is(self) -> None:
        """A worker that could help does not come; not worth a word while another one works."""
        if not self._coming or self._idle or self._busy:
            self._waiting_since, self._next_word = None, SECONDS_WITHOUT_ROOM
            return
        self._waiting_since = self._waiting_since or time.monotonic()
        waited = time.monotonic() - self._waiting_since
        if waited >= self._next_word:
            self._next_word = waited + 10 * SECONDS_WITHOUT_ROOM
            reason = "those that have it are busy" if self._cluster.room() else "none that is there has it"
            self._watcher.noted(f"waiting  {waited:.0f} s for a node with {self._need}: {reason}; Ctrl-C stops")

    def _settle(self, done: list[str]) -> None:
        """Wait until this machine sees the records of stages that were done elsewhere."""
        deadline = time.monotonic() + SECONDS_TO_SETTLE
        for stage_id in done:
            while not self._store.done(stage_id):
                if time.monotonic() > deadline:
                    raise GraftError(
                        f"Stage {stage_id} is done, but its record does not show in {self._store.out.resolve()}; give "
                        f"an --out on a path that all nodes share."
                    )
                time.sleep(POLL_SECONDS)
