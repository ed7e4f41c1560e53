"""The local launcher: dependencies, failures of stages and of whole workers."""

from __future__ import annotations

import os
import signal

import pytest
from support.tiny_experiment import write_config

from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.launchers.launcher import attempt, run_graph
from graft.experiments.launchers.local import LocalLauncher, _signal_name
from graft.experiments.plan.pairs import expand
from graft.experiments.store.records import Store


class Diary:
    """A `RunListener` that writes down what happens; ``on_start`` is called with each stage that starts."""

    def __init__(self, on_start=None):
        self.events = []
        self.on_start = on_start

    def started(self, stage):
        self.events.append(("start", stage.id))
        if self.on_start:
            self.on_start(stage)

    def progressed(self, stage, env_steps, values):
        self.events.append(("progress", stage.id))

    def finished(self, stage, error):
        self.events.append(("end", stage.id, error))

    def tick(self):
        pass


def set_up(tmp_path, **changes):
    config = load_config(str(write_config(tmp_path, seeds=1, **changes)))
    store = Store(tmp_path / "out")
    store.open(config)
    return expand(config), store


class Here:
    """Runs stages in this process, and tells nobody how they go."""

    def run(self, queue, store, listener):
        while stage := queue.take():
            queue.finish(stage, attempt(stage, store, self, 1))

    def __call__(self, env_steps, values):
        pass

    def noted(self, text):
        pass


def test_a_failed_source_fails_what_needs_it_and_nothing_else(tmp_path, monkeypatch):
    # So large a step makes the first update's loss infinite; the frozen stage needs that source.
    graph, store = set_up(tmp_path, methods="frozen", algorithm={"num_envs": 8, "num_steps": 16, "learning_rate": 1e30})
    failed = run_graph(Here(), graph, list(graph.stages), store, Diary())
    pretrain, *_, frozen = graph.stages
    assert "learning rate" in failed[pretrain]
    assert failed[frozen] == "its source failed"
    assert store.diverged(pretrain)
    assert [one["learning_rate"] for one in store.record(pretrain)["diverged"]] == [1e30, 5e29, 2.5e29]


@pytest.mark.slow
def test_a_killed_worker_fails_its_stage_and_the_rest_runs_after_its_source(tmp_path):
    import multiprocessing

    graph, store = set_up(tmp_path, methods="frozen")
    scratch = graph.comparisons[0].stages[0]

    def kill(stage):
        if stage.id == scratch:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    diary = Diary(kill)
    failed = run_graph(LocalLauncher(1), graph, list(graph.stages), store, diary)
    assert list(failed) == [scratch]
    assert "its worker was killed by SIGKILL, as systems do when memory is used up" in failed[scratch]
    assert all(store.done(i) for i in graph.stages if i != scratch)
    order = [event[1] for event in diary.events if event[0] == "end"]
    for stage in graph.stages.values():
        assert stage.source is None or order.index(stage.source) < order.index(stage.id)


@pytest.mark.slow
def test_environments_in_processes_of_their_own_change_no_result(tmp_path):
    changes = {"sources": "CartPole-v1", "targets": "CartPole-v1", "methods": "scratch", "network": None}
    trained = []
    for name, launcher in {"here": Here(), "two": LocalLauncher(1, 2)}.items():
        (tmp_path / name).mkdir()
        graph, store = set_up(tmp_path / name, **changes)
        scratch = graph.comparisons[0].stages[0]
        assert run_graph(launcher, graph, [scratch], store, Diary()) == {}
        trained.append((scratch, (store.folder(scratch) / "checkpoint" / "weights.safetensors").read_bytes()))
    assert trained[0] == trained[1]
    assert LocalLauncher(env_workers=10**6).jobs == 1


def test_at_least_one_worker_is_needed():
    with pytest.raises(GraftError, match="--jobs 0 is not allowed"):
        LocalLauncher(0)


def test_signals_without_a_name_have_a_number() -> None:
    assert [_signal_name(number) for number in (9, 40)] == ["SIGKILL", "signal 40"]
