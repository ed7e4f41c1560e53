"""The observation of an agent of an arena: the cells around it, in the same planes for all games and teams."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.arena.state import State
from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.state import COIN, SIZE, WALL
from graft.envs.builtin.engine.view import planes_schema

RADIUS = 4  # cells that are shown on each side of an agent

THINGS = ("player", "ally", "opponent", "wall", "coin", "outside", "hunter")
"""Planes, named as in `entities`; the last is 1 throughout for an agent whose team hunts the other."""

PLAYER, ALLY, OPPONENT, WALLS, COINS, OUTSIDE, HUNTER = range(len(THINGS))

BOARD = ("ally", "opponent", "wall", "coin")
"""Planes of a whole board, as people and central critics see it; the first team are the allies."""

SCHEMA = planes_schema(THINGS, 2 * RADIUS + 1)  # of every agent's observation, (7, 2 RADIUS + 1, 2 RADIUS + 1)


@jit
def paint(s: State, i: int, a: int, p: Any, planes: Any) -> None:
    """Write the observation of agent ``a``, ``p.sight`` cells far, into ``planes`` (C, 2 RADIUS + 1, ...) of zeros."""
    row, column = s.place[i, a, 0], s.place[i, a, 1]
    for y in range(-p.sight, p.sight + 1):
        for x in range(-p.sight, p.sight + 1):
            r, c = row + y, column + x
            if r < 0 or r >= SIZE or c < 0 or c >= SIZE:
                planes[OUTSIDE, RADIUS + y, RADIUS + x] = 1
            elif s.cells[i, r, c] == WALL:
                planes[WALLS, RADIUS + y, RADIUS + x] = 1
            elif s.cells[i, r, c] == COIN:
                planes[COINS, RADIUS + y, RADIUS + x] = 1
    planes[PLAYER, RADIUS, RADIUS] = 1
    for b in range(s.alive.shape[1]):
        y, x = s.place[i, b, 0] - row, s.place[i, b, 1] - column
        if b != a and s.alive[i, b] and abs(y) <= p.sight and abs(x) <= p.sight:
            side = ALLY if (a < p.high_first) == (b < p.high_first) else OPPONENT
            planes[side, RADIUS + y, RADIUS + x] = 1
    if p.hunts and a < p.high_first:
        planes[HUNTER] = 1
