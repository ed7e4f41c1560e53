"""Workers that come and go, played by objects: who gets what, when a stage goes on, and what people are told."""

from __future__ import annotations

import json

import pytest
from support.tiny_experiment import write_config

from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.launchers import pool
from graft.experiments.launchers.launcher import GraphQueue
from graft.experiments.launchers.pool import Pool, WorkerLost
from graft.experiments.launchers.worker import StageProgress, StageResult, WorkerInfo, software
from graft.experiments.plan.pairs import expand
from graft.experiments.store.records import Store


class Diary:
    """A `RunListener` that writes down what happens."""

    def __init__(self):
        self.events, self.notes, self.ticks = [], [], 0

    def started(self, stage):
        self.events.append(("start", stage.id))

    def placed(self, stage, where):
        self.events.append(("place", stage.id, where))

    def progressed(self, stage, env_steps, values):
        self.events.append(("progress", stage.id, env_steps))

    def finished(self, stage, error):
        self.events.append(("end", stage.id, error))

    def noted(self, text):
        self.notes.append(text)

    def tick(self):
        self.ticks += 1


class FakeWorker:
    """Runs nothing; ``fate(stage, count)`` gives the StageResult of a stage's count-th run, or the WorkerLost to raise."""

    def __init__(self, cluster, token):
        self.cluster, self.where, self.stage, self.token, self.lost = cluster, "", None, token, False

    def poll_ready(self):
        there = sum(worker.where != "" and not worker.lost for worker in self.cluster.workers)
        if self.cluster.greeting == "never" or there >= self.cluster.rooms:
            return None
        if self.cluster.greeting == "dies":
            raise WorkerLost("it has no memory")
        self.where = f"node {self.cluster.requested}"
        sees = (self.cluster.store.out / pool.SHARED).read_text() == self.token
        return WorkerInfo(sees and self.cluster.sees, self.cluster.software)

    def start(self, stage):
        assert self.stage is None
        self.stage = stage
        self.cluster.given.append(stage.id)
        self.cluster.most = max(self.cluster.most, sum(w.stage is not None for w in self.cluster.workers))

    def poll(self):
        if self.stage is None:
            return None
        stage, self.stage = self.stage, None
        fate = self.cluster.fate(stage, self.cluster.given.count(stage.id))
        if isinstance(fate, WorkerLost):
            self.lost = True
            raise fate
        if fate.error is None:
            self.cluster.finish(stage)
        return fate


class FakeCluster:
    """Of workers that are there at once."""

    def __init__(self, store, fate=lambda stage, count: StageResult(None, StageProgress(1, 1, stage.budget)), rooms=2):
        self.store, self.fate, self.rooms = store, fate, rooms
        self.greeting, self.sees, self.software = "comes", True, software()
        self.requested = self.most = 0
        self.given, self.workers, self.ended = [], [], []
        self.done = set()
        store.done = self.done.__contains__

    def finish(self, stage):
        self.done.add(stage.id)

    def capacity(self):
        return self.rooms

    def describe(self):
        return f"1 node with room for {self.rooms}"

    def request(self, token):
        self.requested += 1
        self.workers.append(FakeWorker(self, token))
        return self.workers[-1]

    def wait(self, workers, seconds):
        pass

    def end(self, workers):
        self.ended += workers


@pytest.fixture
def tiny(tmp_path):
    config = load_config(str(write_config(tmp_path, seeds=2)))
    store = Store(tmp_path / "out")
    store.open(config)
    return expand(config), store


def play(graph, cluster, jobs=None, retries=3, node_timeout=0.0):
    diary = Diary()
    queue = GraphQueue(graph, list(graph.stages), diary)
    Pool(cluster, "1 CPU", jobs, retries, cluster.store, diary, node_timeout).run(queue)
    return queue.failed, diary


