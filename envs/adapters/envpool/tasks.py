"""Codecs of EnvPool's tasks, and checks of keywords that EnvPool does not check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from graft.envs.adapters.atari.adapter import atari_actions, atari_codec, check_atari, is_atari
from graft.envs.adapters.envpool.robots import robot_names
from graft.envs.adapters.masks import check_size, check_wanted, has_mask, pool_codec, rest_of, takes_masks
from graft.envs.adapters.minigrid.adapter import encode, minigrid_codecs
from graft.envs.adapters.minigrid.missions import is_grid, shows_mission, word_rows
from graft.envs.adapters.names import Names, known_names
from graft.envs.adapters.procgen.adapter import ACTIONS, check_procgen, is_procgen, procgen_codec
from graft.envs.adapters.spaces import ActionCodec, ObservationCodec, action_codec, observation_codec
from graft.envs.core.task import Task
from graft.errors import GraftError

Codecs = tuple[ObservationCodec, ActionCodec]
FORM = ("env_name", "task", "task_name", "distribution_mode")
"""Keywords that an id stands for: with another value it would be another task."""

LIMIT = "max_episode_steps"


def check(task: Task, config: Mapping[str, Any]) -> None:
    """Raises GraftError for values of ``config``, EnvPool's with the task's keywords, that EnvPool misreads."""
    given = {key: value for key, value in config.items() if not isinstance(value, bool) and key in task.kwargs}
    if any(not isinstance(value, int | float) for value in given.values()):
        return  # EnvPool names a value of a wrong type
    if given.get(LIMIT, 1) < 1:
        raise GraftError(f"{LIMIT}={given[LIMIT]} of {task.id} is not allowed; give 1 or more.")
    if is_atari(config):
        check_atari(task.id, config)
    if is_procgen(config):
        check_procgen(task.id, config)


def codecs_of(
    task: Task,
    name: str,
    config: Mapping[str, Any],
    space: gym.Space[Any],
    action: gym.Space[Any],
    mission: bool | None = None,
    channels: Any = None,
    masks: bool | None = None,
) -> Codecs:
    """The codecs of EnvPool's ``name``, the id of ``task`` without its prefix; raises GraftError for other spaces.

    ``config`` holds all its keywords; ``mission`` says whether MiniGrid's is shown, None for the default; ``channels``
    is what the user says of pictures; ``masks`` says whether action masks are used, None where there are some.
    """
    if is_grid(name) and isinstance(space, gym.spaces.Dict):
        return _grid_codecs(task.id, space, action, shows_mission(name) if mission is None else mission)
    if is_atari(config) and isinstance(space, gym.spaces.Box) and isinstance(action, gym.spaces.Discrete):
        moves = atari_actions(name, int(action.n))
        return atari_codec(space, int(config["stack_num"])), action_codec(task.id, action, moves)
    names, has_masks = _names(task, name, space, action), has_mask(space) and takes_masks(action)
    check_wanted(task.id, masks, "observation" if has_masks else None)
    if has_masks and masks is not False:
        check_size(task.id, space, action)
        taken = action_codec(task.id, action, names.action)
        plain = observation_codec(task.id, _unbounded(rest_of(space)), names.observation, channels)
        return pool_codec(space, plain, taken), taken
    shown = observation_codec(task.id, _unbounded(space), names.observation, channels)
    if is_procgen(config):
        return procgen_codec(shown), action_codec(task.id, action, ACTIONS)
    return shown, action_codec(task.id, action, names.action)


def _grid_codecs(task_id: str, space: gym.spaces.Dict, action: gym.Space[Any], mission: bool) -> Codecs:
    shown, actions = minigrid_codecs(task_id, space["image"], action, mission)
    if not mission:
        return ObservationCodec(shown.schema, lambda raw: encode(raw["image"])), actions
    return ObservationCodec(shown.schema, lambda raw: encode(raw["image"], word_rows(raw["mission"]))), actions


def _names(task: Task, name: str, space: gym.Space[Any], action: gym.Space[Any]) -> Names:
    known = known_names(name, action)
    return known if known != Names() else robot_names(name, task.kwargs, int(np.prod(space.shape or ())))


def _unbounded(space: gym.Space[Any]) -> gym.Space[Any]:
    """EnvPool writes the smallest positive number where it means no lower bound (LunarLander); say so instead."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(name, _unbounded(part)) for name, part in space.items()])
    if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return space
    dtype: Any = space.dtype
    low = np.where(space.low == np.finfo(dtype).tiny, -np.inf, space.low)
    return gym.spaces.Box(low.astype(dtype), space.high, space.shape, dtype.type)
