"""Pursuit: catching, lasting and what they pay, on states set up by hand; and a game that chance does not decide."""

from __future__ import annotations

import numpy as np
import pytest
from support.arena_states import arena, by_team, places, play

from graft.envs import GraftError
from graft.envs.builtin.arena.batch import ArenaBatch
from graft.envs.builtin.engine.game import DOWN, LEFT, NOOP, RIGHT, UP
from graft.envs.builtin.engine.state import WALL

HUNTERS, PREY = 0, 1


def test_a_hunter_catches_the_prey_whose_cell_it_enters() -> None:
    batch = arena("pursuit", [(5, 5), (0, 0)], [(5, 6), (9, 9)], max_steps=50)
    assert play(batch, RIGHT, NOOP, NOOP, NOOP) == ([0.5, 0.5, -1.0, 0.02], [False, False, True, False], -1)
    assert places(batch) == [(5, 6), (0, 0), None, (9, 9)]
    assert play(batch, NOOP, NOOP, LEFT, UP) == ([0.0, 0.0, 0.0, 0.02], [False] * 4, -1), "the dead do nothing"


def test_the_last_catch_wins_and_starts_anew() -> None:
    batch = arena("pursuit", [(5, 5)], [(5, 6), None])
    assert play(batch, RIGHT, NOOP, NOOP) == ([0.5, -1.0, 0.0], [True, True, False], HUNTERS)
    assert all(place is not None for place in places(batch))


@pytest.mark.parametrize(("hunter", "prey"), [(RIGHT, LEFT), (NOOP, LEFT), (RIGHT, NOOP)])
def test_nobody_slips_through_by_changing_places(hunter: int, prey: int) -> None:
    batch = arena("pursuit", [(5, 5)], [(5, 6)])
    assert play(batch, hunter, prey)[2] == HUNTERS


def test_a_prey_gets_away_where_it_is_not_blocked() -> None:
    batch = arena("pursuit", [(5, 5)], [(5, 6)], {(5, 8): WALL})
    assert play(batch, RIGHT, RIGHT)[2] == -1
    assert places(batch) == [(5, 6), (5, 7)]
    assert play(batch, RIGHT, RIGHT)[2] == HUNTERS, "the wall stops it"


@pytest.mark.parametrize(("catchers", "reach", "caught"), [(1, 0, False), (1, 1, True), (2, 1, True), (3, 1, False)])
def test_so_many_hunters_within_reach_catch(catchers: int, reach: int, caught: bool) -> None:
    batch = arena("pursuit", [(4, 4), (6, 5), (5, 8)], [(5, 5)], catchers=catchers, reach=reach)
    assert (play(batch, *[NOOP] * 4)[2] == HUNTERS) is caught


def test_lasting_until_the_end_wins_and_returns_are_shares() -> None:
    batch = arena("pursuit", [(0, 0)], [(9, 9), (9, 0)], max_steps=10)
    steps = [play(batch, NOOP, NOOP, NOOP) for _ in range(10)]
    assert [winner for _, _, winner in steps] == [-1] * 9 + [PREY]
    assert steps[-1][1] == [True] * 3
    assert np.sum([rewards for rewards, _, _ in steps], axis=0).round(6).tolist() == [0.0, 1.0, 1.0]


def test_slow_prey_move_in_a_share_of_the_steps() -> None:
    batch = ArenaBatch("pursuit", 512, hunters=1, prey=1, prey_speed=0.25, walls=0.0)
    batch.reset()
    before = batch.save_state()["place"][:, 1]
    batch.step(by_team(batch, np.full((512, 2), DOWN)))
    after = batch.save_state()
    free = (before[:, 0] < 9) & (after["clock"] == 1)
    assert abs((after["place"][free, 1, 0] > before[free, 0]).mean() - 0.25) < 0.1


def test_prey_start_at_a_distance_on_free_cells() -> None:
    batch = ArenaBatch("pursuit", 256, hunters=4, prey=4)
    batch.reset()
    state = batch.save_state()
    gaps = np.abs(state["place"][:, :4, None] - state["place"][:, None, 4:]).max(axis=3)
    assert gaps.min() >= 3
    for place, cells in zip(state["place"], state["cells"], strict=True):
        assert len(set(map(tuple, place.tolist()))) == 8
        assert not any(cells[row, column] for row, column in place)


def test_random_hunters_win_about_half_of_the_games_against_random_prey() -> None:
    batch, draw = ArenaBatch("pursuit", 1024), np.random.default_rng(0)
    batch.reset()
    first = np.full(1024, -1)
    for _ in range(batch.settings.max_steps):
        winner = batch.step(by_team(batch, draw.integers(0, 6, (1024, len(batch.agents)))))[5]["winner"]
        first = np.where(first == -1, winner, first)
    assert set(first) == {HUNTERS, PREY}
    assert 0.42 < (first == HUNTERS).mean() < 0.58


def test_more_catchers_than_hunters_are_refused() -> None:
    with pytest.raises(GraftError, match="catchers=3 is not allowed with 2 hunters"):
        ArenaBatch("pursuit", hunters=[2, 4], catchers=3)
