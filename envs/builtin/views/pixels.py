"""Pixels: a colour picture of the board, in a palette."""

from __future__ import annotations

from typing import Any

import numpy as np

from graft.envs.builtin.engine.compile import standalone
from graft.envs.builtin.engine.entities import ENTITIES, PALETTES, SPRITE
from graft.envs.builtin.engine.state import SIZE
from graft.envs.builtin.engine.view import VIEWS, Show, View
from graft.envs.core.schema import ObservationSchema, uint8_schema

PIXELS = 64  # rows and columns of the picture: SIZE cells of SPRITE pixels, and a margin
MARGIN = (PIXELS - SIZE * SPRITE) // 2


def schema(names: tuple[str, ...]) -> ObservationSchema:
    """(3, PIXELS, PIXELS), whatever the game."""
    return uint8_schema("pixels", ("red", "green", "blue"), (3, PIXELS, PIXELS), 255)


@standalone
def draw(planes: Any, masks: Any, colours: Any, background: Any, out: Any) -> None:
    """Pixels (N, 3, PIXELS, PIXELS): each thing in its colour and shape, later planes first, the player on top.

    Whole rows of the board are drawn at a time, without a branch on what is in a cell: that compiles to vector code.

    Args:
        masks: (C, SPRITE, PIXELS), 255 where a row full of the thing has its colour.
        colours: (C, 3). background: (3,).
    """
    there = np.zeros(PIXELS, np.uint8)  # 255 in the columns of cells that hold the thing
    for i in range(planes.shape[0]):
        for channel in range(3):
            out[i, channel] = background[channel]
        for c in range(planes.shape[1] - 1, -1, -1):
            for r in range(SIZE):
                cells = planes[i, c, r]
                if not cells.any():
                    continue
                for k in range(SIZE):
                    for x in range(SPRITE):
                        there[MARGIN + k * SPRITE + x] = 255 * cells[k]
                for y in range(SPRITE):
                    mask, at = masks[c, y], MARGIN + r * SPRITE + y
                    red, green, blue = out[i, 0, at], out[i, 1, at], out[i, 2, at]
                    reddish, greenish, bluish = colours[c, 0], colours[c, 1], colours[c, 2]
                    for x in range(PIXELS):
                        chosen = there[x] & mask[x]
                        red[x] = (red[x] & ~chosen) | (reddish & chosen)
                        green[x] = (green[x] & ~chosen) | (greenish & chosen)
                        blue[x] = (blue[x] & ~chosen) | (bluish & chosen)


def painter(names: tuple[str, ...], palette: str) -> Show:
    """The pixel view in the colours of ``palette``."""
    masks = np.zeros((len(names), SPRITE, PIXELS), np.uint8)
    masks[:, :, MARGIN:-MARGIN] = np.stack([np.tile(ENTITIES[name].mask, SIZE) for name in names]) * 255
    colours = np.array([PALETTES[palette][name] for name in names], np.uint8)
    background = np.array(PALETTES[palette][""], np.uint8)
    return lambda planes, out: draw(planes, masks, colours, background, out)


VIEWS.add("pixels", View("a colour picture, in a palette", schema, painter))
