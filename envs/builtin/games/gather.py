"""Gather: collect coins among walls; static hazards end the game."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.game import EGO, GAMES, Game, measured
from graft.envs.builtin.engine.state import (
    COIN,
    EMPTY,
    HAZARD,
    WALL,
    State,
    paint_cells,
    place_on_free,
    place_player,
    scatter,
    walk,
)

WALLS, COINS = 0.12, 0.07


@jit
def begin(s: State, i: int, p: Any) -> None:
    """Scatter walls, hazards and coins around the player."""
    place_player(s, i)
    scatter(s, i, WALL, WALLS)
    scatter(s, i, HAZARD, p.hazard_density)
    scatter(s, i, COIN, COINS)


@jit
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """Walk; a coin gives 1 and appears elsewhere, a hazard costs 1 and ends the game."""
    cell = walk(s, i, action, p)
    if cell == HAZARD:
        return -1.0, True
    if cell == COIN:
        s.cells[i, s.player[i, 0], s.player[i, 1]] = EMPTY
        place_on_free(s, i, COIN)
        return 1.0, False
    return 0.0, False


GAME = Game(
    id="Graft/Gather-v0",
    goal="Reach coin after coin around walls without ever stepping on a hazard.",
    things=("player", "wall", "hazard", "coin"),
    own={"wrap": False, "momentum": False, "gravity": 0.0, "gravity_direction": "down", "hazard_density": 0.06},
    begin=begin,
    advance=advance,
    paint=paint_cells,
    bounds=measured(0.187, 58.6, "100,032", "0.010", "0.7", "Graft/Gather-v0", EGO),
)
GAMES.add(GAME.id, GAME)
