"""Stages whose training diverges: they keep the minibatch, begin again at half the rate, and else have no result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.tiny_experiment import write_config

from graft.agents import sb3
from graft.agents.training.algorithm import Algorithm
from graft.agents.training.backend import TrainJob, TrainResult, Unstable
from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.launchers.launcher import attempt
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.stage import Graph, Stage
from graft.experiments.report import transfer
from graft.experiments.report.common import failed_notes, seed_notes, unfinished_notes
from graft.experiments.report.results import StageResult
from graft.experiments.stages import run_stage
from graft.experiments.stages.divergence import divergences, keep_minibatch
from graft.experiments.store.records import DIVERGED, SNAPSHOT, Store

RATE = 2e-3


def test_an_algorithm_without_a_learning_rate_has_none_to_halve() -> None:
    assert not run_stage.has_rate(Algorithm())
    assert run_stage.has_rate(sb3.ALGORITHMS["ppo"]())


class Reporter:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def __call__(self, env_steps: int, values: Any) -> None:
        pass

    def noted(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[float]]:
    """``diverging(count)``: the next ``count`` trainings diverge; returns the learning rates of all that follow."""
    real: Callable[[TrainJob], TrainResult] = sb3.train

    def begin(count: int) -> list[float]:
        rates: list[float] = []

        def train(job: TrainJob) -> TrainResult:
            rates.append(job.algorithm.learning_rate)  # type: ignore[attr-defined]
            if len(rates) > count:
                return real(job)
            error = Unstable("the loss is not a finite number any more")
            error.env_steps, error.batch = 64, {"rewards": np.array([1.0, np.nan], np.float32)}
            raise error

        monkeypatch.setattr(sb3, "train", train)
        return rates

    return begin


def set_up(folder: Path, **changes: Any) -> tuple[Graph, Store]:
    folder.mkdir(exist_ok=True)
    config = load_config(str(write_config(folder, **{"methods": "scratch", "transfer": {"steps": 128}, **changes})))
    store = Store(folder / "out")
    store.open(config)
    return expand(config), store


def scratch(graph: Graph) -> Stage:
    return graph.stages[graph.comparisons[0].scratch[0]]


def test_it_ends_as_if_the_smaller_rate_had_been_asked_for(tmp_path: Path, diverging: Any) -> None:
    graph, store = set_up(tmp_path)
    stage, rates, reporter = scratch(graph), diverging(2), Reporter()
    assert attempt(stage, store, reporter, 1) is None
    assert rates == [RATE, RATE / 2, RATE / 4]
    assert [note.rpartition(", ")[2] for note in reporter.notes] == ["try 2 of 3.", "try 3 of 3."]
    record = store.record(stage.id) or {}
    assert [(d["env_steps"], d["learning_rate"]) for d in record[DIVERGED]] == [(64, RATE), (64, RATE / 2)]
    assert store.checkpoint(stage.id).record[DIVERGED] == record[DIVERGED]
    for divergence in record[DIVERGED]:
        kept = load_file(store.folder(stage.id) / divergence["file"])
        np.testing.assert_array_equal(kept["rewards"], np.array([1.0, np.nan], np.float32))
    assert "seed 0 (2 times; at 0.0005 instead of 0.002)" in failed_notes({"stages": [record]})[0]

    slower = replace(stage, algorithm=replace(stage.algorithm, learning_rate=RATE / 4))  # type: ignore[call-arg]
    run_stage.run_stage(slower, store, Reporter())
    files = [store.folder(s.id) / "checkpoint" / "weights.safetensors" for s in (stage, slower)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_without_tries_left_it_has_no_result_and_the_same_command_tries_anew(tmp_path: Path, diverging: Any) -> None:
    graph, store = set_up(tmp_path, divergence_retries=1)
    stage, rates = scratch(graph), diverging(2)
    error = attempt(stage, store, Reporter(), 1)
    assert error is not None
    assert error.startswith("it diverged 2 times, at last after 64 env steps at a learning rate of 0.001: the loss is")
    assert rates == [RATE, RATE / 2]
    assert store.diverged(stage.id)
    assert not store.done(stage.id)
    rates = diverging(0)
    assert attempt(stage, store, Reporter(), 1) is None
    assert rates == [RATE]
    assert DIVERGED not in (store.record(stage.id) or {})


def test_other_numbers_of_tries_are_other_stages(tmp_path: Path) -> None:
    """With two, one has a result at half the rate, which one without tries has not."""
    graph, store = set_up(tmp_path)
    fewer, _ = set_up(tmp_path / "fewer", divergence_retries=0)
    assert not graph.stages.keys() & fewer.stages.keys()
    assert "divergence_retries" not in scratch(fewer).to_json()
    with pytest.raises(GraftError, match="differs in divergence_retries"):
        store.check(load_config(str(tmp_path / "fewer" / "tiny.yaml")))


@pytest.mark.slow
def test_one_that_is_killed_between_two_tries_goes_on_with_those_left(tmp_path: Path, diverging: Any) -> None:
    graph, store = set_up(tmp_path)
    stage, rates = scratch(graph), diverging(1)
    attempt(stage, store, Reporter(), 1)
    folder = store.folder(stage.id)
    record = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps(record | {"status": "running"}))  # as it was in its second try
    rates = diverging(0)
    assert attempt(stage, store, Reporter(), 1) is None
    assert rates == [RATE / 2]


def test_what_cannot_be_helped_by_a_smaller_rate_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, store = set_up(tmp_path)

    def broken(*_: Any) -> None:
        raise Unstable("the encoder's activations are not finite numbers")

    monkeypatch.setattr(run_stage._StageRun, "_probe", broken)
    reporter = Reporter()
    error = attempt(scratch(graph), store, reporter, 1)
    assert error == "it diverged: the encoder's activations are not finite numbers"
    assert reporter.notes == []


def test_a_snapshot_of_an_earlier_try_is_not_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT).mkdir()
    error = Unstable("it is not finite")
    error.env_steps = 7
    keep_minibatch(tmp_path, error, 1e-3)
    assert not (tmp_path / SNAPSHOT).exists()
    assert divergences(tmp_path) == [{"env_steps": 7, "learning_rate": 1e-3, "file": "diverged-1.safetensors"}]
    (tmp_path / "diverged-1.safetensors").write_bytes(b"altered")
    with pytest.raises(GraftError, match=r"diverged-1.safetensors was altered"):
        divergences(tmp_path)


def test_one_whose_source_diverged_counts_as_such(tmp_path: Path, diverging: Any) -> None:
    graph, store = set_up(tmp_path, divergence_retries=0, methods={"finetune": {"heads": "by_name"}})
    comparison = next(one for one in graph.comparisons if one.pretrain)
    diverging(1)
    attempt(graph.stages[comparison.pretrain[1]], store, Reporter(), 1)
    assert transfer._diverged(comparison, store) == 1


def test_it_is_counted_and_in_no_mean(tmp_path: Path, diverging: Any) -> None:
    graph, store = set_up(tmp_path, divergence_retries=0)
    config = load_config(str(tmp_path / "tiny.yaml"))
    first, second = graph.comparisons[0].scratch
    diverging(1)
    failed = {i: e for i in (first, second) if (e := attempt(graph.stages[i], store, Reporter(), 1))}
    assert list(failed) == [first]
    for known in (failed, {}):  # {}: after Ctrl-C, or of another run
        scales = transfer.target_bounds(config, graph, store)  # type: ignore[arg-type]
        measured = transfer.measure(graph, store, scales)
        data = transfer.results(config, graph, store, measured, scales, known)  # type: ignore[arg-type]
        row = next(row for row in data["rows"] if row["method"] == "scratch")
        assert (row["seeds"], row["missing_seeds"], row["diverged_seeds"]) == (1, 1, 1)
        assert row["stages"] == [second]
        entry = next(StageResult(**s) for s in data["stages"] if s["id"] == first)
        assert entry.status == DIVERGED
        assert entry.error == failed[first]
        assert failed_notes(data)[0].startswith(f"DIVERGED: 1 of {len(data['stages'])} stages, which count in no mean")
        assert "scratch on Dodge(slip=0.3): 1 seeds missing, 1 diverged." in seed_notes(data["rows"])
        assert f"{len(data['stages']) - 2} of" in unfinished_notes(data)[0]
