"""Egocentric crop: planes of the cells around the player, who is always in the middle."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    words = planes.reshape(planes.shape[0], last, SIZE * SIZE).view(np.uint32)  # most cells of most planes are empty
    for i in range(planes.shape[0]):
        row, column = player_cell(planes[i, 0])
        up, aside = radius - row, radius - column
        out[i, :last] = 0
        out[i, last] = 1
        for y in range(max(0, up), min(side, SIZE + up)):
            for x in range(max(0, aside), min(side, SIZE + aside)):
                out[i, last, y, x] = 0
        for c in range(last):
            for w in range(SIZE * SIZE // 4):
                if words[i, c, w]:
                    for n in range(4 * w, 4 * w + 4):
                        r, k = n // SIZE, n % SIZE
                        y, x = r + up, k + aside
                        if 0 <= y < side and 0 <= x < side:
                            out[i, c, y, x] = planes[i, c, r, k]


def show(names: tuple[str, ...], palette: str, radius: int) -> Show:
    return lambda planes, out: crop(planes, radius, out)


VIEWS.add("ego", View("planes of the cells around the player", schema, show, (RADIUS,), ATTRIBUTES))
