"""State of a batch of games, and the random numbers that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.envs.builtin.engine.compile import jit
from graft.errors import GraftError

SIZE = 10  # rows and columns of the board

EMPTY, WALL, HAZARD, COIN = 0, 1, 2, 3
"""What a board cell holds. A game whose planes are in this order can paint its cells by their code."""

LONGEST_DELAY, LONGEST_CREDIT = 4, 16  # steps that an action or a reward may be on its way
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_ASIDE = np.uint64(0xD1B54A32D192ED03)
_TO_UNIT = 1.0 / 2.0**53


class State(NamedTuple):
    """Struct of arrays for N environments; a game uses the fields it needs.

    cells (N, SIZE, SIZE) uint8; movers (N, M, 3) int64 row, column and direction; player (N, 2) int64;
    memo (N, K) int64 whatever else a game's rules remember; last, before (N,) int64 the actions executed last and
    before that; queue (N, 4) int64 actions on their way; reward_queue (N, 16) rewards on their way;
    clock (N,) int64 steps since the reset; rng (N, 2) uint64: a key and a counter for each environment;
    stamp (N, 2) uint64: the counter when the observation, and when an episode's last one, was painted;
    scores (R, 4) float64: of each set of rules of a game that draws them by scores, shared by all environments.
    """

    cells: NDArray[np.uint8]
    movers: NDArray[np.int64]
    player: NDArray[np.int64]
    memo: NDArray[np.int64]
    last: NDArray[np.int64]
    before: NDArray[np.int64]
    queue: NDArray[np.int64]
    reward_queue: NDArray[np.float64]
    clock: NDArray[np.int64]
    rng: NDArray[np.uint64]
    stamp: NDArray[np.uint64]
    scores: NDArray[np.float64]


def new_state(num_envs: int, movers: int = 0, memo: int = 0, scores: int = 0) -> State:
    return State(
        cells=np.zeros((num_envs, SIZE, SIZE), np.uint8),
        movers=np.zeros((num_envs, movers, 3), np.int64),
        player=np.zeros((num_envs, 2), np.int64),
        memo=np.zeros((num_envs, memo), np.int64),
        last=np.zeros(num_envs, np.int64),
        before=np.zeros(num_envs, np.int64),
        queue=np.zeros((num_envs, LONGEST_DELAY), np.int64),
        reward_queue=np.zeros((num_envs, LONGEST_CREDIT), np.float64),
        clock=np.zeros(num_envs, np.int64),
        rng=np.zeros((num_envs, 2), np.uint64),
        stamp=np.zeros((num_envs, 2), np.uint64),
        scores=np.zeros((scores, 4)),
    )


def copies(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A batch's arrays as they are now."""
    return {name: array.copy() for name, array in arrays.items()}


def restore_arrays(arrays: Mapping[str, NDArray[Any]], saved: Mapping[str, NDArray[Any]]) -> None:
    """Fill a batch's arrays with those of `copies`; raises GraftError for those of a batch of another size."""
    for name, array in arrays.items():
        if saved[name].shape != array.shape:
            raise GraftError(f"The saved '{name}' has shape {saved[name].shape}, this batch {array.shape}.")
        array[...] = saved[name]


def seed_state(state: State, seeds: NDArray[np.uint64]) -> None:
    """Give environment i the stream of ``seeds[i]``, shape (N,), whatever batch it is in."""
    with np.errstate(over="ignore"):
        key = seeds * _STEP + _MIX_A
        key = (key ^ (key >> np.uint64(30))) * _MIX_A
        state.rng[:, 0] = (key ^ (key >> np.uint64(27))) * _MIX_B
    state.rng[:, 1] = 0


@jit
def clear(s: State, i: int) -> None:
    """Empty the board and forget all but the random numbers, which go on."""
    s.cells[i] = 0
    s.memo[i] = 0
    s.last[i] = 0
    s.before[i] = 0
    s.queue[i] = 0
    s.reward_queue[i] = 0.0
    s.clock[i] = 0


@jit
def mixed(z: Any) -> Any:
    """SplitMix64's finaliser: 64 random bits."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_A
    z = (z ^ (z >> np.uint64(27))) * _MIX_B
    return z ^ (z >> np.uint64(31))


@jit
def uniform(s: State, i: int) -> float:
    """The next random number of environment i, in [0, 1): SplitMix64 of its key and counter."""
    s.rng[i, 1] += np.uint64(1)
    return float(np.float64(mixed(s.rng[i, 0] + s.rng[i, 1] * _STEP) >> np.uint64(11)) * _TO_UNIT)


@jit
def side_stream(s: State, i: int, last: int) -> Any:
    """Key of a side stream for when environment i was painted: its observation (``last`` 0) or an episode's last."""
    return (s.rng[i, 0] ^ _ASIDE) + s.stamp[i, last] * _MIX_A


