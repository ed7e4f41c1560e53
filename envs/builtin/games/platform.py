"""Platform: seen from the side; run and jump from ledge to ledge for coins, and do not land on spikes."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.game import DOWN, GAMES, LEFT, RIGHT, UP, Game, measured
from graft.envs.builtin.engine.state import EMPTY, SIZE, State, below, neighbour, paint_cells, uniform

LEDGE, HAZARD, COIN, HEADING = 1, 2, 3, 4
GROUND = SIZE - 1
STOREYS = (7, 5, 3)  # rows with ledges
JUMP = 3  # cells that a jump rises
COINS = 3
SPIKY = 3  # spikes take at most one in so many of the cells above ledges, so that there is room for coins
RISING = 0  # place in the memo: cells that the jump still rises


@jit
def lay_ledges(s: State, i: int) -> None:
    """The ground, and two ledges in each storey."""
    s.cells[i, GROUND] = LEDGE
    for row in STOREYS:
        for _ in range(2):
            start = below(s, i, SIZE)
            length = 2 + below(s, i, 3)
            for c in range(start, min(start + length, SIZE)):
                s.cells[i, row, c] = LEDGE


@jit
def place_on_ledge(s: State, i: int, code: int, lowest: int) -> None:
    """Put ``code`` on a random free cell above a ledge, in rows up to ``lowest``, away from the player."""
    for _ in range(400):
        r = 1 + below(s, i, lowest)
        c = below(s, i, SIZE)
        free = s.cells[i, r, c] == EMPTY and s.cells[i, r + 1, c] == LEDGE
        if free and abs(r - s.player[i, 0]) + abs(c - s.player[i, 1]) > 1:
            s.cells[i, r, c] = code
            return


@jit
def footing(s: State, i: int) -> int:
    """How many free cells are above a ledge."""
    count = 0
    for r in range(GROUND):
        for c in range(SIZE):
            if s.cells[i, r, c] == EMPTY and s.cells[i, r + 1, c] == LEDGE:
                count += 1
    return count


@jit
def begin(s: State, i: int, p: Any) -> None:
    """Ledges, spikes and coins; the player on the ground."""
    lay_ledges(s, i)
    s.player[i, 0] = GROUND - 1
    s.player[i, 1] = below(s, i, SIZE)
    for _ in range(min(round(p.hazard_density * SIZE * SIZE), footing(s, i) // SPIKY)):
        place_on_ledge(s, i, HAZARD, GROUND - 1)
    for _ in range(COINS):
        place_on_ledge(s, i, COIN, GROUND - 1)


@jit
def enter(s: State, i: int, r: int, c: int) -> float:
    """Stand on a free cell; returns 1 for a coin there, which appears elsewhere, and -1 for spikes."""
    s.player[i, 0] = r
    s.player[i, 1] = c
    cell = s.cells[i, r, c]
    if cell == HAZARD:
        return -1.0
    if cell == COIN:
        s.cells[i, r, c] = EMPTY
        place_on_ledge(s, i, COIN, GROUND - 1)
        return 1.0
    return 0.0


@jit
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """Run, rise while a jump lasts, else fall where gravity or ``down`` pulls; coins give 1, spikes end it with -1."""
    reward = 0.0
    r, c = s.player[i, 0], s.player[i, 1]
    stands = s.cells[i, r + 1, c] == LEDGE
    if action == UP and stands:
        s.memo[i, RISING] = JUMP
    for _ in range(2 if p.momentum and action == s.before[i] else 1):
        if action in (LEFT, RIGHT):
            r, c = neighbour(s.player[i, 0], s.player[i, 1], action, p.wrap)
            if s.cells[i, r, c] == LEDGE or (r == s.player[i, 0] and c == s.player[i, 1]):
                break
            found = enter(s, i, r, c)
            if found < 0:
                return reward - 1.0, True
            reward += found
    r, c = s.player[i, 0], s.player[i, 1]
    if s.memo[i, RISING] > 0:
        s.memo[i, RISING] -= 1
        if r == 0 or s.cells[i, r - 1, c] == LEDGE:
            s.memo[i, RISING] = 0
            return reward, False
        found = enter(s, i, r - 1, c)
    elif s.cells[i, r + 1, c] != LEDGE and (action == DOWN or falls(s, i, p)):
        found = enter(s, i, r + 1, c)
    else:
        found = 0.0
    if found < 0:
        return reward - 1.0, True
    return reward + found, False


@jit
def falls(s: State, i: int, p: Any) -> bool:
    """Whether gravity pulls in this step."""
    return bool(p.gravity >= 1 or uniform(s, i) < p.gravity)


@jit
def paint(s: State, i: int, planes: Any) -> None:
    """The board, and the cell above the player while its jump rises."""
    paint_cells(s, i, planes)
    if s.memo[i, RISING] > 0 and s.player[i, 0] > 0:
        planes[HEADING, s.player[i, 0] - 1, s.player[i, 1]] = 1


GAME = Game(
    id="Graft/Platform-v0",
    goal="Time jumps from ledge to ledge to reach coins, and land beside spikes, not on them.",
    things=("player", "platform", "hazard", "coin", "heading"),
    own={"wrap": False, "momentum": False, "gravity": 1.0, "hazard_density": 0.03},
    begin=begin,
    advance=advance,
    paint=paint,
    bounds=measured(0.054, 4.77, "1,024", "0.08", "0.4", "Graft/Platform-v0"),
    memo=1,
)
GAMES.add(GAME.id, GAME)
