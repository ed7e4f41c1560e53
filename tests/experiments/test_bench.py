"""The benchmark measures what it says, on every game."""

from __future__ import annotations

import pytest
from rich.console import Console

from envs.engine.game import GAMES
from envs.task import Task
from experiments import bench


def test_every_game_is_a_subject():
    names = bench._subjects(Console(quiet=True), 8)
    for game in GAMES:
        assert f"{Task(game)}, batch of 8" in names


def test_subjects_count_the_steps_they_take():
    assert bench._batch(Task("Graft/Dodge-v0"), 8)() == 64 * 8
    assert bench._loop("CartPole-v1")() == 256


def test_rounds_are_interleaved_and_turned_around(monkeypatch):
    order = []
    subjects = {name: lambda: 1 for name in "abc"}
    names = {id(subject): name for name, subject in subjects.items()}
    monkeypatch.setattr(bench, "_rate", lambda subject: order.append(names[id(subject)]) or float(len(order)))
    rates = bench.measure(subjects, rounds=2)
    assert "".join(order) == "abccba"
    assert rates == {"a": [1.0, 6.0], "b": [2.0, 5.0], "c": [3.0, 4.0]}


def test_bad_numbers_end_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(["envs", "--rounds", "0"])
    assert ended.value.code == 2