@pytest.mark.parametrize(("jobs", "rooms", "most"), [(None, 3, 3), (2, 3, 2)])
def test_stages_run_after_their_source_with_as_many_workers_as_fit_and_are_wanted(tiny, jobs, rooms, most):
    graph, store = tiny
    cluster = FakeCluster(store, rooms=rooms)
    failed, diary = play(graph, cluster, jobs)
    assert failed == {}
    assert sorted(cluster.given) == sorted(graph.stages)
    assert cluster.most == cluster.requested == most
    ends = [event[1] for event in diary.events if event[0] == "end"]
    assert all(
        stage.source is None or ends.index(stage.source) < ends.index(stage.id) for stage in graph.stages.values()
    )
    assert set(cluster.ended) == set(cluster.workers)
    assert diary.ticks
    assert not (store.out / pool.SHARED).exists()


@pytest.mark.parametrize("grows", [False, True])
def test_as_many_workers_as_are_given_wait_for_room_that_may_come(tiny, grows):
    graph, store = tiny
    cluster = FakeCluster(store, rooms=1)

    def wait(workers, seconds):
        waiting = sum(worker.where == "" for worker in workers)
        assert len(workers) <= 3
        cluster.rooms += grows and waiting > 0  # as an autoscaler does

    cluster.wait = wait
    failed, _ = play(graph, cluster, jobs=3)
    assert failed == {}
    assert sorted(cluster.given) == sorted(graph.stages)
    assert cluster.most == (3 if grows else 1)
    assert cluster.requested == 3
    assert set(cluster.ended) == set(cluster.workers)


def test_a_stage_whose_worker_is_lost_goes_on_in_another_and_starts_once(tiny):
    graph, store = tiny
    pretrain = next(iter(graph.stages))

    def fate(stage, count):
        if stage.id == pretrain and count < 3:
            return WorkerLost("its node was taken away")
        return StageResult(None, StageProgress(1, 1, 256))

    cluster = FakeCluster(store, fate)
    failed, diary = play(graph, cluster)
    assert failed == {}
    assert cluster.given.count(pretrain) == 3
    assert [e[0] for e in diary.events if e[1] == pretrain] == ["start", "place", "place", "place", "progress", "end"]
    assert [e[2].split(", ")[1:] for e in diary.events if e[:2] == ("place", pretrain)] == [[], ["try 2"], ["try 3"]]
    assert "its node was taken away; goes on from its last snapshot, try 2" in diary.notes[1]


def test_retries_end_and_what_needs_the_stage_fails_too(tiny):
    graph, store = tiny
    pretrain = next(iter(graph.stages))

    def fate(stage, count):
        return WorkerLost("no memory") if stage.id == pretrain else StageResult(None, StageProgress())

    cluster = FakeCluster(store, fate)
    failed, _ = play(graph, cluster, retries=1)
    assert failed.pop(pretrain) == "its worker died 2 times, at last: no memory; --retries allows more"
    assert set(failed.values()) == {"its source failed"}
    assert len(failed) == sum(stage.source == pretrain for stage in graph.stages.values()) > 0
    assert cluster.given.count(pretrain) == 2
    assert store.record(pretrain)["error"].startswith("its worker died 2 times")


def test_what_a_stage_raises_is_not_tried_again(tiny):
    graph, store = tiny
    first = next(iter(graph.stages))
    cluster = FakeCluster(
        store, lambda stage, count: StageResult("bad" if stage.id == first else None, StageProgress())
    )
    failed, _ = play(graph, cluster)
    assert failed[first] == "bad"
    assert cluster.given.count(first) == 1


def test_a_worker_that_finished_before_it_was_lost_is_not_run_again(tiny):
    graph, store = tiny
    pretrain = next(iter(graph.stages))

    def fate(stage, count):
        if stage.id == pretrain:
            cluster.finish(stage)
            return WorkerLost("cut off")
        return StageResult(None, StageProgress())

    cluster = FakeCluster(store, fate)
    failed, _ = play(graph, cluster, retries=0)
    assert failed == {}
    assert cluster.given.count(pretrain) == 1


def test_where_no_node_fits_nothing_is_asked_for(tiny):
    graph, store = tiny
    cluster = FakeCluster(store, rooms=0)
    with pytest.raises(
        GraftError,
        match=r"A stage needs 1 CPU, and no node has that; there are 1 node with .* --wait SECONDS waits for one",
    ):
        play(graph, cluster)
    assert not cluster.requested


