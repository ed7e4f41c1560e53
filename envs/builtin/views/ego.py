"""Egocentric crop: planes of the cells around the player, who is always in the middle."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import standalone
from graft.envs.builtin.engine.kernel import player_cell
from graft.envs.builtin.engine.state import SIZE
from graft.envs.builtin.engine.view import VIEWS, View, planes_schema
from graft.envs.core.schema import ObservationSchema

RADIUS = 4  # cells that are shown on each side of the player


def schema(names: tuple[str, ...]) -> ObservationSchema:
    """A game's planes and one more, (C + 1, 2 RADIUS + 1, 2 RADIUS + 1)."""
    return planes_schema((*names, "outside"), 2 * RADIUS + 1)


@standalone
def crop(planes: Any, out: Any) -> None:
    """The cells around the player, (N, C + 1, 2 RADIUS + 1, ...); the last plane says what is off the board."""
    side, last = 2 * RADIUS + 1, planes.shape[1]
    for i in range(planes.shape[0]):
        row, column = player_cell(planes[i, 0])
        out[i] = 0
        for y in range(side):
            for x in range(side):
                r, k = row + y - RADIUS, column + x - RADIUS
                if r < 0 or r >= SIZE or k < 0 or k >= SIZE:
                    out[i, last, y, x] = 1
                    continue
                for c in range(last):
                    out[i, c, y, x] = planes[i, c, r, k]


VIEWS.add("ego", View("planes of the cells around the player", schema, lambda *_: crop))
