"""Pixels: a colour picture of the board, in a palette."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.engine.compile import standalone
from envs.engine.entities import ENTITIES, PALETTES, SPRITE
from envs.engine.state import SIZE
from envs.engine.view import VIEWS, Show, View
from envs.schema import ObservationSchema

PIXELS = 64
"""Rows and columns of the picture: SIZE cells of SPRITE pixels, and a margin."""

MARGIN = (PIXELS - SIZE * SPRITE) // 2


def schema(names: tuple[str, ...]) -> ObservationSchema:
    """(3, PIXELS, PIXELS), whatever the game."""
    colours = ("red", "green", "blue")
    return ObservationSchema("pixels", colours, ((),) * 3, (3, PIXELS, PIXELS), "uint8", (0.0,) * 3, (255.0,) * 3)


@standalone
def draw(planes: Any, masks: Any, colours: Any, background: Any, out: Any) -> None:
    """Pixels (N, 3, PIXELS, PIXELS): each thing in its colour and shape, later planes first, the player on top."""
    for i in range(planes.shape[0]):
        for channel in range(3):
            out[i, channel] = background[channel]
        for c in range(planes.shape[1] - 1, -1, -1):
            for r in range(SIZE):
                for k in range(SIZE):
                    if planes[i, c, r, k]:
                        top, left = MARGIN + r * SPRITE, MARGIN + k * SPRITE
                        for channel in range(3):
                            colour = colours[c, channel]
                            for y in range(SPRITE):
                                for x in range(SPRITE):  # without a branch, so that it compiles to vector code
                                    before = out[i, channel, top + y, left + x]
                                    out[i, channel, top + y, left + x] = colour if masks[c, y, x] else before


def painter(names: tuple[str, ...], palette: str) -> Show:
    """The pixel view in the colours of ``palette``."""
    masks = np.stack([ENTITIES[name].mask for name in names])
    colours = np.array([PALETTES[palette][name] for name in names], np.uint8)
    background = np.array(PALETTES[palette][""], np.uint8)
    return lambda planes, out: draw(planes, masks, colours, background, out)


VIEWS.add("pixels", View("a colour picture, in a palette", schema, painter))
