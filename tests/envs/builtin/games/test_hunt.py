"""Hunt: coins, walls and roaming enemies, on states set up by hand."""

from __future__ import annotations

import numpy as np
from support.game_states import batch, board, cells_of, episode_length, place, play, share

from graft.envs.builtin.engine.game import DOWN, NOOP, RIGHT
from graft.envs.builtin.engine.state import COIN, WALL

STILL = {"enemy_speed": 0.0}
CHASING = {"enemy_speed": 1.0, "enemy_behaviour": "chase"}


def test_touching_an_enemy_costs_one_and_ends() -> None:
    env = batch("Hunt", **STILL)
    place(env, (5, 5), {}, movers=(5, 6, 0))
    assert play(env, RIGHT)[1:] == (-1.0, True)


def test_an_enemy_that_comes_to_the_player_costs_one_and_ends() -> None:
    env = batch("Hunt", **CHASING)
    place(env, (5, 5), {}, movers=(5, 7, 0))
    assert play(env, NOOP) == ([5, 5], 0.0, False)
    assert play(env, NOOP)[1:] == (-1.0, True)


def test_players_and_enemies_do_not_change_places_unharmed() -> None:
    env = batch("Hunt", **CHASING)
    place(env, (5, 5), {}, movers=(5, 6, 0))
    assert play(env, RIGHT)[1:] == (-1.0, True)


def test_a_coin_gives_one_and_appears_elsewhere() -> None:
    env = batch("Hunt", 64, **STILL)
    place(env, (5, 5), {(5, 6): COIN})
    assert play(env, RIGHT) == ([5, 6], 1.0, False)
    assert np.all((board(env) == COIN).sum(axis=(1, 2)) == 1)
    assert not board(env)[:, 5, 6].any()


def test_a_coin_beside_an_enemy_still_counts() -> None:
    env = batch("Hunt", **CHASING)
    place(env, (5, 5), {(5, 6): COIN}, movers=(5, 7, 0))
    assert play(env, RIGHT)[1:] == (0.0, True)  # 1 for the coin, then the touch


def test_a_coin_under_an_enemy_does_not() -> None:
    env = batch("Hunt", **STILL)
    place(env, (5, 5), {(5, 6): COIN}, movers=(5, 6, 0))
    assert play(env, RIGHT)[1:] == (-1.0, True)


def test_walls_stop_player_and_enemies() -> None:
    env = batch("Hunt", **CHASING)
    place(env, (5, 5), {(5, 6): WALL}, movers=(5, 7, 0))
    assert play(env, RIGHT) == ([5, 5], 0.0, False)
    assert np.all(env.save_state()["movers"][0, :, :2] == (5, 7))
    assert cells_of(env, WALL) == [(5, 6)]


def test_enemies_walk_over_coins_and_leave_them() -> None:
    env = batch("Hunt", **CHASING)
    place(env, (5, 2), {(5, 7): COIN}, movers=(5, 8, 0))
    play(env, NOOP)
    assert np.all(env.save_state()["movers"][0, :, :2] == (5, 7))
    play(env, NOOP)
    assert cells_of(env, COIN) == [(5, 7)]


def test_momentum_and_gravity_do_not_carry_the_player_past_an_enemy() -> None:
    env = batch("Hunt", momentum=True, **STILL)
    place(env, (5, 5), {}, movers=(5, 6, 0), last=RIGHT)
    assert play(env, RIGHT)[1:] == (-1.0, True)
    env = batch("Hunt", gravity=1.0, **STILL)
    place(env, (5, 5), {}, movers=(6, 5, 0))
    assert play(env, DOWN)[1:] == (-1.0, True)
    assert not (board(env) > COIN).any()


def test_begins_with_five_enemies_at_a_distance_and_off_the_walls() -> None:
    env = batch("Hunt", 256)
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs[:, [0, 1, 3]].sum(axis=(2, 3)), np.tile([1, 12, 7], (256, 1)))
    state = env.save_state()
    assert state["movers"].shape == (256, 5, 3)
    assert np.abs(state["movers"][..., :2] - state["player"][:, None]).sum(axis=2).min() >= 3
    on = state["cells"][np.arange(256)[:, None], state["movers"][..., 0], state["movers"][..., 1]]
    assert not (on == WALL).any()
    for shown, movers in zip(obs[:, 2], state["movers"], strict=True):
        np.testing.assert_array_equal(np.argwhere(shown), np.unique(movers[:, :2], axis=0))


def test_enemy_speed_is_the_share_of_steps_in_which_an_enemy_moves() -> None:
    for speed in (0.0, 0.5, 0.8, 1.0):
        env = batch("Hunt", 1_000, enemy_speed=speed, enemy_behaviour="random")
        place(env, (0, 0), {}, movers=(5, 7, 0))
        env.step(np.full(1_000, NOOP))
        moved = (env.save_state()["movers"][..., :2] != (5, 7)).any(axis=2).sum()
        assert share(moved, 5_000, speed)


def test_truncated_after_200_steps() -> None:
    env = batch("Hunt", **STILL)
    place(env, (5, 5), {})
    assert episode_length(env) == 200
