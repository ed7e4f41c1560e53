"""Hunt: collect coins among walls while enemies roam; their touch ends the game."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.game import EGO, GAMES, Game, measured
from graft.envs.builtin.engine.state import (
    COIN,
    EMPTY,
    SIZE,
    WALL,
    State,
    below,
    neighbour,
    paint_cells,
    place_on_free,
    place_player,
    scatter,
    uniform,
    walk,
)

WALLS, COINS, ENEMIES = 0.12, 0.07, 5
ENEMY_PLANE = 2
ENEMY_HERE = 4  # added to the code of a cell, which then is not empty
MIXED, RANDOM, PATROL, CHASE = range(4)  # as in the choices of `enemy_behaviour`
HEAD_START = 3  # least distance of an enemy from the player at the start, in steps


@jit
def begin(s: State, i: int, p: Any) -> None:
    """Scatter walls and coins, and enemies on free cells at a distance."""
    place_player(s, i)
    scatter(s, i, WALL, WALLS)
    scatter(s, i, COIN, COINS)
    for k in range(ENEMIES):
        while True:
            r = below(s, i, SIZE)
            c = below(s, i, SIZE)
            far = abs(r - s.player[i, 0]) + abs(c - s.player[i, 1]) >= HEAD_START
            if far and s.cells[i, r, c] != WALL:
                break
        s.movers[i, k, 0] = r
        s.movers[i, k, 1] = c
        s.movers[i, k, 2] = 0


@jit
def touched(s: State, i: int) -> bool:
    """Whether an enemy stands where the player stands."""
    for k in range(ENEMIES):
        if s.movers[i, k, 0] == s.player[i, 0] and s.movers[i, k, 1] == s.player[i, 1]:
            return True
    return False


@jit
def walk_up_to_enemies(s: State, i: int, action: int, p: Any) -> int:
    """Walk; neither momentum nor gravity carries the player past an enemy."""
    for k in range(ENEMIES):
        s.cells[i, s.movers[i, k, 0], s.movers[i, k, 1]] |= ENEMY_HERE
    cell = walk(s, i, action, p)
    for k in range(ENEMIES):
        s.cells[i, s.movers[i, k, 0], s.movers[i, k, 1]] &= ENEMY_HERE - 1
    return cell


@jit
def towards_player(s: State, i: int, k: int) -> int:
    """The direction in which enemy k closes the longer side of its distance."""
    dr = s.player[i, 0] - s.movers[i, k, 0]
    dc = s.player[i, 1] - s.movers[i, k, 1]
    if abs(dr) >= abs(dc):
        return 2 if dr > 0 else 1
    return 4 if dc > 0 else 3


@jit
def heading(s: State, i: int, k: int, p: Any) -> int:
    """Where enemy k goes next."""
    if p.enemy_behaviour == MIXED:
        return towards_player(s, i, k) if uniform(s, i) < p.chase else 1 + below(s, i, 4)
    if p.enemy_behaviour == CHASE:
        return towards_player(s, i, k)
    if p.enemy_behaviour == PATROL and s.movers[i, k, 2] > 0:
        return int(s.movers[i, k, 2])
    return 1 + below(s, i, 4)


@jit
def move_enemies(s: State, i: int, p: Any) -> None:
    """Each enemy moves in a share of the steps; one on patrol goes straight on, and turns round where it can't."""
    for k in range(ENEMIES):
        if uniform(s, i) >= p.enemy_speed:
            continue
        direction = heading(s, i, k, p)
        r, c = neighbour(s.movers[i, k, 0], s.movers[i, k, 1], direction, p.wrap)
        stays = s.cells[i, r, c] == WALL or (r == s.movers[i, k, 0] and c == s.movers[i, k, 1])
        s.movers[i, k, 2] = (direction + 1 if direction % 2 else direction - 1) if stays else direction
        if s.cells[i, r, c] != WALL:
            s.movers[i, k, 0] = r
            s.movers[i, k, 1] = c


@jit
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """Walk, then the enemies move; a coin gives 1 and appears elsewhere, an enemy's touch costs 1 and ends the game."""
    cell = walk_up_to_enemies(s, i, action, p)
    if touched(s, i):
        return -1.0, True
    reward = 0.0
    if cell == COIN:
        s.cells[i, s.player[i, 0], s.player[i, 1]] = EMPTY
        place_on_free(s, i, COIN)
        reward = 1.0
    move_enemies(s, i, p)
    if touched(s, i):
        return reward - 1.0, True
    return reward, False


@jit
def paint(s: State, i: int, planes: Any) -> None:
    """Cells by their code, enemies in their own plane."""
    paint_cells(s, i, planes)
    for k in range(ENEMIES):
        planes[ENEMY_PLANE, s.movers[i, k, 0], s.movers[i, k, 1]] = 1


GAME = Game(
    id="Graft/Hunt-v0",
    goal="Reach coin after coin around walls while keeping clear of enemies that move.",
    things=("player", "wall", "enemy", "coin"),
    own={
        "wrap": False,
        "momentum": False,
        "gravity": 0.0,
        "gravity_direction": "down",
        "enemy_speed": 0.5,  # half the player's, so that they can be outrun
        "enemy_behaviour": "mixed",
        "chase": 0.2,
    },
    begin=begin,
    advance=advance,
    paint=paint,
    bounds=measured(-0.445, 24.6, "100,032", "0.005", "1.0", "Graft/Hunt-v0", EGO),
    movers=ENEMIES,
)
GAMES.add(GAME.id, GAME)
