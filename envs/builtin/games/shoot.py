"""Shoot: targets fall; hit them from below before they land."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.game import ACT, EGO_MLP, GAMES, Game, measured
from graft.envs.builtin.engine.state import EMPTY, SIZE, State, below, paint_cells, uniform

TARGET, SHOT = 1, 2
GROUND = SIZE - 1
LANDED = -0.5
RELOAD = 2  # steps between two shots
READY = 0  # place in the memo: the step at which the gun is ready again


@jit
def begin(s: State, i: int, p: Any) -> None:
    """The player in the middle of the ground, the first targets high above."""
    s.player[i, 0] = GROUND
    s.player[i, 1] = SIZE // 2
    for r in range(SIZE // 2):
        s.cells[i, r, below(s, i, SIZE)] = TARGET


@jit
def raise_shots(s: State, i: int, speed: int) -> float:
    """Shots rise by ``speed`` cells; returns how many targets they hit."""
    hits = 0.0
    for r in range(SIZE):
        for c in range(SIZE):
            if s.cells[i, r, c] != SHOT:
                continue
            s.cells[i, r, c] = EMPTY
            row, flies = r, True
            for _ in range(speed):
                row -= 1
                if row < 0:
                    flies = False
                    break
                if s.cells[i, row, c] == TARGET:
                    s.cells[i, row, c] = EMPTY
                    hits += 1.0
                    flies = False
                    break
            if flies:
                s.cells[i, row, c] = SHOT
    return hits


@jit
def drop_targets(s: State, i: int, fall_rate: float) -> float:
    """Targets fall by a cell, and new ones enter; returns the reward: 1 for each that falls into a shot."""
    reward = 0.0
    for c in range(SIZE):
        if s.cells[i, GROUND, c] == TARGET:
            s.cells[i, GROUND, c] = EMPTY
            reward += LANDED
        for r in range(GROUND - 1, -1, -1):
            if s.cells[i, r, c] != TARGET:
                continue
            s.cells[i, r, c] = EMPTY
            if s.cells[i, r + 1, c] == SHOT:
                s.cells[i, r + 1, c] = EMPTY
                reward += 1.0
            else:
                s.cells[i, r + 1, c] = TARGET
        if uniform(s, i) < fall_rate and s.cells[i, 0, c] == EMPTY:
            s.cells[i, 0, c] = TARGET
    return reward


@jit
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """Move or shoot; a hit gives 1, a target that lands costs a half, one that lands on the player ends the game."""
    reward = raise_shots(s, i, p.projectile_speed)
    if action in (3, 4):
        step_aside(s, i, action, p.wrap)
    elif action == ACT and s.clock[i] >= s.memo[i, READY] and s.cells[i, GROUND - 1, s.player[i, 1]] != SHOT:
        s.memo[i, READY] = s.clock[i] + RELOAD
        if s.cells[i, GROUND - 1, s.player[i, 1]] == TARGET:
            s.cells[i, GROUND - 1, s.player[i, 1]] = EMPTY
            reward += 1.0
        else:
            s.cells[i, GROUND - 1, s.player[i, 1]] = SHOT
    if s.clock[i] % 2 == 0:
        reward += drop_targets(s, i, p.fall_rate)
    if s.cells[i, GROUND, s.player[i, 1]] == TARGET:
        return reward - 1.0, True
    return reward, False


@jit
def step_aside(s: State, i: int, direction: int, wrap: bool) -> None:
    """One cell along the ground."""
    c = s.player[i, 1] + (1 if direction == 4 else -1)
    if wrap:
        c %= SIZE
    s.player[i, 1] = min(max(c, 0), SIZE - 1)


GAME = Game(
    id="Graft/Shoot-v0",
    goal="Line up under falling targets and shoot each before it lands.",
    things=("player", "target", "shot"),
    own={"wrap": False, "fall_rate": 0.03, "projectile_speed": 2},
    begin=begin,
    advance=advance,
    paint=paint_cells,
    bounds=measured(-3.44, 27.1, "1,024", "0.19", "0.31", "Graft/Shoot-v0", EGO_MLP),
    limit=SIZE // 2 + 100 * SIZE * 0.03,  # every target that appears, in the mean, hit
    memo=1,
)
GAMES.add(GAME.id, GAME)
