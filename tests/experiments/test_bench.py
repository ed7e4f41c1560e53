"""The benchmark measures what it says, on every game."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from graft.envs.builtin.engine.game import GAMES
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.experiments import bench
from graft.experiments.benchmarks import adapters, envs

VARIANTS = envs.variants()


def test_every_game_is_timed_with_every_mechanic_in_both_views():
    found = envs.variants()
    for name, game in GAMES.items():
        for view in ("planes", "pixels"):
            changed = [v.task.kwargs for v in found if (v.game, v.view) == (name, view)]
            assert {"view": view} in changed
            for mechanic in game.mechanics:
                assert any(mechanic in kwargs and len(kwargs) == 2 for kwargs in changed)
            assert any(len(kwargs) == 1 + len(game.mechanics) for kwargs in changed)


def test_the_tables_name_games_and_the_slowest_mechanic(monkeypatch):
    monkeypatch.setattr(envs, "variants", lambda: [v for v in VARIANTS if v.game == "Graft/Dodge-v0"])
    monkeypatch.setattr(envs, "_others", lambda console, num_envs: {"a loop": lambda: 1})
    monkeypatch.setattr(
        envs, "measure", lambda subjects, rounds: {name: [4e6 if "slip" not in name else 3e6] for name in subjects}
    )
    console = Console(record=True, width=120, file=io.StringIO())
    envs.bench_envs(console, 1, 2)
    text = console.export_text()
    assert re.search(r"Dodge +│ planes +│ +4,000,000 +│ +3,000,000 +│ slip=1.0 +│ +4,000,000", text)
    assert re.search(r"a loop +│ +4,000,000", text)


def test_subjects_count_the_steps_they_take():
    assert envs._batch(Task("Graft/Dodge-v0"), 8)() == 64 * 8
    assert envs._loop("CartPole-v1")() == 256


def test_rounds_are_interleaved_and_turned_around(monkeypatch):
    order = []
    subjects = {name: lambda: 1 for name in "abc"}
    names = {id(subject): name for name, subject in subjects.items()}
    monkeypatch.setattr(envs, "_rate", lambda subject: order.append(names[id(subject)]) or float(len(order)))
    rates = envs.measure(subjects, rounds=2)
    assert "".join(order) == "abccba"
    assert rates == {"a": [1.0, 6.0], "b": [2.0, 5.0], "c": [3.0, 4.0]}


def test_both_sides_take_turns_and_the_overhead_is_their_ratios(monkeypatch):
    order, now = [], [0.0]
    monkeypatch.setattr(adapters.time, "process_time", lambda: now[0])

    def side(name, seconds):
        def play(sweeps):
            order.append(name)
            now[0] += sweeps * seconds

        return play

    found = adapters.measure(side("b", 0.05), side("g", 0.06), steps=30, rounds=2)
    assert "".join(order) == "bb" + "bg" + "bggb" * 2  # after warming up
    assert found.bare == pytest.approx(600)
    assert found.ours == pytest.approx(500)
    assert found.overhead == pytest.approx(20)


def adapters_table(monkeypatch, *overheads):
    """The text of the table for made-up results."""
    results = iter(overheads)

    def compare(subject, num_envs, rounds):
        overhead = next(results)
        if overhead is None:
            raise GraftError("Nothing is installed.")
        return adapters.Result(1000.0, 1000.0 / (1 + overhead / 100), overhead)

    monkeypatch.setattr(adapters, "compare", compare)
    console = Console(record=True, width=120, file=io.StringIO())
    adapters.bench_adapters(console, 1, "cartpole")
    return console.export_text()


def test_the_table_marks_adapters_that_cost_more_than_the_target(monkeypatch):
    text = adapters_table(monkeypatch, 25.0, 10.0)
    assert re.search(r"CartPole-v1 +│ +32 │ +1,000 │ +800 │ +\+25.0 % │ \*", text)
    assert re.search(r"CartPole-v1 +│ +256 │ +1,000 │ +909 │ +\+10.0 % │ +│", text)
    assert "left out: Nothing is installed." in adapters_table(monkeypatch, None)


def test_an_adapter_is_compared_with_its_library(monkeypatch):
    monkeypatch.setattr(adapters, "SLICE_SECONDS", 0.001)
    found = adapters.compare(adapters.Subject(Task("CartPole-v1")), 2, 1)
    assert found.bare > 0
    assert found.ours > 0


def test_unknown_tasks_end_with_2(capsys):
    assert bench.main(["adapters", "--only", "nothing"]) == 2
    assert "--only 'nothing' names none of: CartPole-v1, Acrobot-v1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rounds", "--num-envs", "--runners"])
def test_bad_numbers_end_with_2(capsys, option):
    assert bench.main(["envs", option, "0"]) == 2
    assert f"{option} 0 is not allowed" in capsys.readouterr().err


def test_help_shows_an_example_of_everything(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for what in bench.WHAT:
        assert f"graft bench {what} -" in text
