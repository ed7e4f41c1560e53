"""Team gather: two teams collect the same coins, and where they meet the larger side wins."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.arena.game import ARENAS, Arena, Team
from graft.envs.builtin.arena.state import State, build_walls, enter, near, scatter_coins, walk
from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.state import COIN, EMPTY, SIZE

REACH = 1  # cells, diagonals included, within which agents meet
LOSS, PRIZE = 0.5, 0.5  # what a death costs, and what those who brought it about share
DRAW = -2


@jit
def begin(s: State, i: int, p: Any) -> None:
    """Scatter walls; the teams start at opposite sides, and the coins lie anywhere."""
    build_walls(s, i, p.walls)
    enter(s, i, 0, p.high_first, 0, 3, 0)
    enter(s, i, p.high_first, s.alive.shape[1], SIZE - 3, SIZE, 0)
    scatter_coins(s, i, p.coins)


@jit
def balance(s: State, i: int, p: Any, r: int, c: int) -> tuple[int, int]:
    """Living agents of each team that are within reach of a cell."""
    return near(s, i, 0, p.high_first, r, c, REACH), near(s, i, p.high_first, s.alive.shape[1], r, c, REACH)


@jit
def fight(s: State, i: int, p: Any, rewards: Any) -> None:
    """Agents that are outnumbered where they stand die, all at once; the opponents next to them share the prize."""
    slots = s.alive.shape[1]
    doomed = 0
    for a in range(slots):
        if s.alive[i, a]:
            first, second = balance(s, i, p, s.place[i, a, 0], s.place[i, a, 1])
            mine, theirs = (first, second) if a < p.high_first else (second, first)
            if theirs > mine:
                doomed |= 1 << a
                rewards[a] -= LOSS
                for b in range(slots):
                    opposed = (a < p.high_first) != (b < p.high_first)
                    close = abs(s.place[i, a, 0] - s.place[i, b, 0]) <= REACH
                    close = close and abs(s.place[i, a, 1] - s.place[i, b, 1]) <= REACH
                    if opposed and close and s.alive[i, b]:
                        rewards[b] += PRIZE / theirs
    for a in range(slots):
        if doomed >> a & 1:
            s.alive[i, a] = False


@jit
def collect(s: State, i: int, p: Any, rewards: Any) -> None:
    """Take the coins that agents stand on; if both teams do, the one with more agents around it takes it, or nobody."""
    slots = s.alive.shape[1]
    for a in range(slots):
        r, c = s.place[i, a, 0], s.place[i, a, 1]
        if not s.alive[i, a] or s.cells[i, r, c] != COIN:
            continue
        first, second = near(s, i, 0, p.high_first, r, c, 0), near(s, i, p.high_first, slots, r, c, 0)
        team = 0 if first > 0 else 1
        if first > 0 and second > 0:
            ours, theirs = balance(s, i, p, r, c)
            if ours == theirs:
                continue
            team = 0 if ours > theirs else 1
        s.cells[i, r, c] = EMPTY
        s.score[i, team] += 1.0
        takers = first if team == 0 else second
        for b in range(slots):
            if s.alive[i, b] and (b >= p.high_first) == team and s.place[i, b, 0] == r and s.place[i, b, 1] == c:
                rewards[b] += 1.0 / takers


@jit
def advance(s: State, i: int, actions: Any, p: Any, rewards: Any) -> int:
    """All walk, then fight, then the living collect; a coin gives 1, shared by those of a team who stand on it."""
    slots = s.alive.shape[1]
    for a in range(slots):
        walk(s, i, a, actions[a])
    if p.fights:
        fight(s, i, p, rewards)
    collect(s, i, p, rewards)
    living_first, living_second = 0, 0
    for a in range(slots):
        if s.alive[i, a]:
            if a < p.high_first:
                living_first += 1
            else:
                living_second += 1
    if (living_first == 0) != (living_second == 0):
        return 0 if living_first > 0 else 1
    left = 0
    for r in range(SIZE):
        for c in range(SIZE):
            left += s.cells[i, r, c] == COIN
    if left > 0 and living_first > 0 and s.clock[i] < p.max_steps:
        return -1
    if s.score[i, 0] == s.score[i, 1]:
        return DRAW
    return 0 if s.score[i, 0] > s.score[i, 1] else 1


ARENA = Arena(
    name="gather",
    id="Graft/TeamGather-v0",
    goal="Collect more coins than the other team, or be the only one alive: whoever is outnumbered dies.",
    teams=(Team("reds", "red", 3), Team("blues", "blue", 3)),
    begin=begin,
    advance=advance,
    own={"coins": 12, "fights": True},
)
ARENAS.add(ARENA.name, ARENA)
