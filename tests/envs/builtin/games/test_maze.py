"""Maze: key, door and exit, on states set up by hand; and that every maze can be solved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.game_states import batch, board, cells_of, episode_length, path, place, play

from graft.envs.builtin.engine.game import ACT, DOWN, LEFT, NOOP, RIGHT, UP
from graft.envs.builtin.engine.state import EMPTY, WALL

DOOR, KEY, EXIT = 2, 3, 4
HOLDS = (1,)


def reached(cells: NDArray[Any], start: tuple[int, int], shut: set[int], wrap: bool) -> set[tuple[int, int]]:
    """Cells that can be walked to from ``start`` where those of ``shut`` stop the player, by breadth-first search."""
    found, edge = {start}, [start]
    while edge:
        row, column = edge.pop(0)
        for r, c in [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]:
            after = (r % 10, c % 10) if wrap else (r, c)
            if 0 <= after[0] < 10 and 0 <= after[1] < 10 and after not in found and cells[after] not in shut:
                found.add(after)
                edge.append(after)
    return found


def only(cells: NDArray[Any], code: int) -> tuple[int, int]:
    """The one cell that holds ``code``."""
    (where,) = np.argwhere(cells == code)
    return int(where[0]), int(where[1])


@pytest.mark.parametrize("wrap", [False, True])
def test_every_maze_can_be_solved_and_only_with_the_key(wrap: bool) -> None:
    env = batch("Maze", 500, wrap=wrap)
    env.reset()
    exits, seams = set(), 0
    for cells, player in zip(board(env), env.save_state()["player"], strict=True):
        start = (int(player[0]), int(player[1]))
        key, door, out = only(cells, KEY), only(cells, DOOR), only(cells, EXIT)
        assert cells[start] == EMPTY
        before = reached(cells, start, {WALL, DOOR}, wrap)
        assert key in before
        assert out not in before
        rest = {(int(r), int(c)) for r, c in np.argwhere(cells != WALL)}
        assert before == rest - {door, out}  # no room is closed off
        assert out in reached(cells, start, {WALL}, wrap)
        exits.add(out)
        open_ = cells != WALL
        seams += bool((open_[0] & open_[9]).any() or (open_[:, 0] & open_[:, 9]).any())
    assert len(exits) == 4  # in every corner
    assert seams > 400 if wrap else seams == 0


def test_the_player_walks_between_walls() -> None:
    env = batch("Maze")
    place(env, (0, 1), {(0, 2): WALL})
    assert path(env, [NOOP, ACT, UP, RIGHT, LEFT, LEFT, DOWN]) == [(0, 1)] * 4 + [(0, 0), (0, 0), (1, 0)]


def test_the_key_gives_a_half_once() -> None:
    env = batch("Maze")
    place(env, (5, 5), {(5, 6): KEY})
    assert play(env, RIGHT) == ([5, 6], 0.5, False)
    assert cells_of(env, KEY) == []
    assert [play(env, action)[1] for action in [LEFT, RIGHT]] == [0.0, 0.0]


def test_the_door_stops_who_has_no_key() -> None:
    env = batch("Maze")
    place(env, (5, 5), {(5, 6): DOOR}, memo=0)
    assert play(env, RIGHT) == ([5, 5], 0.0, False)
    assert cells_of(env, DOOR) == [(5, 6)]


def test_the_door_opens_to_the_key_and_gives_a_half_once() -> None:
    env = batch("Maze")
    place(env, (5, 5), {(5, 6): DOOR}, memo=HOLDS)
    assert play(env, RIGHT) == ([5, 6], 0.5, False)
    assert cells_of(env, DOOR) == []
    assert [play(env, action)[1] for action in [LEFT, RIGHT]] == [0.0, 0.0]


def test_the_exit_gives_one_and_leads_to_another_maze_without_a_key() -> None:
    env = batch("Maze")
    place(env, (5, 5), {(5, 6): EXIT}, memo=HOLDS)
    _, reward, died = play(env, RIGHT)
    assert (reward, died) == (1.0, False)
    assert [len(cells_of(env, code)) for code in (DOOR, KEY, EXIT)] == [1, 1, 1]
    assert env.save_state()["memo"][0, 0] == 0
    assert env.save_state()["clock"][0] == 1  # the episode goes on


def test_the_next_maze_is_one_of_the_numbered_levels_too() -> None:
    env = batch("Maze", 64, levels=[3, 5])
    first = {obs.tobytes() for obs in env.reset()[0]}
    place(env, (5, 5), {(5, 6): EXIT})
    following = [obs.tobytes() for obs in env.step(np.full(64, RIGHT))[0]]
    assert set(following) == first
    assert len(first) == 2


def test_truncated_after_200_steps() -> None:
    env = batch("Maze")
    env.reset()
    assert episode_length(env) == 200
