"""Race: the road comes from above and winds; drive fast, stay on it, and pass the other cars."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.game import DOWN, GAMES, LEFT, RIGHT, UP, Game, measured
from graft.envs.builtin.engine.state import EMPTY, SIZE, WALL, State, below, paint_cells, uniform

CAR, HEADING = 2, 3
ROW = SIZE - 2  # where the player drives slowly; each further step of speed is a row further up, so that it is seen
HALF = 2  # the road is this wide on each side of its middle
PER_ROW = 0.04  # reward of each row driven: 24 for 200 steps at full speed
FASTEST = 3
MIDDLE, SPEED, DRIFT = 0, 1, 2  # places in the memo: of the road, of the player, and of the player's slide


@jit
def around(column: int) -> int:
    """``column``, at most a board away from the border, on the board; a division would take longer."""
    if column < 0:
        return column + SIZE
    return column - SIZE if column >= SIZE else column


@jit
def lay_row(s: State, i: int, r: int, fall_rate: float, wrap: bool) -> None:
    """Lay the road's next row at row ``r``; the road bends by at most one cell, and a car may be on it."""
    middle = s.memo[i, MIDDLE] + below(s, i, 3) - 1
    middle = around(middle) if wrap else min(max(middle, HALF), SIZE - 1 - HALF)
    s.memo[i, MIDDLE] = middle
    s.cells[i, r] = WALL
    for lane in range(-HALF, HALF + 1):
        s.cells[i, r, around(middle + lane)] = EMPTY
    if uniform(s, i) < fall_rate:
        s.cells[i, r, around(middle - HALF + below(s, i, 2 * HALF + 1))] = CAR


@jit
def scroll(s: State, i: int, p: Any) -> None:
    """Everything comes nearer by one row."""
    for r in range(SIZE - 1, 0, -1):
        for c in range(SIZE):
            s.cells[i, r, c] = s.cells[i, r - 1, c]
    lay_row(s, i, 0, p.fall_rate, p.wrap)


@jit
def begin(s: State, i: int, p: Any) -> None:
    """An empty road, the player in its middle, slowly."""
    s.memo[i, MIDDLE] = SIZE // 2
    s.memo[i, SPEED] = 1
    for r in range(SIZE - 1, -1, -1):
        lay_row(s, i, r, 0.0, p.wrap)
    s.player[i, 0] = ROW
    for c in range(SIZE):
        if s.cells[i, ROW, c] == EMPTY:
            s.player[i, 1] = c + HALF
            break


@jit
def drive_cars(s: State, i: int, share: float) -> None:
    """The other cars drive on, each in a share of the steps."""
    for r in range(SIZE):
        for c in range(SIZE):
            if s.cells[i, r, c] == CAR and uniform(s, i) < share:
                if r == 0:
                    s.cells[i, r, c] = EMPTY
                elif s.cells[i, r - 1, c] == EMPTY:
                    s.cells[i, r, c] = EMPTY
                    s.cells[i, r - 1, c] = CAR


@jit
def steer(s: State, i: int, action: int, p: Any) -> None:
    """Up and down change the speed, left and right the lane; with momentum a slide lasts until it is countered."""
    if action == UP:
        s.memo[i, SPEED] = min(s.memo[i, SPEED] + 1, FASTEST)
    elif action == DOWN:
        s.memo[i, SPEED] = max(s.memo[i, SPEED] - 1, 1)
    s.player[i, 0] = ROW + 1 - s.memo[i, SPEED]
    push = 1 if action == RIGHT else -1 if action == LEFT else 0
    s.memo[i, DRIFT] = min(max(s.memo[i, DRIFT] + push, -1), 1) if p.momentum else push
    column = s.player[i, 1] + s.memo[i, DRIFT]
    if p.wrap:
        column %= SIZE
    s.player[i, 1] = min(max(column, 0), SIZE - 1)


@jit
def crashed(s: State, i: int) -> bool:
    """Whether the player is off the road or where another car is."""
    return bool(s.cells[i, s.player[i, 0], s.player[i, 1]] != EMPTY)


@jit
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """Steer, then the road comes on row by row; a row gives 0.04, a crash costs 1 and ends the game."""
    steer(s, i, action, p)
    if crashed(s, i):
        return -1.0, True
    reward = 0.0
    for _ in range(s.memo[i, SPEED]):
        scroll(s, i, p)
        if crashed(s, i):
            return reward - 1.0, True
        reward += PER_ROW
    drive_cars(s, i, p.enemy_speed)
    return (reward - 1.0, True) if crashed(s, i) else (reward, False)


@jit
def paint(s: State, i: int, planes: Any) -> None:
    """The road, the cars, the player, and the cell beside it to which it slides."""
    paint_cells(s, i, planes)
    column = s.player[i, 1] + s.memo[i, DRIFT]
    if s.memo[i, DRIFT] != 0 and 0 <= column < SIZE:
        planes[HEADING, s.player[i, 0], column] = 1


GAME = Game(
    id="Graft/Race-v0",
    goal="Keep to the winding road and pass the cars, as fast as the bends allow.",
    things=("player", "wall", "car", "heading"),
    own={"wrap": False, "momentum": True, "fall_rate": 0.15, "enemy_speed": 0.5},
    meanings={"wall": ("deadly", "fast", "falling")},  # the road's side, which comes as fast as the player drives
    begin=begin,
    advance=advance,
    paint=paint,
    bounds=measured(-0.755, 8.73, "1,024", "0.014", "0.5", "Graft/Race-v0"),
    limit=200 * FASTEST * PER_ROW,
    memo=3,
)
GAMES.add(GAME.id, GAME)
