"""Dodge: rocks fall, column by column; stay alive."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.game import EGO_MLP, GAMES, Game, measured
from graft.envs.builtin.engine.state import EMPTY, SIZE, State, neighbour, paint_cells, uniform

ROCK = 1
ALIVE = 0.1  # reward of each step survived: 20 for a whole episode, the scale of the games with coins


@jit
def drop_rocks(s: State, i: int, fall_rate: float) -> None:
    """Everything falls by one row; a new rock enters each column by chance ``fall_rate``."""
    for r in range(SIZE - 1, 0, -1):
        for c in range(SIZE):
            s.cells[i, r, c] = s.cells[i, r - 1, c]
    for c in range(SIZE):
        s.cells[i, 0, c] = ROCK if uniform(s, i) < fall_rate else EMPTY


@jit
def begin(s: State, i: int, p: Any) -> None:
    """Rocks in the upper half, the player in the middle of the lowest row."""
    for _ in range(SIZE // 2):
        drop_rocks(s, i, p.fall_rate)
    s.player[i, 0] = SIZE - 1
    s.player[i, 1] = SIZE // 2


@jit
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """Move, then the rocks fall; to be where a rock is costs 1 and ends the game."""
    r, c = neighbour(s.player[i, 0], s.player[i, 1], action, p.wrap)
    s.player[i, 0] = r
    s.player[i, 1] = c
    if s.cells[i, r, c] == ROCK:
        return -1.0, True
    drop_rocks(s, i, p.fall_rate)
    if s.cells[i, r, c] == ROCK:
        return -1.0, True
    return ALIVE, False


GAME = Game(
    id="Graft/Dodge-v0",
    goal="See where rocks will land and never be there.",
    things=("player", "rock"),
    own={"wrap": False, "fall_rate": 0.12},
    begin=begin,
    advance=advance,
    paint=paint_cells,
    bounds=measured(-0.115, 18.5, "100,032", "0.004", "0.26", "Graft/Dodge-v0", EGO_MLP),
    limit=200 * ALIVE,
)
GAMES.add(GAME.id, GAME)
