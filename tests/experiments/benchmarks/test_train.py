"""`graft bench train`: workers take turns, a library that can't be had is said, and the tables hold the medians."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
import torch
from rich.console import Console

from graft.agents.training.backend import Evaluation
from graft.errors import GraftError
from graft.experiments.benchmarks import train, trainers
from graft.experiments.benchmarks.train import Round, Worker
from graft.experiments.benchmarks.trainers import CASES, GRAFT, RLLIB, SB3, SBX, Case, Timed


class Turns:
    """A worker that takes ``seconds`` a round, and notes its turn."""

    def __init__(self, name, order, seconds, **rest):
        self.name, self.order, self.seconds, self.rest = name, order, seconds, rest

    def round(self):
        self.order.append(self.name)
        parts = {"environment": 0.1, "inference": 0.2, "buffer": 0.1, "update": 0.6}
        return Round(self.seconds, {part: self.seconds * share for part, share in parts.items()}, **self.rest)


def test_libraries_take_turns_in_both_orders_and_graft_is_compared():
    order = []
    found = train.measure({GRAFT: Turns("g", order, 2.0), SB3: Turns("s", order, 5.0)}, rounds=2)
    assert "".join(order) == "gssg"
    assert train.ratio(found, SB3) == 2.5


def test_the_tables(monkeypatch):
    case = Case(CASES["default"].task, (GRAFT, SB3, SBX), options={"num_envs": 10, "num_steps": 10})
    monkeypatch.setattr(train, "CASES", {"some case": case})
    made = {GRAFT: Turns("g", [], 2.0, evaluation=10.0, flops=3e9, product=5e10), SB3: Turns("s", [], 5.0)}

    class Peers:
        def __init__(self, folder):
            pass

        def place(self, library, case):
            if library == SBX:
                raise GraftError("it has no wheel for this Python")
            return library, {}

    monkeypatch.setattr(train, "Peers", Peers)
    monkeypatch.setattr(train, "Worker", lambda command, environ: Closing(made[command[0]]))
    console = Console(record=True, width=150, file=io.StringIO())
    train.bench_train(console, 1)
    text = console.export_text()
    assert "some case: sbx-rl left out: it has no wheel for this Python" in text
    assert re.search(r"some case +│ Graft +│ +50 │ +│", text)
    assert re.search(r"some case +│ SB3 +│ +20 │ +2.50 │", text)
    assert f"+{10 * 100 / Evaluation().every / 2:.0%}" == "+2%"
    assert re.search(r"some case +│ Graft +│ +10% │ +20% │ +10% │ +60% │ +\+2% │ +2.5 │ +50.0 │", text)
    with pytest.raises(GraftError, match="names none of: some case"):
        train.bench_train(console, 1, "other")


class Closing:
    def __init__(self, worker):
        self.round, self.close = worker.round, lambda: None


def test_a_worker_answers_each_line_and_its_last_words_are_kept():
    answer = json.dumps({"seconds": 1.5})
    worker = Worker([sys.executable, "-c", f"input(); print('{answer}'); raise SystemExit('no more')"], {})
    assert worker.round() == Round(1.5)
    with pytest.raises(GraftError, match="no more"):
        worker.round()
    worker.close()


def test_parts_count_the_seconds_of_what_is_called(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trainers.time, "process_time", lambda: now[0])

    class Thing:
        def work(self, seconds):
            now[0] += seconds
            return seconds

    thing, timed = Thing(), Timed()
    timed.wrap(thing, "work", "update")
    assert [thing.work(2.0), thing.work(3.0)] == [2.0, 3.0]
    assert timed.parts == {"update": 5.0}


@pytest.mark.slow  # torch's counter takes seconds to load
def test_operations_of_an_update_are_those_of_products_that_train():
    # An update is 4 epochs of 64 * 32 states; a product (N, i) x (i, o) takes 2 N i o operations, and so does each of
    # its two gradients; the first layer has one, of its weights.
    states, heads = 4 * 64 * 32, 64 * 64 * 2 + 64 * 2 + 64
    assert trainers.flops(CASES["mlp CartPole"]) == 2 * states * (2 * 4 * 64 + 3 * (64 * 64 + heads))
    frozen, full = trainers.flops(CASES["frozen encoder"]), trainers.flops(CASES["default"])
    assert frozen < full / 3


@pytest.mark.parametrize("library", [GRAFT, SB3])
def test_a_round_of_both_trains_as_much_and_tells_its_parts(library, monkeypatch):
    case = CASES["mlp CartPole"]._replace(options={"num_envs": 4, "num_steps": 8, "minibatch": 16})
    trainer = trainers.TRAINERS[library](case)
    steps = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: steps.append(self) or None)
    trainer.train()
    assert len(steps) == 8
    found = trainer.parts()
    assert found.keys() == set(train.PARTS)
    assert min(found.values()) > 0
    assert sum(found.values()) < 5


def test_every_case_trains_with_graft_and_the_plain_libraries():
    for case in CASES.values():
        assert {GRAFT, SB3} <= set(case.libraries)
        assert set(case.libraries) <= set(trainers.TRAINERS)
    assert RLLIB in CASES["default"].libraries
