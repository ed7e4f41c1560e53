"""Platform: running, jumping and falling among ledges, coins and spikes, on states set up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.game_states import batch, board, cells_of, episode_length, path, place, play, share

from graft.envs.builtin.engine.game import ACT, DOWN, LEFT, NOOP, RIGHT, UP

LEDGE, HAZARD, COIN = 1, 2, 3
GROUND = {(9, column): LEDGE for column in range(10)}


def stand(player: tuple[int, int], things: dict[tuple[int, int], int], **options: Any) -> Any:
    """The player on a board with a ground and ``things``; spikes and coins only where a test puts them."""
    env = batch("Platform", **options)
    place(env, player, GROUND | things, memo=0)
    return env


def test_the_player_runs_on_the_ground_and_stops_at_the_border() -> None:
    env = stand((8, 1), {})
    assert path(env, [NOOP, ACT, DOWN, LEFT, LEFT]) == [(8, 1)] * 3 + [(8, 0), (8, 0)]
    env = stand((8, 8), {})
    assert path(env, [RIGHT, RIGHT]) == [(8, 9), (8, 9)]


def test_a_jump_rises_by_three_cells_and_falls_back() -> None:
    env = stand((8, 5), {})
    assert [row for row, _ in path(env, [UP, *[NOOP] * 6])] == [7, 6, 5, 6, 7, 8, 8]


def test_it_is_seen_that_a_jump_rises() -> None:
    env = stand((8, 5), {})
    rising = [np.argwhere(env.step(np.array([action]))[0][0, 4]).tolist() for action in [UP, *[NOOP] * 3]]
    assert rising == [[[6, 5]], [[5, 5]], [], []]


def test_there_is_no_jump_from_the_air() -> None:
    env = stand((8, 5), {})
    assert [row for row, _ in path(env, [UP] * 8)] == [7, 6, 5, 6, 7, 8, 7, 6]


def test_a_jump_goes_sideways_over_spikes() -> None:
    env = stand((8, 3), {(8, 4): HAZARD, (8, 5): HAZARD})
    assert path(env, [UP, RIGHT, RIGHT, RIGHT, NOOP, NOOP]) == [(7, 3), (6, 4), (5, 5), (6, 6), (7, 6), (8, 6)]


def test_a_ledge_overhead_ends_a_jump() -> None:
    env = stand((8, 5), {(6, 5): LEDGE})
    assert [row for row, _ in path(env, [UP, NOOP, NOOP, NOOP])] == [7, 7, 8, 8]


def test_the_top_of_the_board_ends_a_jump() -> None:
    env = stand((1, 5), {(2, 5): LEDGE})
    assert [row for row, _ in path(env, [UP, NOOP, NOOP, NOOP])] == [0, 0, 1, 1]


def test_a_jump_ends_upon_a_ledge_beside() -> None:
    env = stand((8, 4), {(7, 5): LEDGE, (7, 6): LEDGE})
    assert path(env, [UP, NOOP, RIGHT, NOOP, NOOP, RIGHT]) == [(7, 4), (6, 4), (5, 5), (6, 5), (6, 5), (6, 6)]


def test_ledges_stop_a_run() -> None:
    env = stand((8, 4), {(8, 5): LEDGE, (8, 3): LEDGE})
    assert path(env, [RIGHT, LEFT]) == [(8, 4), (8, 4)]


def test_who_runs_off_a_ledge_falls() -> None:
    env = stand((6, 5), {(7, 5): LEDGE})
    assert path(env, [LEFT, NOOP, NOOP]) == [(7, 4), (8, 4), (8, 4)]


@pytest.mark.parametrize(
    ("coin", "actions"), [((8, 6), [RIGHT]), ((7, 5), [UP]), ((6, 5), [UP, NOOP]), ((5, 5), [UP, NOOP, NOOP])]
)
def test_a_coin_gives_one_and_appears_above_a_ledge(coin: tuple[int, int], actions: list[int]) -> None:
    env = stand((8, 5), {coin: COIN})
    assert [play(env, action)[1:] for action in actions] == [(0.0, False)] * (len(actions) - 1) + [(1.0, False)]
    ((row, column),) = cells_of(env, COIN)
    assert (row, column) != coin
    assert board(env)[0, row + 1, column] == LEDGE


def test_two_coins_in_a_step_give_two() -> None:
    env = stand((6, 5), {(7, 5): LEDGE, (6, 6): COIN, (7, 6): COIN})
    assert play(env, RIGHT) == ([7, 6], 2.0, False)
    assert len(cells_of(env, COIN)) == 2


@pytest.mark.parametrize(
    ("player", "spikes", "action"), [((8, 5), (8, 6), RIGHT), ((7, 5), (8, 5), NOOP), ((7, 5), (8, 6), RIGHT)]
)
def test_spikes_cost_one_and_end(player: tuple[int, int], spikes: tuple[int, int], action: int) -> None:
    env = stand(player, {spikes: HAZARD})
    assert play(env, action)[1:] == (-1.0, True)


def test_a_coin_on_the_way_to_spikes_counts() -> None:
    env = stand((6, 5), {(7, 5): LEDGE, (6, 6): COIN, (7, 6): HAZARD})
    assert play(env, RIGHT)[1:] == (0.0, True)


def test_momentum_runs_two_cells_and_stops_at_ledges() -> None:
    env = stand((8, 1), {(8, 6): LEDGE}, momentum=True)
    assert [column for _, column in path(env, [RIGHT, RIGHT, RIGHT, LEFT, LEFT])] == [2, 4, 5, 4, 2]


def test_momentum_takes_every_coin_on_its_way() -> None:
    env = stand((8, 1), {(8, 2): COIN, (8, 3): COIN}, momentum=True)
    state = env.save_state()
    state["last"][:] = RIGHT
    env.restore_state(state)
    assert play(env, RIGHT) == ([8, 3], 2.0, False)


def test_gravity_is_the_share_of_steps_in_which_the_player_falls() -> None:
    env = batch("Platform", 10_000, gravity=0.3)
    place(env, (4, 5), GROUND, memo=0)
    env.step(np.full(10_000, NOOP))
    rows = env.save_state()["player"][:, 0]
    assert set(rows.tolist()) == {4, 5}
    assert share((rows == 5).sum(), 10_000, 0.3)


def test_gravity_does_not_pull_through_ledges() -> None:
    env = stand((8, 5), {}, gravity=1.0)
    assert path(env, [NOOP] * 3) == [(8, 5)] * 3


@pytest.mark.parametrize(("density", "spikes"), [(0.0, 0), (0.03, 3), (0.25, None)])
def test_coins_and_spikes_are_above_ledges_and_away_from_the_player(density: float, spikes: int | None) -> None:
    env = batch("Platform", 500, hazard_density=density)
    env.reset()
    cells, players = board(env), env.save_state()["player"]
    assert np.all((cells == COIN).sum(axis=(1, 2)) == 3)
    found = (cells == HAZARD).sum(axis=(1, 2))
    assert np.all(found == spikes) if spikes is not None else found.min() >= 4
    for code in (COIN, HAZARD):
        where, rows, columns = np.nonzero(cells == code)
        assert np.all(cells[where, rows + 1, columns] == LEDGE)
        away = np.abs(rows - players[where, 0]) + np.abs(columns - players[where, 1])
        assert away.min(initial=9) >= 2
    assert np.all(players[:, 0] == 8)


def test_in_play_every_coin_is_above_a_ledge_and_there_are_always_three() -> None:
    env = batch("Platform", 64, hazard_density=0.0)
    env.reset()
    actions = np.random.default_rng(0).integers(0, 6, (200, 64))
    earned = sum(env.step(row)[1].sum() for row in actions)
    cells = board(env)
    where, rows, columns = np.nonzero(cells == COIN)
    assert np.all(cells[where, rows + 1, columns] == LEDGE)
    np.testing.assert_array_equal(np.bincount(where, minlength=64), np.full(64, 3))
    assert earned > 64


def test_ledges_are_the_ground_and_three_storeys() -> None:
    env = batch("Platform", 500)
    env.reset()
    ledges = board(env) == LEDGE
    assert ledges[:, 9].all()
    assert not ledges[:, [0, 1, 2, 4, 6, 8]].any()
    across = ledges[:, [3, 5, 7]].sum(axis=2)
    assert across.min() >= 1
    assert across.max() <= 8  # so each storey can be passed


def test_truncated_after_200_steps() -> None:
    assert episode_length(stand((8, 5), {})) == 200
