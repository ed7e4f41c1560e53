"""Rendering of boards: pictures by the pixel view, and text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.envs.builtin.engine.entities import ENTITIES
from graft.envs.builtin.engine.view import VIEWS
from graft.errors import GraftError, unknown

MODES = ("rgb_array", "ansi")  # render modes of the built-in games
FPS = 8  # steps a second at which a person can follow
SIDE = 384  # rows and columns of a picture, of which the pixel view's are enlarged by a whole number
EMPTY = "."  # stands for a cell that holds nothing


def check_mode(game: str, render_mode: str | None) -> str | None:
    """``render_mode`` itself; raises GraftError where ``game`` does not offer it."""
    if render_mode is not None and render_mode not in MODES:
        raise unknown(f"render_mode of {game}", str(render_mode), MODES)
    return render_mode


def frames(mode: str, planes: NDArray[np.uint8], names: tuple[str, ...], palette: str) -> tuple[Any, ...]:
    """What ``mode`` makes of painted planes (N, C, H, W): `pictures` or `texts`."""
    return pictures(planes, names, palette) if mode == "rgb_array" else texts(planes, names)


def pictures(planes: NDArray[np.uint8], names: tuple[str, ...], palette: str) -> tuple[NDArray[np.uint8], ...]:
    """A picture (SIDE, SIDE, 3) of each board in planes (N, C, H, W)."""
    pixels = VIEWS["pixels"]
    if pixels.show is None:
        raise GraftError("The pixel view has no painter; there is nothing to draw a picture with.")
    seen = np.empty((len(planes), *pixels.schema(names).shape), np.uint8)
    pixels.show(names, palette)(planes, seen)
    scale = SIDE // seen.shape[-1]
    return tuple(np.moveaxis(seen, 1, 3).repeat(scale, 1).repeat(scale, 2))


def topmost(planes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of planes (C, H, W), the index of the one that is seen in each cell, (H, W): the first; -1 for none."""
    found: NDArray[np.int64] = np.where(planes.any(0), planes.argmax(0), -1)
    return found


def texts(planes: NDArray[np.uint8], names: tuple[str, ...]) -> tuple[str, ...]:
    """Each board in planes (N, C, H, W) as lines of one character a cell."""
    glyphs = np.array([*(ENTITIES[name].glyph for name in names), EMPTY])
    return tuple("\n".join("".join(row) for row in glyphs[topmost(board)]) for board in planes)
