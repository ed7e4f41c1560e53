"""Dodge: falling rocks, on states set up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.game_states import batch, board, cells_of, path, place, play, share

from graft.envs.builtin.engine.game import ACT, DOWN, LEFT, NOOP, RIGHT, UP

ROCK = 1


def test_without_rocks_truncated_after_200_steps_with_return_20() -> None:
    env = batch("Dodge", fall_rate=0.0)
    env.reset()
    steps = [env.step(np.array([NOOP])) for _ in range(200)]
    assert [bool(s[3][0]) for s in steps] == [False] * 199 + [True]
    assert not any(s[2][0] for s in steps)
    assert sum(float(s[1][0]) for s in steps) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("rock", "action", "reward", "dead"),
    [
        ((8, 5), NOOP, -1.0, True),  # falls on the player
        ((8, 5), LEFT, 0.1, False),  # the player has stepped aside
        ((9, 4), LEFT, -1.0, True),  # the player walks into it
        ((9, 4), NOOP, 0.1, False),  # it leaves through the floor
        ((7, 5), UP, -1.0, True),  # they meet on row 8
        ((8, 4), LEFT, -1.0, True),  # the player walks under it as it falls
    ],
)
def test_to_be_where_a_rock_is_costs_one_and_ends(
    rock: tuple[int, int], action: int, reward: float, dead: bool
) -> None:
    env = batch("Dodge", fall_rate=0.0)
    place(env, (9, 5), {rock: ROCK})
    assert play(env, action)[1:] == (reward, dead)


def test_rocks_fall_by_a_row_in_each_step_and_leave() -> None:
    env = batch("Dodge", fall_rate=0.0)
    place(env, (9, 5), {(0, 2): ROCK, (7, 3): ROCK, (9, 8): ROCK})
    seen = []
    for _ in range(3):
        play(env, NOOP)
        seen.append(cells_of(env, ROCK))
    assert seen == [[(1, 2), (8, 3)], [(2, 2), (9, 3)], [(3, 2)]]


def test_the_player_moves_over_the_whole_board_and_stops_at_its_border() -> None:
    env = batch("Dodge", fall_rate=0.0)
    place(env, (1, 1), {})
    assert path(env, [UP, UP, LEFT, LEFT, ACT]) == [(0, 1), (0, 1), (0, 0), (0, 0), (0, 0)]
    place(env, (8, 8), {})
    assert path(env, [DOWN, DOWN, RIGHT, RIGHT]) == [(9, 8), (9, 8), (9, 9), (9, 9)]


def test_starts_in_the_middle_below_rocks_in_the_upper_half() -> None:
    env = batch("Dodge", 200)
    env.reset()
    assert np.all(env.save_state()["player"] == (9, 5))
    assert share((board(env)[:, :5] == ROCK).sum(), 200 * 50, 0.12)
    assert not board(env)[:, 5:].any()


def test_fall_rate_is_the_share_of_new_rocks() -> None:
    env = batch("Dodge", 2_000, fall_rate=0.4)
    place(env, (9, 5), {})
    env.step(np.full(2_000, NOOP))
    assert share(board(env)[:, 0].sum(), 20_000, 0.4)
