"""MiniGrid's symbolic view as named planes: objects, colours, and states of doors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from graft.envs.adapters.minigrid.missions import WORDS, with_words
from graft.envs.adapters.spaces import ActionCodec, Array, ObservationCodec, action_codec
from graft.envs.builtin.engine.compile import jit, specialise, standalone
from graft.envs.core.schema import uint8_schema
from graft.envs.core.task import Bounds

MINIGRID = "MiniGrid-"  # how the ids of MiniGrid's tasks begin, without a provider's prefix
OBJECTS = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
STATES = ("open", "closed", "locked")
ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")

_MEANINGS = {
    "object:wall": ("solid",),
    "object:door": ("openable", "solid"),
    "object:key": ("pickup", "solid", "tool"),
    "object:ball": ("pickup", "solid"),
    "object:box": ("openable", "pickup", "solid"),
    "object:goal": ("goal", "reward"),
    "object:lava": ("deadly",),
    "object:agent": ("self",),
    "state:open": ("open", "state"),
    "state:closed": ("closed", "solid", "state"),
    "state:locked": ("locked", "solid", "state"),
    **{f"colour:{colour}": tuple(sorted(("colour", colour))) for colour in COLOURS},
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


@standalone
def paint_words(words: Any, planes: Any, first: Any) -> None:
    """Set the planes of the words (N, words) of missions, of which plane ``first`` is the first one's."""
    for i in range(words.shape[0]):
        for word in range(words.shape[1]):
            if words[i, word]:
                planes[i, first + word] = 1


def _paint_batch(views: Any, planes: Any) -> None:
    for i in range(views.shape[0]):
        paint_view(views[i], planes[i])


_paint = specialise(_paint_batch, {"paint_view": paint_view})


def encode(views: Array, words: Array | None = None) -> Array:
    """Symbolic views (N, W, H, 3) uint8 as planes (N, 20, H, W) uint8 of zeros and ones, then one for each word.

    MiniGrid indexes views by column, then row; planes have rows first. Red and "open" are code 0, which MiniGrid also
    writes where there is no colour or no door; here a colour plane is set only where a thing with a colour is, and a
    state plane only on a door.

    Args:
        words: which words are in each mission (N, words), if these are shown.
    """
    count, width, height, _ = views.shape
    first = len(_NAMES)
    planes = np.zeros((count, first + (0 if words is None else words.shape[1]), height, width), np.uint8)
    _paint(np.ascontiguousarray(views), planes)
    if words is not None:
        paint_words(np.ascontiguousarray(words), planes, first)
    return planes


def minigrid_codecs(
    task: str, image: gym.Space[Any], action: gym.Space[Any], mission: bool = False
) -> tuple[ObservationCodec, ActionCodec]:
    """The codecs of a MiniGrid task, whose view ``image`` is a Box (W, H, 3) of object, colour and state codes.

    Args:
        mission: whether words are shown: then a batch is (N, W * H * 3 + words), as of `MissionCheck`.
    """
    assert image.shape is not None
    shape = image.shape
    width, height, _ = shape
    attributes = tuple(_MEANINGS.get(name, ()) for name in _NAMES)
    schema = uint8_schema("planes", _NAMES, (len(_NAMES), height, width), 1, attributes)
    actions = action_codec(task, action, ACTIONS)
    if not mission:
        return ObservationCodec(schema, encode), actions

    def unpack(raw: Array) -> Array:
        split = raw.shape[1] - len(WORDS)
        return encode(raw[:, :split].reshape(-1, *shape), raw[:, split:])

    return ObservationCodec(with_words(schema), unpack), actions


def _parse(table: str) -> dict[str, float]:
    return {name: float(score) for name, score in map(str.split, table.split(";"))}


_RANDOM = _parse(
    """
    Empty-5x5 0.2;  Empty-6x6 0.14;  Empty-8x8 0.08;  Empty-Random-5x5 0.31;  Empty-Random-6x6 0.26;
    Dynamic-Obstacles-5x5 -0.99;  Dynamic-Obstacles-Random-5x5 -0.81;  Dynamic-Obstacles-6x6 -1.0;
    Dynamic-Obstacles-Random-6x6 -0.91;  Dynamic-Obstacles-8x8 -1.0;  Dynamic-Obstacles-16x16 -1.0;
    Fetch-5x5-N2 0.32;  Fetch-6x6-N2 0.28;  Fetch-8x8-N3 0.23;  GoToObject-6x6-N2 0.09;  MemoryS17Random 0.25;
    MemoryS13Random 0.23;  MemoryS13 0.18;  MemoryS11 0.18;  MemoryS9 0.16;  MemoryS7 0.15;  RedBlueDoors-6x6 0.06;
    WFC-DungeonMazeScaled 0.11;  WFC-MazeSimple 0.06;  WFC-ObstaclesAngular 0.09
    """
)
"""Mean return of the random policy where it is not below 0.05: 1,000 episodes each, WFC 200."""

_RANDOM_BABYAI = _parse(
    """
    GoToObjMazeS4R2-v0 0.15;  GoToLocal-v0 0.17;  GoToLocalS5N2-v0 0.18;  GoToLocalS6N2-v0 0.17;
    GoToLocalS6N3-v0 0.18;  GoToLocalS6N4-v0 0.16;  GoToLocalS7N4-v0 0.16;  GoToLocalS7N5-v0 0.17;
    GoToLocalS8N2-v0 0.14;  GoToLocalS8N3-v0 0.14;  GoToLocalS8N4-v0 0.14;  GoToLocalS8N5-v0 0.15;
    GoToLocalS8N6-v0 0.16;  GoToLocalS8N7-v0 0.17;  GoToObj-v0 0.14;  GoToObjS4-v0 0.16;  GoToObjS6-v1 0.17;
    GoToRedBall-v0 0.16;  GoToRedBallGrey-v0 0.12;  GoToRedBallNoDists-v0 0.13;  GoToRedBlueBall-v0 0.13;
    OneRoomS8-v0 0.09
    """
)
"""The same of BabyAI's tasks in one room, from 1,500 episodes each; the others are not measured."""


def minigrid_bounds(name: str) -> Bounds | None:
    """Scores of ``MiniGrid-<name>-v0``, or BabyAI's whose random policy is measured: random, and the largest return."""
    limit = "expert: limit of a reward that falls from 1 to 0.1 with time"
    if not name.startswith(MINIGRID):
        random = _RANDOM_BABYAI.get(name.removeprefix("BabyAI-"))
        return None if random is None else Bounds(random, 1.0, f"random: mean of 1,500 episodes; {limit}")
    short = name.removeprefix(MINIGRID).removesuffix("-v0")
    if short in _RANDOM:
        how = "random: mean of 200 or more episodes"
    else:
        how = "random: taken as 0, it measures below 0.05 (DoorKey-6x6 0.018, DoorKey-8x8 0.009)"
    return Bounds(_RANDOM.get(short, 0.0), 1.0, f"{how}; {limit}")
