"""A wrapper that flattens dictionary and tuple observations into one array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from graft.envs.adapters.spaces import ObservationCodec, parts_codec
from graft.envs.supervision.supervised_batch import SingleEnv


class FlattenObservation(gym.ObservationWrapper[Any, Any, Any]):
    """Flattens the parts of an observation one after the other; ``codec`` is that of batches of the result.

    ``names``: part -> names of its features, where its author gave them. ``channels``: of pictures, as the user says.
    """

    def __init__(
        self,
        env: SingleEnv,
        task: str,
        names: Mapping[str, tuple[str, ...]] | None = None,
        channels: Any = None,
    ) -> None:
        super().__init__(env)
        schema, self._encode = parts_codec(task, env.observation_space, names or {}, channels)
        self.observation_space = schema.space()
        self.codec = ObservationCodec(schema, np.copy)

    def observation(self, observation: Any) -> Any:
        return self._encode(_batch_of_one(observation))[0]


def _batch_of_one(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _batch_of_one(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_batch_of_one, value))
    return np.asarray(value)[None]


def flatten_parts(env: SingleEnv, task: str, channels: Any = None) -> SingleEnv:
    """``env``, wrapped where its observations have parts."""
    if not isinstance(env.observation_space, gym.spaces.Dict | gym.spaces.Tuple):
        return env
    names = own_attribute(env, "observation_names")
    given = {str(part): tuple(map(str, own)) for part, own in names.items()} if isinstance(names, dict) else {}
    return FlattenObservation(env, task, given, channels)


def own_attribute(env: SingleEnv, name: str) -> Any:
    """What an author says about an environment, in the outermost wrapper that has it; None where nobody does."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
