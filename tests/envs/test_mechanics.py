"""Every rule and mechanic of the built-in games, on states set up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import envs
from envs import Task
from envs.engine.game import GAMES
from envs.engine.state import COIN, HAZARD, WALL

GAME_IDS = list(GAMES)
NOOP, UP, DOWN, LEFT, RIGHT, ACT = range(6)
ROCK = 1


def batch(game: str, num_envs: int = 1, seed: int = 0, **mechanics: Any) -> Any:
    return envs.make(Task(f"Graft/{game}-v0", mechanics), num_envs, seed)


def place(env: Any, player: tuple[int, int], cells: dict[tuple[int, int], int], **fields: Any) -> None:
    """Put every environment into one state: an otherwise empty board, enemies out of the way in a corner."""
    env.reset()
    state = env.save_state()
    state["cells"][:] = 0
    state["movers"][:] = 9
    state["player"][:] = player
    for (row, column), code in cells.items():
        state["cells"][:, row, column] = code
    for name, value in fields.items():
        state[name][:] = value
    env.restore_state(state)


def play(env: Any, action: int) -> tuple[list[int], float, bool]:
    """One step of environment 0: where the player then stands, the reward and whether it died."""
    _, rewards, terminated, _, _ = env.step(np.full(env.num_envs, action))
    return env.save_state()["player"][0].tolist(), float(rewards[0]), bool(terminated[0])


@pytest.mark.parametrize(
    ("action", "end"), [(NOOP, [5, 5]), (UP, [4, 5]), (DOWN, [6, 5]), (LEFT, [5, 4]), (RIGHT, [5, 6]), (ACT, [5, 5])]
)
def test_actions_move_the_player(action: int, end: list[int]) -> None:
    env = batch("Gather")
    place(env, (5, 5), {})
    assert play(env, action) == (end, 0.0, False)


def test_walls_stop_the_player() -> None:
    env = batch("Gather")
    place(env, (5, 5), {(4, 5): WALL})
    assert play(env, UP) == ([5, 5], 0.0, False)


@pytest.mark.parametrize(
    ("action", "end"), [(UP, [6, 5]), (DOWN, [4, 5]), (LEFT, [5, 6]), (RIGHT, [5, 4]), (ACT, [5, 5])]
)
def test_invert_mirrors_the_controls(action: int, end: list[int]) -> None:
    env = batch("Gather", invert=True)
    place(env, (5, 5), {})
    assert play(env, action)[0] == end


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [((0, 5), UP, [9, 5]), ((9, 5), DOWN, [0, 5]), ((5, 0), LEFT, [5, 9]), ((5, 9), RIGHT, [5, 0])],
)
def test_wrap_joins_opposite_borders(start: tuple[int, int], action: int, end: list[int]) -> None:
    bordered, wrapped = batch("Gather"), batch("Gather", wrap=True)
    place(bordered, start, {})
    place(wrapped, start, {})
    assert play(bordered, action)[0] == list(start)
    assert play(wrapped, action)[0] == end


def test_slip_one_repeats_the_last_move_for_ever() -> None:
    env = batch("Gather", slip=1.0)
    place(env, (5, 5), {}, last=RIGHT)
    assert play(env, UP)[0] == [5, 6]
    assert play(env, DOWN)[0] == [5, 7]
    env.reset()
    before = env.save_state()["player"][0].tolist()
    assert play(env, UP)[0] == before  # a fresh episode has no last move to repeat


def test_slip_repeats_in_its_share_of_the_steps() -> None:
    env = batch("Gather", 10_000, slip=0.3)
    place(env, (5, 5), {}, last=RIGHT)
    env.step(np.full(10_000, LEFT))
    slipped = np.mean(env.save_state()["player"][:, 1] == 6)
    assert slipped == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 10_000))


@pytest.mark.parametrize("game", GAME_IDS)
def test_slip_and_invert_leave_the_levels_alone(game: str) -> None:
    plain = envs.make(Task(game), 4, 0).reset()[0]
    changed = envs.make(Task(game, {"slip": 0.9, "invert": True}), 4, 0).reset()[0]
    np.testing.assert_array_equal(plain, changed)


@pytest.mark.parametrize(("density", "hazards"), [(0.0, 0), (0.06, 6), (0.25, 25)])
def test_gather_lays_out_its_share_of_each_kind(density: float, hazards: int) -> None:
    obs, _ = batch("Gather", 32, hazard_density=density).reset()
    counts = obs.sum(axis=(2, 3))
    np.testing.assert_array_equal(counts, np.tile([1, 12, hazards, 7], (32, 1)))


def test_gather_coin_gives_one_and_appears_elsewhere() -> None:
    env = batch("Gather")
    place(env, (5, 5), {(5, 6): COIN})
    assert play(env, RIGHT) == ([5, 6], 1.0, False)
    coins = np.argwhere(env.save_state()["cells"][0] == COIN).tolist()
    assert len(coins) == 1
    assert coins != [[5, 6]]


def test_gather_hazard_costs_one_and_ends() -> None:
    env = batch("Gather")
    place(env, (5, 5), {(5, 6): HAZARD})
    assert play(env, RIGHT)[1:] == (-1.0, True)


def test_dodge_without_rocks_is_truncated_after_200_steps_with_return_20() -> None:
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
    ],
)
def test_dodge_rocks(rock: tuple[int, int], action: int, reward: float, dead: bool) -> None:
    env = batch("Dodge", fall_rate=0.0)
    place(env, (9, 5), {rock: ROCK})
    assert play(env, action)[1:] == (reward, dead)


def test_dodge_fall_rate_is_the_share_of_new_rocks() -> None:
    env = batch("Dodge", 2_000, fall_rate=0.4)
    place(env, (9, 5), {})
    env.step(np.full(2_000, NOOP))
    share = env.save_state()["cells"][:, 0].mean()
    assert share == pytest.approx(0.4, abs=4 * np.sqrt(0.4 * 0.6 / 20_000))


def test_hunt_touch_costs_one_and_ends() -> None:
    env = batch("Hunt")
    place(env, (5, 5), {}, movers=(5, 6, 0))
    assert play(env, RIGHT)[1:] == (-1.0, True)


def test_hunt_enemies_start_at_a_distance_and_off_the_walls() -> None:
    env = batch("Hunt", 256)
    env.reset()
    state = env.save_state()
    distance = np.abs(state["movers"][..., :2] - state["player"][:, None]).sum(axis=2)
    assert distance.min() >= 3
    on = state["cells"][np.arange(256)[:, None], state["movers"][..., 0], state["movers"][..., 1]]
    assert not (on == WALL).any()


def test_hunt_chase_one_comes_straight_in_half_of_the_steps() -> None:
    env = batch("Hunt", 1_000, chase=1.0)
    place(env, (5, 2), {}, movers=(5, 8, 0))
    env.step(np.full(1_000, NOOP))
    movers = env.save_state()["movers"][..., :2].reshape(-1, 2)
    assert set(map(tuple, movers.tolist())) == {(5, 8), (5, 7)}
    assert np.mean(movers[:, 1] == 7) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 5_000))


def test_hunt_chase_zero_wanders_evenly() -> None:
    env = batch("Hunt", 1_000, chase=0.0)
    place(env, (5, 2), {}, movers=(5, 7, 0))
    env.step(np.full(1_000, NOOP))
    movers = list(map(tuple, env.save_state()["movers"][..., :2].reshape(-1, 2).tolist()))
    for cell in [(4, 7), (6, 7), (5, 6), (5, 8)]:
        assert movers.count(cell) / 5_000 == pytest.approx(0.125, abs=4 * np.sqrt(0.125 * 0.875 / 5_000))
