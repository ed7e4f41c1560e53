"""Snake: grow by every coin, and never bite yourself or leave the board."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.game import EGO_MLP, GAMES, Game, measured
from graft.envs.builtin.engine.state import EMPTY, SIZE, State, below, neighbour, paint_cells, place_on_free

BODY, COIN = 1, 2
START = 3
CELLS = SIZE * SIZE
HEADING, LENGTH = CELLS, CELLS + 1  # places in the memo, after the steps for which each cell is still body


@jit
def begin(s: State, i: int, p: Any) -> None:
    """A short snake that heads for the middle, and coins."""
    r = 2 + below(s, i, SIZE - 4)
    c = 2 + below(s, i, SIZE - 4)
    s.player[i, 0] = r
    s.player[i, 1] = c
    s.memo[i, HEADING] = 4 if c < SIZE // 2 else 3
    s.memo[i, LENGTH] = START
    for _ in range(2):
        place_on_free(s, i, COIN)


@jit
def shrink(s: State, i: int) -> None:
    """The tail follows: every cell of the body is one step nearer to being free."""
    for r in range(SIZE):
        for c in range(SIZE):
            left = s.memo[i, r * SIZE + c]
            if left > 0:
                s.memo[i, r * SIZE + c] = left - 1
                if left == 1:
                    s.cells[i, r, c] = EMPTY


@jit
def advance(s: State, i: int, action: int, p: Any) -> tuple[float, bool]:
    """Go on, or turn; a coin gives 1 and a longer body, the border and the body cost 1 and end the game."""
    opposite = s.memo[i, HEADING] + 1 if s.memo[i, HEADING] % 2 else s.memo[i, HEADING] - 1
    if 1 <= action <= 4 and action != opposite:
        s.memo[i, HEADING] = action
    r, c = s.player[i, 0], s.player[i, 1]
    nr, nc = neighbour(r, c, s.memo[i, HEADING], p.wrap)
    if nr == r and nc == c:
        return -1.0, True
    eats = s.cells[i, nr, nc] == COIN
    if eats:
        s.memo[i, LENGTH] += 1
    else:
        shrink(s, i)
    s.cells[i, r, c] = BODY
    s.memo[i, r * SIZE + c] = s.memo[i, LENGTH]
    s.player[i, 0] = nr
    s.player[i, 1] = nc
    if s.cells[i, nr, nc] == BODY:
        return -1.0, True
    if eats:
        s.cells[i, nr, nc] = EMPTY
        place_on_free(s, i, COIN)
        return 1.0, False
    return 0.0, False


GAME = Game(
    id="Graft/Snake-v0",
    goal="Reach coin after coin while the growing body leaves less and less room to turn.",
    things=("player", "body", "coin"),
    own={"wrap": False},
    meanings={"outside": ("deadly", "outside")},
    begin=begin,
    advance=advance,
    paint=paint_cells,
    bounds=measured(-0.809, 29.9, "1,024", "0.027", "0.31", "Graft/Snake-v0", EGO_MLP),
    memo=CELLS + 2,
)
GAMES.add(GAME.id, GAME)
