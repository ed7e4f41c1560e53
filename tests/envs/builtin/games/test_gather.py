"""Gather: coins, walls and hazards, on states set up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.game_states import batch, board, cells_of, episode_length, place, play

from graft.envs.builtin.engine.game import ACT, DOWN, LEFT, NOOP, RIGHT, UP
from graft.envs.builtin.engine.state import COIN, EMPTY, HAZARD, WALL


@pytest.mark.parametrize(
    ("action", "end"), [(NOOP, [5, 5]), (UP, [4, 5]), (DOWN, [6, 5]), (LEFT, [5, 4]), (RIGHT, [5, 6]), (ACT, [5, 5])]
)
def test_actions_move_the_player(action: int, end: list[int]) -> None:
    env = batch("Gather")
    place(env, (5, 5), {})
    assert play(env, action) == (end, 0.0, False)


@pytest.mark.parametrize(("action", "wall"), [(UP, (4, 5)), (DOWN, (6, 5)), (LEFT, (5, 4)), (RIGHT, (5, 6))])
def test_walls_stop_the_player(action: int, wall: tuple[int, int]) -> None:
    env = batch("Gather")
    place(env, (5, 5), {wall: WALL})
    assert play(env, action) == ([5, 5], 0.0, False)
    assert cells_of(env, WALL) == [wall]


@pytest.mark.parametrize(("density", "hazards"), [(0.0, 0), (0.06, 6), (0.25, 25)])
def test_lays_out_its_share_of_each_kind_away_from_the_player(density: float, hazards: int) -> None:
    env = batch("Gather", 256, hazard_density=density)
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs.sum(axis=(2, 3)), np.tile([1, 12, hazards, 7], (256, 1)))
    assert obs.sum(axis=1).max() == 1


def test_a_coin_gives_one_and_appears_elsewhere() -> None:
    env = batch("Gather", 64)
    place(env, (5, 5), {(5, 6): COIN})
    assert play(env, RIGHT) == ([5, 6], 1.0, False)
    assert np.all((board(env) == COIN).sum(axis=(1, 2)) == 1)
    assert np.all(board(env)[:, 5, 6] == EMPTY)
    assert len({grid.tobytes() for grid in board(env)}) > 20


def test_a_coin_appears_on_the_only_free_cell() -> None:
    env = batch("Gather")
    rest = {(row, column): WALL for row in range(10) for column in range(10)}
    place(env, (5, 5), {**rest, (5, 5): EMPTY, (5, 6): COIN})
    assert play(env, RIGHT)[1] == 1.0
    assert cells_of(env, COIN) == [(5, 5)]


def test_a_hazard_costs_one_and_ends() -> None:
    env = batch("Gather")
    place(env, (5, 5), {(5, 6): HAZARD})
    assert play(env, RIGHT)[1:] == (-1.0, True)


def test_truncated_after_200_steps() -> None:
    env = batch("Gather")
    place(env, (5, 5), {})
    assert episode_length(env) == 200
