"""Race: speed, slides, the winding road and the other cars, on states set up by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.game_states import batch, board, cells_of, place, play, share

from graft.envs.builtin.engine.game import ACT, DOWN, LEFT, NOOP, RIGHT, UP
from graft.envs.builtin.engine.state import WALL

CAR = 2
MIDDLE, SPEED, DRIFT = 0, 1, 2
QUIET = {"fall_rate": 0.0, "enemy_speed": 0.0}


def drive(column: int, things: dict[tuple[int, int], int], speed: int = 1, **options: Any) -> Any:
    """The player on a board without a verge, up to where new rows come in."""
    env = batch("Race", **{**QUIET, **options})
    place(env, (9 - speed, column), things, memo=(5, speed, 0))
    return env


def columns(env: Any, actions: list[int]) -> list[int]:
    return [play(env, action)[0][1] for action in actions]


def test_up_and_down_change_the_speed_between_one_and_three() -> None:
    env = batch("Race", **QUIET)
    speeds = []
    for action in [NOOP, UP, UP, UP, ACT, DOWN, DOWN, DOWN]:
        state = env.save_state()["memo"][0, SPEED] if speeds else 1
        place(env, (8, 5), {}, memo=(5, state, 0))  # an open road again
        _, reward, died = play(env, action)
        speeds.append(int(env.save_state()["memo"][0, SPEED]))
        assert reward == pytest.approx(0.04 * speeds[-1])
        assert not died
    assert speeds == [1, 2, 3, 3, 3, 2, 1, 1]


def test_speed_is_seen_in_the_players_row_and_a_slide_beside_it() -> None:
    env = drive(5, {})
    seen = []
    for action in [RIGHT, UP, LEFT, DOWN]:
        obs = env.step(np.array([action]))[0][0]
        seen.append([np.argwhere(obs[plane]).tolist() for plane in (0, 3)])
    assert seen == [
        [[[8, 6]], [[8, 7]]],
        [[[7, 7]], [[7, 8]]],
        [[[7, 7]], []],
        [[[8, 7]], []],
    ]


def test_a_slide_towards_the_border_is_not_seen_beyond_it() -> None:
    env = drive(1, {})
    obs = env.step(np.array([LEFT]))[0][0]
    assert not obs[3].any()


@pytest.mark.parametrize("speed", [1, 2, 3])
def test_the_road_comes_nearer_by_the_speed(speed: int) -> None:
    env = drive(5, {(2, 1): CAR}, speed)
    play(env, NOOP)
    assert cells_of(env, CAR) == [(2 + speed, 1)]


def test_with_momentum_a_slide_lasts_until_it_is_countered() -> None:
    env = drive(3, {})
    assert columns(env, [RIGHT, NOOP, NOOP, LEFT, NOOP, LEFT, NOOP]) == [4, 5, 6, 6, 6, 5, 4]


def test_without_momentum_each_move_is_one_cell() -> None:
    env = drive(3, {}, momentum=False)
    assert columns(env, [RIGHT, NOOP, RIGHT, LEFT, NOOP]) == [4, 4, 5, 4, 4]


def test_a_slide_is_one_cell_wide_at_most() -> None:
    env = drive(3, {})
    assert columns(env, [RIGHT, RIGHT, LEFT, NOOP]) == [4, 5, 5, 5]


def test_the_border_of_the_board_stops_the_player() -> None:
    assert columns(drive(1, {}), [LEFT, LEFT, LEFT]) == [0, 0, 0]
    assert columns(drive(8, {}), [RIGHT, RIGHT, RIGHT]) == [9, 9, 9]


@pytest.mark.parametrize("thing", [WALL, CAR])
def test_to_drive_into_something_costs_one_and_ends(thing: int) -> None:
    assert play(drive(5, {(7, 5): thing}), NOOP)[1:] == (-1.0, True)
    assert play(drive(5, {(8, 6): thing}), RIGHT)[1:] == (-1.0, True)
    assert play(drive(5, {(7, 6): thing}), NOOP)[1:] == (pytest.approx(0.04), False)


@pytest.mark.parametrize(("row", "rows_driven"), [(5, 0), (4, 1), (3, 2)])
def test_no_speed_jumps_over_a_car_and_rows_before_it_count(row: int, rows_driven: int) -> None:
    _, reward, died = play(drive(5, {(row, 5): CAR}, speed=3), NOOP)
    assert reward == pytest.approx(0.04 * rows_driven - 1.0)
    assert died


def test_cars_drive_on_in_a_share_of_the_steps() -> None:
    for speed in (0.0, 0.5, 1.0):
        env = batch("Race", 2_000, fall_rate=0.0, enemy_speed=speed)
        place(env, (8, 5), {(3, 2): CAR}, memo=(5, 1, 0))
        env.step(np.full(2_000, NOOP))
        cells = board(env) == CAR  # a row nearer by the road, and back where it drove on
        assert share(cells[:, 3, 2].sum(), 2_000, speed)
        assert np.all(cells[:, 3, 2] ^ cells[:, 4, 2])


def test_cars_stop_behind_others_and_at_the_verge() -> None:
    env = drive(5, {(3, 2): CAR, (2, 2): WALL, (5, 7): CAR, (4, 7): CAR, (3, 7): WALL}, enemy_speed=1.0)
    play(env, NOOP)
    assert cells_of(env, CAR) == [(4, 2), (5, 7), (6, 7)]


def test_a_car_that_is_faster_leaves_at_the_top() -> None:
    env = drive(5, {(0, 5): CAR}, enemy_speed=1.0)
    play(env, NOOP)
    assert cells_of(env, CAR) == [(0, 5)]
    state = env.save_state()
    state["cells"][0, 1:, :] = 0
    env.restore_state(state)
    play(env, NOOP)
    assert cells_of(env, CAR) == [(0, 5)]  # it keeps its distance from a player at speed one


def lanes(row: NDArray[Any]) -> tuple[int, int]:
    """(first column, width) of the road in a row, which may cross the border."""
    road = np.flatnonzero(row != WALL)
    first = [int(c) for c in road if row[(c - 1) % 10] == WALL]
    assert len(first) == 1  # in one piece
    return first[0], len(road)


@pytest.mark.parametrize("wrap", [False, True])
def test_the_road_is_five_wide_and_bends_by_at_most_one(wrap: bool) -> None:
    env = batch("Race", 100, wrap=wrap)
    env.reset()
    seams = 0
    for step in range(60):
        if step % 3 == 0:
            for cells in board(env):
                starts = [lanes(row) for row in cells]
                assert {width for _, width in starts} == {5}
                bends = {(upper - lower + 5) % 10 - 5 for (upper, _), (lower, _) in pairwise(starts)}
                assert bends <= {-1, 0, 1}
                assert wrap or all(first <= 5 for first, _ in starts)
                seams += any(first > 5 for first, _ in starts)
        env.step(np.random.default_rng(step).choice([NOOP, UP], 100))
    assert (seams > 0) == wrap


def test_begins_slowly_in_the_middle_of_an_empty_road() -> None:
    env = batch("Race", 500)
    env.reset()
    cells, state = board(env), env.save_state()
    assert not (cells == CAR).any()
    assert np.all(state["memo"][:, 1:] == (1, 0))
    for row, column in zip(cells[:, 8], state["player"][:, 1], strict=True):
        assert lanes(row)[0] == column - 2


def test_fall_rate_is_the_chance_of_a_car_in_a_row() -> None:
    env = batch("Race", 5_000, fall_rate=0.4, enemy_speed=0.0)
    place(env, (8, 5), {}, memo=(5, 1, 0))
    env.step(np.full(5_000, NOOP))
    cars = (board(env)[:, 0] == CAR).sum(axis=1)
    assert cars.max() == 1
    assert share(cars.sum(), 5_000, 0.4)


def test_truncated_after_200_steps() -> None:
    env = batch("Race", **QUIET)
    env.reset()
    for step in range(1, 201):
        state = env.save_state()
        state["player"][0, 1] = (lanes(state["cells"][0, 7])[0] + 2) % 10  # in the middle of the next row
        env.restore_state(state)
        _, _, terminated, truncated, _ = env.step(np.array([NOOP]))
        assert not terminated[0]
        assert truncated[0] == (step == 200)