@pytest.mark.parametrize("comes", [20.0, 100.0])
def test_a_first_node_is_waited_for_as_long_as_is_given(tiny, monkeypatch, comes):
    graph, store = tiny
    clock = [0.0]
    monkeypatch.setattr(pool.time, "monotonic", lambda: clock[0])
    cluster = FakeCluster(store, rooms=0)

    def wait(workers, seconds):
        assert workers, "nobody asks for a node"
        clock[0] += seconds
        cluster.rooms = int(clock[0] >= comes)

    cluster.wait = wait
    if comes < 50:
        failed, _ = play(graph, cluster, node_timeout=50)
        assert failed == {}
        return
    with pytest.raises(
        GraftError, match=r"A stage needs 1 CPU, and no node has that.* None came in the 50 s of --wait"
    ):
        play(graph, cluster, node_timeout=50)
    assert set(cluster.ended) == set(cluster.workers) != set()
    assert not (store.out / pool.SHARED).exists()


def test_what_a_stage_notes_is_said_once(tiny):
    graph, store = tiny
    first = next(iter(graph.stages))

    def fate(stage, count):
        return StageResult(None, StageProgress(1, 1, 256, {}, "Note: it starts over." if stage.id == first else ""))

    _, diary = play(graph, FakeCluster(store, fate))
    assert diary.notes[1:] == ["Note: it starts over."]


def test_people_are_told_when_no_node_is_left(tiny, monkeypatch):
    graph, store = tiny
    clock = [0.0]
    monkeypatch.setattr(pool.time, "monotonic", lambda: clock[0])
    cluster = FakeCluster(store, rooms=1)
    cluster.greeting = "never"

    def wait(workers, seconds):
        assert len(workers) == 1
        clock[0] += seconds
        cluster.rooms = 0 if clock[0] < 500 else 1
        cluster.greeting = "never" if clock[0] < 500 else "comes"

    cluster.wait = wait
    failed, diary = play(graph, cluster)
    assert failed == {}
    words = [note for note in diary.notes if note.startswith("waiting")]
    assert words == [
        "waiting  30 s for a node with 1 CPU: none that is there has it; Ctrl-C stops",
        "waiting  330 s for a node with 1 CPU: none that is there has it; Ctrl-C stops",
    ]


def test_workers_that_die_at_once_end_the_run(tiny):
    graph, store = tiny
    cluster = FakeCluster(store)
    cluster.greeting = "dies"
    with pytest.raises(GraftError, match="Workers die before they can start: it has no memory"):
        play(graph, cluster)
    assert pool.MAX_FAILED_STARTS < cluster.requested < pool.MAX_FAILED_STARTS + 4


def test_a_node_that_does_not_see_the_folder_ends_the_run(tiny):
    graph, store = tiny
    cluster = FakeCluster(store)
    cluster.sees = False
    with pytest.raises(GraftError, match=r"does not see .*out as this machine does; give an --out on a path that all"):
        play(graph, cluster)
    assert cluster.given == []
    assert set(cluster.ended) == set(cluster.workers)


def test_other_software_on_a_node_is_said_once(tiny):
    graph, store = tiny
    cluster = FakeCluster(store, rooms=1)
    cluster.software = {**software(), "torch": "0.1"}
    _, diary = play(graph, cluster)
    assert ["(torch)" in note for note in diary.notes] == [False, True]


def test_records_that_never_show_are_an_error(tiny, monkeypatch):
    graph, store = tiny
    monkeypatch.setattr(pool, "RECORD_SECONDS", 0.0)
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.01)
    cluster = FakeCluster(store)
    cluster.finish = lambda stage: None
    with pytest.raises(GraftError, match="is done, but its record does not show in"):
        play(graph, cluster)


def test_ctrl_c_ends_all_workers(tiny):
    graph, store = tiny

    def fate(stage, count):
        raise KeyboardInterrupt

    cluster = FakeCluster(store, fate)
    with pytest.raises(KeyboardInterrupt):
        play(graph, cluster)
    assert set(cluster.ended) == set(cluster.workers)
    assert json.loads((store.out / "experiment.json").read_text())
