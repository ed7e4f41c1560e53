"""Missions of MiniGrid and BabyAI, the instruction of an episode, as planes: one per word, 1 throughout if it occurs.

The order of words is lost. Every task of both shows the same words, so that networks transfer.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np

from graft.envs.adapters.minigrid.worlds import is_sentence, symbolic_view
from graft.envs.adapters.parts import PartCheck, part_of
from graft.envs.adapters.spaces import Array
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.task import Task
from graft.envs.supervision.observation_check import ObservationCheck
from graft.errors import GraftError

GRIDS = ("MiniGrid-", "BabyAI-")  # how the ids of the tasks with missions begin, without a provider's prefix
KEYWORD = "mission"

WORDS = (
    *("a", "after", "and", "at", "avoid", "ball", "behind", "blue", "box"),
    *("door", "end", "fetch", "find", "from", "front", "get", "go", "goal"),
    *("green", "grey", "hallway", "in", "key", "lava", "left", "matching", "maze"),
    *("must", "near", "next", "object", "of", "on", "open", "opening", "pick"),
    *("purple", "put", "reach", "red", "right", "room", "rooms", "square", "the"),
    *("then", "to", "traverse", "unlock", "up", "use", "yellow", "you", "your"),
)
"""All words of their missions."""

_PLACES = {word: i for i, word in enumerate(WORDS)}
_VARYING = re.compile(
    r"BabyAI-|MiniGrid-(BlockedUnlockPickup|Fetch|GoToDoor|GoToObject|KeyCorridor|LockedRoom|PutNear|UnlockPickup)"
)


def is_grid(task_id: str) -> bool:
    """Whether it is a task of MiniGrid or BabyAI, by its id with or without a provider's prefix."""
    return short(task_id).startswith(GRIDS)


def short(task_id: str) -> str:
    """The id without ``envpool/`` or a module."""
    return task_id.removeprefix("envpool/").rpartition(":")[2]


def shows_mission(task_id: str, space: gym.Space[Any] | None = None) -> bool:
    """Whether a task shows its mission by default: MiniGrid's where it differs between episodes, BabyAI's all do.

    The mission's ``space``, where it is known, says which words of the sentence vary, or that it is a BabyAI's.
    """
    choices = getattr(space, "ordered_placeholders", None)
    if type(space).__name__ == "BabyAIMissionSpace":
        return True
    if choices is None or short(task_id).startswith("BabyAI-"):
        return _VARYING.match(short(task_id)) is not None
    return any(len(words) > 1 for words in choices)


def split_mission(task: Task) -> tuple[Task, bool | None]:
    """A grid's task without the keyword ``mission``, and its value or None; raises GraftError for no boolean."""
    if KEYWORD not in task.kwargs:
        return task, None
    value = task.kwargs[KEYWORD]
    if not isinstance(value, bool):
        raise GraftError(f"mission={value!r} of {task.id} is not allowed; give true or false.")
    return Task(task.id, {key: given for key, given in task.kwargs.items() if key != KEYWORD}), value


@lru_cache(maxsize=1 << 16)
def word_row(mission: bytes) -> bytes:
    """Which of `WORDS` are in a mission, one byte each; punctuation, capitals and other words set nothing."""
    row = bytearray(len(WORDS))
    for word in re.findall(rb"[a-z]+", mission.lower()):
        place = _PLACES.get(word.decode())
        if place is not None:
            row[place] = 1
    return bytes(row)


def word_rows(missions: Array) -> Array:
    """Missions (N, B) uint8, filled up with zeros, as rows (N, words) uint8 of zeros and ones."""
    count = len(missions)
    used = np.flatnonzero(missions.any(axis=0))
    width = int(used[-1]) + 1 if len(used) else 1  # most of them leave most of it empty
    sentences = np.ascontiguousarray(missions[:, :width]).view(f"S{width}").ravel().tolist()
    return np.frombuffer(b"".join(map(word_row, sentences)), np.uint8).reshape(count, len(WORDS))


def with_words(schema: ObservationSchema) -> ObservationSchema:
    """``schema`` with the planes of words added."""
    return schema.extended(tuple(f"mission:{word}" for word in WORDS), "mission")


class MissionObservation(gym.Wrapper[Any, Any, Any, Any]):
    """Marks an environment of MiniGrid's package whose mission is shown (`MissionCheck`); changes nothing."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.step = env.step  # type: ignore[method-assign]  # not even a call


class MissionCheck(ObservationCheck):
    """Checks the image of observations with a mission, and packs its bytes and the words into one array."""

    packs = True

    def __init__(self, space: gym.spaces.Dict, strict: bool) -> None:
        self._image = PartCheck(space, "image", strict)
        size = int(np.prod(self._image.shape)) + len(WORDS)
        super().__init__(gym.spaces.Box(0, 255, (size,), np.uint8), strict, clips=self._image.clips)

    def fitting(self, shown: Any) -> Any:
        image = self._image.read(shown)
        row = np.frombuffer(word_row(str(part_of(shown, KEYWORD)).encode()), np.uint8)
        return np.concatenate([image.ravel(), row])


def mission_observation(env: gym.Env[Any, Any], task_id: str, mission: bool | None) -> gym.Env[Any, Any]:
    """A world in whatever wrappers, wrapped where its mission is to be shown.

    Raises:
        GraftError: it is to be shown, but there is no view by codes with a sentence.
    """
    space: Any = env.observation_space
    sentence = space.get(KEYWORD) if isinstance(space, gym.spaces.Dict) else None
    if not is_sentence(sentence) or symbolic_view(env) is None:
        if mission:
            raise GraftError(f"mission=true of {task_id} is not possible: its wrappers leave no view with a sentence.")
        return env
    wanted = shows_mission(task_id, sentence) if mission is None else mission
    return MissionObservation(env) if wanted else env
