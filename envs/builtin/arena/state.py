"""State of a batch of arenas, and functions for the rules: walking, counting neighbours, finding a free cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.state import COIN, EMPTY, SIZE, WALL, below, neighbour

TRIES = 400  # random cells that are looked at before a search gives up


class State(NamedTuple):
    """Struct of arrays for N environments with A slots for agents, those of the first team first.

    place (N, A, 2) int64 row and column; alive (N, A) bool, False also for slots that are not in play;
    size (N, 2) int64 agents in play at the start, by team; score (N, 2) float64; cells (N, SIZE, SIZE) uint8 walls
    and coins; clock (N,) int64 steps since the reset; rng (N, 2) uint64 a key and a counter for each environment.
    """

    place: NDArray[np.int64]
    alive: NDArray[np.bool_]
    size: NDArray[np.int64]
    score: NDArray[np.float64]
    cells: NDArray[np.uint8]
    clock: NDArray[np.int64]
    rng: NDArray[np.uint64]


def new_state(num_envs: int, slots: int) -> State:
    return State(
        place=np.zeros((num_envs, slots, 2), np.int64),
        alive=np.zeros((num_envs, slots), np.bool_),
        size=np.zeros((num_envs, 2), np.int64),
        score=np.zeros((num_envs, 2), np.float64),
        cells=np.zeros((num_envs, SIZE, SIZE), np.uint8),
        clock=np.zeros(num_envs, np.int64),
        rng=np.zeros((num_envs, 2), np.uint64),
    )


@jit
def clear(s: State, i: int) -> None:
    """Empty the board and forget all but the random numbers, which go on."""
    s.place[i] = 0
    s.alive[i] = False
    s.score[i] = 0.0
    s.cells[i] = 0
    s.clock[i] = 0


@jit
def draw_team_sizes(s: Any, i: int, p: Any) -> None:
    """Draw the sizes of both teams; that many of a team's first slots are in play."""
    s.size[i, 0] = p.low_first + below(s, i, p.high_first - p.low_first + 1)
    s.size[i, 1] = p.low_second + below(s, i, p.high_second - p.low_second + 1)
    for a in range(s.size[i, 0]):
        s.alive[i, a] = True
    for a in range(s.size[i, 1]):
        s.alive[i, p.high_first + a] = True


@jit
def build_walls(s: Any, i: int, share: float) -> None:
    """Wall up to ``share`` of the board; no two walls touch, not even with corners, so that all stays in reach."""
    wanted = round(share * SIZE * SIZE)
    for _ in range(TRIES):
        if wanted == 0:
            return
        r, c = below(s, i, SIZE), below(s, i, SIZE)
        alone = True
        for y in range(max(0, r - 1), min(SIZE, r + 2)):
            for x in range(max(0, c - 1), min(SIZE, c + 2)):
                alone = alone and s.cells[i, y, x] != WALL
        if alone:
            s.cells[i, r, c] = WALL
            wanted -= 1


@jit
def taken(s: State, i: int, r: int, c: int) -> bool:
    """Whether a living agent stands on a cell."""
    for a in range(s.alive.shape[1]):
        if s.alive[i, a] and s.place[i, a, 0] == r and s.place[i, a, 1] == c:
            return True
    return False


@jit
def scatter_coins(s: Any, i: int, count: int) -> None:
    """Put ``count`` coins on free cells, or fewer where no free cell is found."""
    for _ in range(TRIES):
        if count == 0:
            return
        r, c = below(s, i, SIZE), below(s, i, SIZE)
        if s.cells[i, r, c] == EMPTY and not taken(s, i, r, c):
            s.cells[i, r, c] = COIN
            count -= 1


@jit
def enter(s: Any, i: int, first: int, last: int, left: int, right: int, apart: int) -> None:
    """Put agents ``first`` to ``last`` - 1 on free cells of columns ``left`` to ``right`` - 1.

    Each keeps ``apart`` cells or more, along rows or columns, from all agents before ``first``, if such a cell is
    found in half of the tries.
    """
    for a in range(first, last):
        if not s.alive[i, a]:
            continue
        s.alive[i, a] = False
        r, c = 0, left
        for attempt in range(TRIES):
            r, c = below(s, i, SIZE), left + below(s, i, right - left)
            free = s.cells[i, r, c] == EMPTY and not taken_before(s, i, r, c, a)
            if free and (attempt >= TRIES // 2 or near(s, i, 0, first, r, c, apart - 1) == 0):
                break
        s.alive[i, a] = True
        s.place[i, a, 0] = r
        s.place[i, a, 1] = c


@jit
def taken_before(s: State, i: int, r: int, c: int, a: int) -> bool:
    return near(s, i, 0, a, r, c, 0) > 0


@jit
def near(s: State, i: int, first: int, last: int, r: int, c: int, reach: int) -> int:
    """Living agents from ``first`` to ``last`` - 1 within ``reach`` cells, diagonals included, of (r, c)."""
    count = 0
    for a in range(first, last):
        if s.alive[i, a] and abs(s.place[i, a, 0] - r) <= reach and abs(s.place[i, a, 1] - c) <= reach:
            count += 1
    return count


@jit
def walk(s: State, i: int, a: int, action: int) -> None:
    """Move agent ``a`` one cell unless it is dead or a wall or the border is there; agents don't block each other."""
    if not s.alive[i, a]:
        return
    r, c = neighbour(s.place[i, a, 0], s.place[i, a, 1], action, False)
    if s.cells[i, r, c] != WALL:
        s.place[i, a, 0] = r
        s.place[i, a, 1] = c
