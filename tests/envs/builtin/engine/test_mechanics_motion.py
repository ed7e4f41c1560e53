"""Mechanics of motion, on states set up by hand: momentum, gravity, enemies, and wrap in each game that has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.game_states import batch, board, path, place, play, share

from graft.envs.builtin.engine.game import DOWN, GAMES, LEFT, NOOP, RIGHT, UP
from graft.envs.builtin.engine.state import COIN, HAZARD, WALL

NAMES = [game.removeprefix("Graft/").removesuffix("-v0") for game in GAMES]


@pytest.mark.parametrize("game", ["Gather", "Hunt"])
@pytest.mark.parametrize(
    ("actions", "column"),
    [
        ([RIGHT], 3),
        ([RIGHT, RIGHT], 5),
        ([RIGHT, RIGHT, RIGHT], 7),
        ([RIGHT, NOOP, RIGHT], 4),
        ([RIGHT, LEFT], 2),
        ([RIGHT, RIGHT, LEFT], 4),
    ],
)
def test_momentum_covers_two_cells_from_the_second_step(game: str, actions: list[int], column: int) -> None:
    env = batch(game, momentum=True, **({"enemy_speed": 0.0} if game == "Hunt" else {}))
    place(env, (5, 2), {})
    assert path(env, actions)[-1] == (5, column)


@pytest.mark.parametrize(
    ("thing", "column", "reward", "dead"), [(WALL, 3, 0.0, False), (HAZARD, 4, -1.0, True), (COIN, 4, 1.0, False)]
)
def test_momentum_stops_at_whatever_comes_first(thing: int, column: int, reward: float, dead: bool) -> None:
    env = batch("Gather", momentum=True)
    place(env, (5, 3), {(5, 4): thing}, last=RIGHT)
    after = play(env, RIGHT)
    assert after[1:] == (reward, dead)
    assert dead or after[0] == [5, column]


def test_momentum_stops_at_the_border_and_passes_it_under_wrap() -> None:
    for wrap, column in [(False, 9), (True, 0)]:
        env = batch("Gather", momentum=True, wrap=wrap)
        place(env, (5, 8), {}, last=RIGHT)
        assert play(env, RIGHT)[0] == [5, column]


@pytest.mark.parametrize("game", ["Gather", "Hunt"])
@pytest.mark.parametrize(("direction", "end"), [("down", [6, 5]), ("up", [4, 5]), ("left", [5, 4]), ("right", [5, 6])])
def test_gravity_pulls_where_it_is_told_to(game: str, direction: str, end: list[int]) -> None:
    env = batch(game, gravity=1.0, gravity_direction=direction, **({"enemy_speed": 0.0} if game == "Hunt" else {}))
    place(env, (5, 5), {})
    assert play(env, NOOP)[0] == end


def test_gravity_pulls_in_its_share_of_the_steps() -> None:
    env = batch("Gather", 10_000, gravity=0.4)
    place(env, (5, 5), {})
    env.step(np.full(10_000, RIGHT))
    after = env.save_state()["player"]
    assert np.all(after[:, 1] == 6)
    assert share((after[:, 0] == 6).sum(), 10_000, 0.4)


@pytest.mark.parametrize(
    ("cells", "action", "after"),
    [
        ({(6, 6): WALL}, RIGHT, ([5, 6], 0.0, False)),  # a wall carries
        ({(6, 6): COIN}, RIGHT, ([6, 6], 1.0, False)),  # a coin is caught in the fall
        ({(5, 6): COIN}, RIGHT, ([5, 6], 1.0, False)),  # what is come by first counts
        ({(5, 6): COIN, (6, 6): HAZARD}, RIGHT, ([5, 6], 1.0, False)),
        ({}, UP, ([5, 5], 0.0, False)),
    ],
)
def test_gravity_meets_things(cells: dict[tuple[int, int], int], action: int, after: Any) -> None:
    env = batch("Gather", gravity=1.0)
    place(env, (5, 5), cells)
    assert play(env, action) == after


def test_gravity_pulls_into_hazards_and_stops_at_the_border() -> None:
    env = batch("Gather", gravity=1.0)
    place(env, (5, 5), {(6, 5): HAZARD})
    assert play(env, NOOP)[1:] == (-1.0, True)
    place(env, (9, 5), {})
    assert play(env, NOOP)[0] == [9, 5]


# Enemies


def enemies(env: Any) -> list[tuple[int, int]]:
    """Where the enemies of environment 0 stand, each once."""
    return sorted({(int(r), int(c)) for r, c in env.save_state()["movers"][0, :, :2]})


@pytest.mark.parametrize(
    ("start", "wall", "columns"),
    [
        ((5, 6, RIGHT), (9, 9), [7, 8, 9, 9, 8, 7]),  # the border
        ((5, 6, RIGHT), (5, 9), [7, 8, 8, 7, 6, 5]),  # a wall
        ((5, 2, LEFT), (9, 9), [1, 0, 0, 1, 2, 3]),
    ],
)
def test_an_enemy_on_patrol_goes_straight_and_turns_round(
    start: tuple[int, int, int], wall: tuple[int, int], columns: list[int]
) -> None:
    env = batch("Hunt", enemy_speed=1.0, enemy_behaviour="patrol")
    place(env, (0, 0), {wall: WALL}, movers=start)
    seen = []
    for _ in columns:
        play(env, NOOP)
        seen += enemies(env)
    assert seen == [(5, column) for column in columns]


def test_an_enemy_on_patrol_between_two_walls_stays_and_starts_in_any_direction() -> None:
    env = batch("Hunt", 1_000, enemy_speed=1.0, enemy_behaviour="patrol")
    place(env, (0, 0), {(5, 4): WALL, (5, 6): WALL}, movers=(5, 5, RIGHT))
    for _ in range(4):
        play(env, NOOP)
    assert enemies(env) == [(5, 5)]
    place(env, (0, 0), {}, movers=(5, 5, 0))
    env.step(np.full(1_000, NOOP))
    for direction in (UP, DOWN, LEFT, RIGHT):
        assert share((env.save_state()["movers"][..., 2] == direction).sum(), 5_000, 0.25)


def test_an_enemy_that_chases_always_approaches_on_an_open_board() -> None:
    env = batch("Hunt", 500, enemy_speed=1.0, enemy_behaviour="chase")
    env.reset()
    state = env.save_state()
    state["cells"][:] = 0
    env.restore_state(state)
    before = np.abs(state["movers"][..., :2] - state["player"][:, None]).sum(axis=2)
    alive = ~env.step(np.full(500, NOOP))[2]
    state = env.save_state()
    after = np.abs(state["movers"][..., :2] - state["player"][:, None]).sum(axis=2)
    assert alive.all()  # none begins within a step
    np.testing.assert_array_equal(after, before - 1)


def test_an_enemy_that_chases_closes_the_longer_side_first() -> None:
    env = batch("Hunt", enemy_speed=1.0, enemy_behaviour="chase")
    place(env, (5, 2), {}, movers=(3, 8, 0))
    seen = []
    for _ in range(6):
        play(env, NOOP)
        seen += enemies(env)
    assert seen == [(3, 7), (3, 6), (3, 5), (3, 4), (4, 4), (4, 3)]


def test_a_random_enemy_wanders_evenly_as_a_mixed_one_that_never_chases() -> None:
    for options in ({"enemy_behaviour": "random", "chase": 1.0}, {"enemy_behaviour": "mixed", "chase": 0.0}):
        env = batch("Hunt", 1_000, enemy_speed=1.0, **options)
        place(env, (5, 2), {}, movers=(5, 7, 0))
        env.step(np.full(1_000, NOOP))
        movers = list(map(tuple, env.save_state()["movers"][..., :2].reshape(-1, 2).tolist()))
        for cell in [(4, 7), (6, 7), (5, 6), (5, 8)]:
            assert share(movers.count(cell), 5_000, 0.25)


def test_a_mixed_enemy_comes_towards_the_player_by_chance() -> None:
    env = batch("Hunt", 2_000, enemy_speed=1.0, chase=0.4)
    place(env, (5, 2), {}, movers=(5, 8, 0))
    env.step(np.full(2_000, NOOP))
    nearer = (env.save_state()["movers"][..., 1] == 7).sum()
    assert share(nearer, 10_000, 0.4 + 0.6 / 4)


def test_enemies_cross_the_border_under_wrap() -> None:
    env = batch("Hunt", enemy_speed=1.0, enemy_behaviour="patrol", wrap=True)
    place(env, (0, 0), {}, movers=(5, 9, RIGHT))
    play(env, NOOP)
    assert enemies(env) == [(5, 0)]


# The border

EDGES = [((0, 5), UP, [9, 5]), ((9, 5), DOWN, [0, 5]), ((5, 0), LEFT, [5, 9]), ((5, 9), RIGHT, [5, 0])]
LEDGES = {(9, column): 1 for column in range(10)}  # the ground of Platform, and nothing elsewhere
SIDES = {"Platform": (8, LEDGES), "Race": (8, {}), "Shoot": (9, {})}
ACROSS = [
    (game, (row, start), action, [row, end])
    for game, (row, _) in SIDES.items()
    for start, action, end in [(0, LEFT, 9), (9, RIGHT, 0)]
]
FREE = ["Dodge", "Gather", "Hunt", "Maze"]


def test_every_game_with_wrap_is_tried() -> None:
    assert {*FREE, *SIDES, "Snake", "Generated"} == {  # the last in a file of its own
        n for n, game in zip(NAMES, GAMES, strict=True) if "wrap" in GAMES[game].mechanics
    }


@pytest.mark.parametrize(
    ("game", "start", "action", "end"), [*((game, *edge) for game in FREE for edge in EDGES), *ACROSS]
)
def test_wrap_joins_opposite_borders(game: str, start: tuple[int, int], action: int, end: list[int]) -> None:
    for wrap, after in [(False, list(start)), (True, end)]:
        env = batch(game, wrap=wrap)
        place(env, start, SIDES[game][1] if game in SIDES else {})
        assert play(env, action)[0] == after


@pytest.mark.parametrize(("start", "action", "end"), EDGES)
def test_wrap_saves_the_snake_from_the_border(start: tuple[int, int], action: int, end: list[int]) -> None:
    for wrap in (False, True):
        env = batch("Snake", wrap=wrap)
        memo = np.zeros(102, np.int64)
        memo[100:] = action, 3
        place(env, start, {}, memo=memo)
        after = play(env, NOOP)
        assert after[1:] == ((0.0, False) if wrap else (-1.0, True))
        assert after[0] == end or not wrap
    assert board(env)[0][start] == 1  # its body


def test_wrap_lets_the_player_walk_round_a_row_of_gather() -> None:
    env = batch("Gather", wrap=True)
    place(env, (5, 5), {})
    assert [column for _, column in path(env, [RIGHT] * 10)] == [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]
