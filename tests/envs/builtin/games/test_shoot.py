"""Shoot: falling targets, shots and the ground, on states set up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.game_states import batch, board, cells_of, episode_length, path, place, play, share

from graft.envs.builtin.engine.game import ACT, DOWN, LEFT, NOOP, RIGHT, UP

TARGET, SHOT = 1, 2
STANDS, FALLS = 0, 1
"""Clocks from which, at the next step, targets stay where they are, and fall."""


def gun(player: int, targets: list[tuple[int, int]], clock: int = STANDS, **options: Any) -> Any:
    env = batch("Shoot", **{"fall_rate": 0.0, **options})
    place(env, (9, player), dict.fromkeys(targets, TARGET), clock=clock)
    return env


@pytest.mark.parametrize("clock", [STANDS, FALLS])
@pytest.mark.parametrize("speed", [1, 2, 3, 4])
def test_a_shot_hits_the_target_above_at_any_height_and_speed(speed: int, clock: int) -> None:
    env = batch("Shoot", 9, fall_rate=0.0, projectile_speed=speed)
    place(env, (9, 5), {}, clock=clock)
    state = env.save_state()
    for row in range(9):
        state["cells"][row, row, 5] = TARGET
    env.restore_state(state)
    hits = env.step(np.full(9, ACT))[1].copy()
    for _ in range(9):
        hits += env.step(np.full(9, NOOP))[1]
    np.testing.assert_array_equal(hits, np.ones(9))
    assert not board(env).any()


@pytest.mark.parametrize(("speed", "rows"), [(1, [8, 7, 6, 5]), (2, [8, 6, 4, 2]), (3, [8, 5, 2]), (4, [8, 4, 0])])
def test_a_shot_rises_by_its_speed_in_its_column(speed: int, rows: list[int]) -> None:
    env = gun(5, [], projectile_speed=speed)
    seen = []
    for action in [ACT, LEFT, LEFT, LEFT][: len(rows)]:
        play(env, action)
        seen += cells_of(env, SHOT)
    assert seen == [(row, 5) for row in rows]


def test_a_shot_leaves_at_the_top() -> None:
    env = gun(5, [], projectile_speed=4)
    for action in [ACT, NOOP, NOOP, NOOP]:
        assert play(env, action)[1:] == (0.0, False)
    assert not board(env).any()


def test_a_shot_hits_one_target_only() -> None:
    env = gun(5, [(7, 5), (6, 5)], projectile_speed=4)
    assert play(env, ACT)[1] == 0.0
    assert play(env, NOOP)[1] == 1.0
    assert cells_of(env, TARGET) == [(7, 5)]  # the upper one, a row lower: the step was one in which targets fall
    assert cells_of(env, SHOT) == []


def test_the_gun_reloads_in_two_steps() -> None:
    env = gun(5, [], projectile_speed=1)
    shots = []
    for _ in range(6):
        play(env, ACT)
        shots.append(len(cells_of(env, SHOT)))
    assert shots == [1, 1, 2, 2, 3, 3]


def test_a_target_falls_into_a_shot() -> None:
    env = gun(5, [(7, 5)], clock=FALLS, projectile_speed=1)
    assert play(env, ACT)[1] == 1.0
    assert not board(env).any()


def test_targets_fall_in_every_second_step() -> None:
    env = gun(5, [(0, 2), (4, 2)])
    seen = []
    for _ in range(4):
        play(env, NOOP)
        seen.append([row for row, _ in cells_of(env, TARGET)])
    assert seen == [[0, 4], [1, 5], [1, 5], [2, 6]]


def test_a_target_that_has_landed_costs_a_half_as_it_goes() -> None:
    env = gun(5, [(8, 2), (8, 7)])
    assert [play(env, NOOP)[1:] for _ in range(4)] == [(0.0, False), (0.0, False), (0.0, False), (-1.0, False)]
    assert not board(env).any()


def test_a_target_that_lands_on_the_player_costs_one_and_ends() -> None:
    env = gun(5, [(8, 5)], clock=FALLS)
    assert play(env, NOOP)[1:] == (-1.0, True)


def test_walking_into_a_target_that_has_landed_costs_one_and_ends() -> None:
    env = gun(5, [(9, 4)])
    assert play(env, LEFT)[1:] == (-1.0, True)


def test_a_hit_counts_even_in_the_last_step() -> None:
    env = gun(5, [(8, 5), (8, 4)], clock=FALLS)
    state = env.save_state()
    state["cells"][:, 2, 0], state["cells"][:, 1, 0] = SHOT, TARGET
    env.restore_state(state)
    assert play(env, LEFT)[1:] == (0.0, True)  # 1 for the hit far left, -1 for the target that lands on the player


def test_the_player_keeps_to_the_ground_and_stops_at_the_border() -> None:
    env = gun(1, [])
    assert path(env, [UP, DOWN, LEFT, LEFT]) == [(9, 1), (9, 1), (9, 0), (9, 0)]
    env = gun(8, [])
    assert path(env, [RIGHT, RIGHT]) == [(9, 9), (9, 9)]


def test_begins_with_a_target_in_each_row_of_the_upper_half() -> None:
    env = batch("Shoot", 100)
    env.reset()
    assert np.all(env.save_state()["player"] == (9, 5))
    assert np.all((board(env)[:, :5] == TARGET).sum(axis=2) == 1)
    assert not board(env)[:, 5:].any()


def test_fall_rate_is_the_share_of_columns_that_a_target_enters_as_targets_fall() -> None:
    env = batch("Shoot", 2_000, fall_rate=0.3)
    place(env, (9, 5), {}, clock=STANDS)
    env.step(np.full(2_000, NOOP))
    assert not board(env).any()
    env.step(np.full(2_000, NOOP))
    assert share((board(env)[:, 0] == TARGET).sum(), 20_000, 0.3)


def test_truncated_after_200_steps() -> None:
    assert episode_length(gun(5, [])) == 200
