"""Egocentric crop: planes of the cells around the player, who is always in the middle."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.channels import ATTRIBUTES
from graft.envs.builtin.engine.compile import standalone
from graft.envs.builtin.engine.kernel import player_cell
from graft.envs.builtin.engine.mechanics import Mechanic
from graft.envs.builtin.engine.state import SIZE
from graft.envs.builtin.engine.view import VIEWS, Show, View, planes_schema
from graft.envs.core.schema import ObservationSchema

RADIUS = Mechanic("radius", "cells shown on each side of the player, in the view ego", 5, 1, SIZE - 1)


def schema(names: tuple[str, ...], radius: int) -> ObservationSchema:
    """A game's planes and one more, (C + 1, 2 radius + 1, 2 radius + 1)."""
    return planes_schema((*names, "outside"), 2 * radius + 1)


@standalone
def crop(planes: Any, radius: int, out: Any) -> None:
    """The cells around the player, (N, C + 1, 2 radius + 1, ...); the last plane says what is off the board."""
    side, last = 2 * radius + 1, planes.shape[1]
    for i in range(planes.shape[0]):
        row, column = player_cell(planes[i, 0])
        top, bottom = max(0, radius - row), min(side, SIZE + radius - row)
        left, right = max(0, radius - column), min(side, SIZE + radius - column)
        out[i, :last] = 0
        out[i, last] = 1
        for y in range(top, bottom):
            for x in range(left, right):
                out[i, last, y, x] = 0
        for c in range(last):
            for y in range(top, bottom):
                for x in range(left, right):
                    out[i, c, y, x] = planes[i, c, row + y - radius, column + x - radius]


def show(names: tuple[str, ...], palette: str, radius: int) -> Show:
    return lambda planes, out: crop(planes, radius, out)


VIEWS.add("ego", View("planes of the cells around the player", schema, show, (RADIUS,), ATTRIBUTES))
