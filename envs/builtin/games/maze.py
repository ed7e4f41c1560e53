"""Maze: fetch the key, open the door, reach the exit; then there is another maze."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.game import GAMES, Game, measured
from graft.envs.builtin.engine.state import (
    EMPTY,
    SIZE,
    WALL,
    State,
    below,
    enter_level,
    neighbour,
    paint_cells,
    uniform,
)

DOOR, KEY, EXIT = 2, 3, 4
ROOMS = SIZE // 2  # rooms are the cells with even row and column; what lies between is wall or passage
LAST = 2 * (ROOMS - 1)
LOOPS = 0.5  # share of the remaining inner walls that are opened, so that there is more than one way
HELD = 0  # place in the memo: whether the player holds the key


@jit
def carve(s: State, i: int, wrap: bool) -> None:
    """Every room opens to the one above or to its left, which joins them all; then a few more walls open.

    Under wrap some of the outer wall opens too, but never beside the exit.
    """
    for r in range(SIZE):
        for c in range(SIZE):
            s.cells[i, r, c] = EMPTY if r % 2 == 0 and c % 2 == 0 and r <= LAST and c <= LAST else WALL
    for r in range(0, LAST + 1, 2):
        for c in range(0, LAST + 1, 2):
            up = uniform(s, i) < 0.5
            if r > 0 and (up or c == 0):
                s.cells[i, r - 1, c] = EMPTY
            elif c > 0:
                s.cells[i, r, c - 1] = EMPTY
            corner = r == LAST and c == LAST  # the exit's room keeps one way in
            if not corner and r > 0 and uniform(s, i) < LOOPS:
                s.cells[i, r - 1, c] = EMPTY
            if not corner and c > 0 and uniform(s, i) < LOOPS:
                s.cells[i, r, c - 1] = EMPTY
    if wrap:
        for k in range(0, LAST, 2):
            if uniform(s, i) < LOOPS:
                s.cells[i, SIZE - 1, k] = EMPTY
            if uniform(s, i) < LOOPS:
                s.cells[i, k, SIZE - 1] = EMPTY


@jit
def close_exit(s: State, i: int) -> None:
    """The exit in the last room, the door in the one passage to it."""
    s.cells[i, LAST, LAST] = EXIT
    if s.cells[i, LAST - 1, LAST] == EMPTY:
        s.cells[i, LAST - 1, LAST] = DOOR
    else:
        s.cells[i, LAST, LAST - 1] = DOOR


@jit
def turn(s: State, i: int) -> None:
    """Mirror the maze up and down, left and right, or both, so that the exit is in any corner."""
    if uniform(s, i) < 0.5:
        for r in range(SIZE // 2):
            for c in range(SIZE):
                other = SIZE - 1 - r
                s.cells[i, r, c], s.cells[i, other, c] = s.cells[i, other, c], s.cells[i, r, c]
    if uniform(s, i) < 0.5:
        for r in range(SIZE):
            for c in range(SIZE // 2):
                other = SIZE - 1 - c
                s.cells[i, r, c], s.cells[i, r, other] = s.cells[i, r, other], s.cells[i, r, c]


@jit
def find_room(s: State, i: int) -> tuple[int, int]:
    """A random empty cell that is no passage to the exit."""
    while True:
        r = below(s, i, SIZE)
        c = below(s, i, SIZE)
        if s.cells[i, r, c] == EMPTY:
            return r, c


@jit
def begin(s: State, i: int, p: Any) -> None:
    """A maze with its key and its player."""
    carve(s, i, p.wrap)
    close_exit(s, i)
    turn(s, i)
    r, c = find_room(s, i)
    s.cells[i, r, c] = KEY
    r, c = find_room(s, i)
    s.player[i, 0] = r
    s.player[i, 1] = c
    s.memo[i, HELD] = 0


@jit
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """Walk; the key and the opened door give a half each, the exit gives 1 and leads to another maze."""
    r, c = neighbour(s.player[i, 0], s.player[i, 1], action, p.wrap)
    cell = s.cells[i, r, c]
    if cell == WALL or (cell == DOOR and s.memo[i, HELD] == 0):
        return 0.0, False
    s.player[i, 0] = r
    s.player[i, 1] = c
    if cell == EXIT:
        key, counter = enter_level(s, i, p)  # the next maze is one of the allowed levels too
        begin(s, i, p)
        s.rng[i, 0] = key
        s.rng[i, 1] += counter
        return 1.0, False
    if cell == EMPTY:
        return 0.0, False
    s.cells[i, r, c] = EMPTY
    if cell == KEY:
        s.memo[i, HELD] = 1
    return 0.5, False


GAME = Game(
    id="Graft/Maze-v0",
    goal="Find the way to the key, then to the door that it opens, then to the exit.",
    things=("player", "wall", "door", "key", "exit"),
    own={"wrap": False},
    begin=begin,
    advance=advance,
    paint=paint_cells,
    bounds=measured(0.205, 5.66, "1,024", "0.024", "0.3", "Graft/Maze-v0"),
    memo=1,
)
GAMES.add(GAME.id, GAME)