@jit
def side_bits(key: Any, n: int) -> Any:
    """The n-th 64 bits of a side stream."""
    return mixed(key + np.uint64(n) * _STEP)


@jit
def enter_level(s: State, i: int, p: Any) -> tuple[Any, Any]:
    """Choose a level, if they are numbered, and switch to its stream; returns what to restore: key and counter."""
    key, counter = s.rng[i, 0], s.rng[i, 1]
    if p.levels == 0:
        return key, np.uint64(0)
    number = p.first_level + below(s, i, p.levels)
    counter = s.rng[i, 1]
    s.rng[i, 0] = (np.uint64(number) + np.uint64(1)) * _MIX_B ^ _ASIDE
    s.rng[i, 1] = np.uint64(0)
    return key, counter


@jit
def below(s: State, i: int, n: int) -> int:
    """A random whole number in [0, n)."""
    return int(uniform(s, i) * n)


@jit
def place_on_free(s: State, i: int, code: int) -> bool:
    """Put ``code`` on a random empty cell away from the player; False where none was found."""
    for _ in range(4 * SIZE * SIZE):
        r = below(s, i, SIZE)
        c = below(s, i, SIZE)
        if s.cells[i, r, c] == EMPTY and not (r == s.player[i, 0] and c == s.player[i, 1]):
            s.cells[i, r, c] = code
            return True
    return False


@jit
def scatter(s: State, i: int, code: int, share: float) -> None:
    """Fill ``share`` of the board with ``code``, each on a random empty cell."""
    for _ in range(round(share * SIZE * SIZE)):
        place_on_free(s, i, code)


@jit
def place_player(s: State, i: int) -> None:
    s.player[i, 0] = below(s, i, SIZE)
    s.player[i, 1] = below(s, i, SIZE)


@jit
def neighbour(r: int, c: int, direction: int, wrap: bool) -> tuple[int, int]:
    """The cell one step from (r, c): direction 1 up, 2 down, 3 left, 4 right, anything else stays.

    At the border a step stays where it is, or comes back on the other side where ``wrap`` is set.
    """
    nr, nc = r, c
    if direction == 1:
        nr -= 1
    elif direction == 2:
        nr += 1
    elif direction == 3:
        nc -= 1
    elif direction == 4:
        nc += 1
    if wrap:
        return nr % SIZE, nc % SIZE
    if nr < 0 or nr >= SIZE or nc < 0 or nc >= SIZE:
        return r, c
    return nr, nc


@jit
def step_to(s: State, i: int, direction: int, wrap: bool) -> int:
    """Move the player one cell unless a wall is there; returns the code of the cell it then stands on."""
    r, c = neighbour(s.player[i, 0], s.player[i, 1], direction, wrap)
    if s.cells[i, r, c] != WALL:
        s.player[i, 0] = r
        s.player[i, 1] = c
    return int(s.cells[i, s.player[i, 0], s.player[i, 1]])


@jit
def walk(s: State, i: int, direction: int, p: Any) -> int:
    """Move the player, with its momentum and the pull of gravity; returns the code of the cell it then stands on.

    Either goes on only from an empty cell: whatever is come by first counts.
    """
    cell = step_to(s, i, direction, p.wrap)
    if p.momentum and cell == EMPTY and 1 <= direction <= 4 and direction == s.before[i]:
        cell = step_to(s, i, direction, p.wrap)
    if p.gravity > 0 and cell == EMPTY and uniform(s, i) < p.gravity:
        cell = step_to(s, i, pulled(p), p.wrap)
    return cell


@jit
def pulled(p: Any) -> int:
    """The direction in which gravity pulls."""
    if p.gravity_direction == 0:
        return 2
    return 1 if p.gravity_direction == 1 else p.gravity_direction + 1


@jit
def paint_cells(s: State, i: int, planes: Any) -> None:
    """Write the player into plane 0 and each occupied cell into the plane of its code; ``planes`` (C, H, W) is zero."""
    for r in range(SIZE):
        for c in range(SIZE):
            planes[s.cells[i, r, c], r, c] = 1  # a branch on what is empty would be mispredicted half of the time
    planes[EMPTY] = 0
    planes[0, s.player[i, 0], s.player[i, 1]] = 1
