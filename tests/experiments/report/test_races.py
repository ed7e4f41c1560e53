"""Regret of `auto` by hand-made rows, and what a report says of its races."""

from __future__ import annotations

import pytest

from graft.experiments.report.races import Regret, of_records, race_notes, regrets


def row(method, areas, source="s", race=None):
    return {"target": "T", "source": source, "method": method, "areas": areas, "race": race}


RACE = {
    "candidates": ["a", "b", "scratch"],
    "kept": ["a", "b"],
    "env_steps_of_others": [100, 300],
    "env_steps_of_episodes": [5, 7],
}
ROWS = [
    row("scratch", [0.2, 0.4], None),
    row("a", [0.8, 0.9]),
    row("b", [0.6, 1.0]),
    row("auto", [0.7, 0.8], race=RACE),
]


def test_regret_is_against_what_candidates_did_alone():
    (found,) = regrets(ROWS)
    assert (found.best, found.always["scratch"]) == ("a", pytest.approx(0.3))
    assert (found.kept, found.auto) == (pytest.approx(0.9), pytest.approx(0.75))  # 0.8 of a, 1.0 of b
    assert [found.close(area) for area in (found.kept, found.auto, found.always["b"])] == [True, False, True]
    assert race_notes(ROWS)[-1] == (
        "Within 10% of the best area, of 1 pairs: what auto kept in 1, auto with what the race took in 0, always a in "
        "1, always b in 1, always scratch in 0."
    )
    assert "kept a in 1, b in 1; 200 env steps of training went" in race_notes(ROWS)[0]
    assert race_notes(ROWS)[0].endswith("; 6 of the episodes that decided are not.")


def test_what_is_close_to_the_best_where_areas_are_negative():
    assert Regret("T", "s", "a", {"a": -0.1}, -0.1, -0.1).close(-0.105)
    assert not Regret("T", "s", "a", {"a": -0.1}, -0.1, -0.1).close(-0.2)


def test_no_regret_without_all_candidates_or_seeds():
    assert regrets(ROWS[1:]) == []
    assert regrets([*ROWS[:2], row("b", [0.6]), ROWS[3]]) == []


def test_the_row_has_who_was_kept_by_seed():
    spent = {"a": 5, "scratch": 5}
    records = [
        {"spent": spent, "kept": kept, "env_steps_of_others": n, "env_steps_of_episodes": 9}
        for kept, n in (("a", 0), ("scratch", 5))
    ]
    assert of_records(records) == {
        "candidates": ["a", "scratch"],
        "kept": ["a", "scratch"],
        "env_steps_of_others": [0, 5],
        "env_steps_of_episodes": [9, 9],
    }
    assert of_records([]) is None
