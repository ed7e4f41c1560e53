"""MiniGrid's symbolic view as named planes: what stands on a cell, its colour, and the state of a door."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from envs.adapters.spaces import ActionCodec, Array, ObservationCodec, action_codec
from envs.engine.compile import jit, specialise
from envs.schema import ObservationSchema
from envs.task import Bounds

MINIGRID = "MiniGrid-"
"""How the ids of MiniGrid's tasks begin, whoever provides them."""

OBJECTS = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
STATES = ("open", "closed", "locked")
ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")

_MEANINGS = {
    "object:wall": ("solid",),
    "object:door": ("openable", "solid"),
    "object:key": ("pickup",),
    "object:ball": ("pickup",),
    "object:box": ("pickup",),
    "object:goal": ("goal", "reward"),
    "object:lava": ("deadly",),
    "object:agent": ("self",),
    "state:open": ("state",),
    "state:closed": ("solid", "state"),
    "state:locked": ("locked", "solid", "state"),
}
_EMPTY, _DOOR = OBJECTS.index("empty"), OBJECTS.index("door")
_THINGS, _TINTS, _CONDITIONS = len(OBJECTS), len(COLOURS), len(STATES)
_NAMES = (
    *(f"object:{name}" for name in OBJECTS),
    *(f"colour:{name}" for name in COLOURS),
    *(f"state:{name}" for name in STATES),
)


@jit
def paint_view(view: Any, planes: Any) -> None:
    """Set the planes (20, H, W) of a symbolic view (W, H, 3); codes that MiniGrid lacks set nothing."""
    for column in range(view.shape[0]):
        for row in range(view.shape[1]):
            thing, colour, state = view[column, row, 0], view[column, row, 1], view[column, row, 2]
            if thing < _THINGS:
                planes[thing, row, column] = 1
            if _EMPTY < thing < _THINGS and colour < _TINTS:
                planes[_THINGS + colour, row, column] = 1
            if thing == _DOOR and state < _CONDITIONS:
                planes[_THINGS + _TINTS + state, row, column] = 1


def _paint_batch(views: Any, planes: Any) -> None:
    for i in range(views.shape[0]):
        paint_view(views[i], planes[i])


_paint = specialise(_paint_batch, {"paint_view": paint_view})


def encode(views: Array) -> Array:
    """Symbolic views (N, W, H, 3) uint8 as planes (N, 20, H, W) uint8 of zeros and ones.

    MiniGrid indexes its views by column, then row; planes have rows first like every other game, so the agent
    stands in the middle of the lowest row and looks up. Red and "open" are code 0, which MiniGrid also writes where
    there is no colour or no door; here a colour plane is set only where a thing with a colour is, and a state plane
    only on a door.
    """
    count, width, height, _ = views.shape
    planes = np.zeros((count, len(_NAMES), height, width), np.uint8)
    _paint(np.ascontiguousarray(views), planes)
    return planes


def minigrid_codecs(task: str, image: gym.Space[int], action: gym.Space[int]) -> tuple[ObservationCodec, ActionCodec]:
    """The codecs of a MiniGrid task whose view is ``image``, a Box (W, H, 3) of object, colour and state codes."""
    assert image.shape is not None
    width, height, _ = image.shape
    count = len(_NAMES)
    schema = ObservationSchema(
        kind="planes",
        names=_NAMES,
        attributes=tuple(("colour",) if n.startswith("colour:") else _MEANINGS.get(n, ()) for n in _NAMES),
        shape=(count, height, width),
        dtype="uint8",
        low=(0.0,) * count,
        high=(1.0,) * count,
    )
    return ObservationCodec(schema, encode), action_codec(task, action, ACTIONS)


_RANDOM = {
    "Empty-5x5": 0.20,
    "Empty-6x6": 0.14,
    "Empty-8x8": 0.08,
    "Empty-Random-5x5": 0.31,
    "Empty-Random-6x6": 0.26,
    "Dynamic-Obstacles-5x5": -0.99,
    "Dynamic-Obstacles-Random-5x5": -0.81,
    "Dynamic-Obstacles-6x6": -1.0,
    "Dynamic-Obstacles-Random-6x6": -0.91,
    "Dynamic-Obstacles-8x8": -1.0,
    "Dynamic-Obstacles-16x16": -1.0,
    "Fetch-5x5-N2": 0.32,
    "Fetch-6x6-N2": 0.28,
    "Fetch-8x8-N3": 0.23,
    "GoToObject-6x6-N2": 0.09,
    "MemoryS17Random": 0.25,
    "MemoryS13Random": 0.23,
    "MemoryS13": 0.18,
    "MemoryS11": 0.18,
    "MemoryS9": 0.16,
    "MemoryS7": 0.15,
    "RedBlueDoors-6x6": 0.06,
    "WFC-DungeonMazeScaled": 0.11,
    "WFC-MazeSimple": 0.06,
    "WFC-ObstaclesAngular": 0.09,
}
"""Mean return of the random policy where it is not below 0.05: 1,000 episodes each, WFC 200."""


def minigrid_bounds(name: str) -> Bounds:
    """Scores of ``MiniGrid-<name>-v0``: the random policy's, and the limit that no return can pass."""
    short = name.removeprefix(MINIGRID).removesuffix("-v0")
    if short in _RANDOM:
        how = "random: mean of 200 or more episodes"
    else:
        how = "random: taken as 0, it measures below 0.05 (DoorKey-6x6 0.018, DoorKey-8x8 0.009)"
    return Bounds(_RANDOM.get(short, 0.0), 1.0, f"{how}; expert: limit of a reward that falls from 1 to 0.1 with time")
