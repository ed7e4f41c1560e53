"""Team gather: coins, contested coins, fights and the end, on states set up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.arena_states import Place, arena, by_team, places, play

from graft.envs.builtin.arena.batch import ArenaBatch
from graft.envs.builtin.engine.game import DOWN, LEFT, NOOP, RIGHT
from graft.envs.builtin.engine.state import COIN

REDS, BLUES, DRAW = 0, 1, -2
FAR = (0, 9)
SPARE = {FAR: COIN}


def test_a_coin_gives_one_to_who_takes_it() -> None:
    batch = arena("gather", [(5, 5)], [(9, 9)], {(5, 6): COIN, **SPARE})
    assert play(batch, RIGHT, NOOP) == ([1.0, 0.0], [False, False], -1)
    assert play(batch, NOOP, NOOP)[0] == [0.0, 0.0]


def test_team_mates_on_one_coin_share_it() -> None:
    batch = arena("gather", [(5, 5), (4, 6)], [(9, 9)], {(5, 6): COIN, **SPARE})
    assert play(batch, RIGHT, DOWN, NOOP)[0] == [0.5, 0.5, 0.0]
    assert batch.save_state()["score"].tolist() == [[1.0, 0.0]]


def test_the_outnumbered_die_and_those_around_share_the_prize() -> None:
    batch = arena("gather", [(5, 4), (4, 5)], [(5, 6), (9, 9)], SPARE)
    assert play(batch, RIGHT, DOWN, NOOP, NOOP) == ([0.25, 0.25, -0.5, 0.0], [False, False, True, False], -1)
    assert places(batch) == [(5, 5), (5, 5), None, (9, 9)]


def test_equal_sides_do_each_other_no_harm_and_nobody_fights_where_fights_are_off() -> None:
    assert play(arena("gather", [(5, 5)], [(5, 6)], SPARE), NOOP, NOOP) == ([0.0, 0.0], [False, False], -1)
    peaceful = arena("gather", [(5, 5), (5, 4)], [(5, 6)], SPARE, fights=False)
    assert play(peaceful, NOOP, NOOP, NOOP) == ([0.0] * 3, [False] * 3, -1)


def test_deaths_of_one_step_are_simultaneous() -> None:
    """Blue in the middle is outnumbered by the reds, red on the right by the blues; each dies of the state before."""
    batch = arena("gather", [(5, 4), (5, 6), (0, 0)], [(5, 5), (5, 7), (6, 7)], SPARE)
    rewards, ended, winner = play(batch, *[NOOP] * 6)
    assert ended == [False, True, False, True, False, False]
    assert winner == -1
    assert rewards[1] == pytest.approx(-0.5 + 0.25, abs=1e-6)
    assert sum(rewards) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("reds", "blues", "takes"),
    [
        ([(5, 6), (9, 0)], [(5, 4), (9, 2)], None),  # one against one: nobody
        ([(5, 6), (6, 6)], [(5, 4), (9, 2)], REDS),
        ([(5, 6), (9, 0)], [(5, 4), (4, 4)], BLUES),
    ],
)
def test_a_contested_coin_goes_to_the_larger_side(reds: list[Place], blues: list[Place], takes: int | None) -> None:
    batch = arena("gather", reds, blues, {(5, 5): COIN, **SPARE}, fights=False)
    rewards, _, _ = play(batch, LEFT, NOOP, RIGHT, NOOP)
    assert rewards == [float(takes == REDS), 0.0, float(takes == BLUES), 0.0]
    assert batch.save_state()["cells"][0, 5, 5] == (COIN if takes is None else 0)


def test_the_last_coin_ends_the_game_and_more_coins_win() -> None:
    batch = arena("gather", [(5, 5)], [(9, 9)], {(5, 6): COIN})
    assert play(batch, RIGHT, NOOP) == ([1.0, 0.0], [True, True], REDS)
    assert play(arena("gather", [(5, 5)], [(9, 8)], {(9, 9): COIN}), NOOP, RIGHT)[2] == BLUES


def test_equal_coins_at_the_time_limit_are_a_draw() -> None:
    batch = arena("gather", [(5, 5)], [(9, 9)], SPARE, max_steps=10)
    assert [play(batch, NOOP, NOOP)[2] for _ in range(10)] == [-1] * 9 + [DRAW]


def test_the_only_team_alive_wins_whatever_the_coins() -> None:
    batch = arena("gather", [(5, 5), (4, 6)], [(5, 7)], SPARE)
    state = batch.save_state()
    state["score"][:] = [0, 5]
    batch.restore_state(state)
    assert play(batch, RIGHT, NOOP, NOOP) == ([0.25, 0.25, -0.5], [True] * 3, REDS)


def test_teams_start_apart_and_all_coins_lie_free() -> None:
    batch = ArenaBatch("gather", 128, reds=4, blues=[1, 4], coins=20, walls=0.15)
    batch.reset()
    state = batch.save_state()
    assert state["place"][:, :4, 1].max() <= 2
    assert state["place"][:, 4:, 1][state["alive"][:, 4:]].min() >= 7
    assert ((state["cells"] == COIN).sum(axis=(1, 2)) == 20).all()
    assert set(state["size"][:, 1].tolist()) == {1, 2, 3, 4}


def test_neither_side_is_favoured() -> None:
    batch, draw = ArenaBatch("gather", 512), np.random.default_rng(0)
    batch.reset()
    wins = np.zeros(2, np.int64)
    for _ in range(160):
        winner = batch.step(by_team(batch, draw.integers(0, 6, (512, 6))))[5]["winner"]
        wins += [(winner == REDS).sum(), (winner == BLUES).sum()]
    assert wins.sum() > 800
    assert abs(wins[0] / wins.sum() - 0.5) < 0.06
