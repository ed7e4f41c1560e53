"""Which environments are worlds of MiniGrid's package, under whatever id, and whether they show its codes."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np

WORLD_PARTS = {"image", "direction", "mission"}
"""What every world shows; the direction is left out."""

_OTHER_VIEWS = {"RGBImgObsWrapper", "RGBImgPartialObsWrapper", "OneHotPartialObsWrapper", "SymbolicObsWrapper"}
"""MiniGrid's wrappers whose image is not one of objects, colours and states."""


def _world_class() -> type[Any] | None:
    """The class of all worlds, where MiniGrid is loaded, as it is where there are any."""
    return getattr(sys.modules.get("minigrid.minigrid_env"), "MiniGridEnv", None)


def is_world(env: gym.Env[Any, Any]) -> bool:
    """Whether ``env``, in whatever wrappers, is one of MiniGrid's worlds, or somebody's own."""
    world = _world_class()
    return world is not None and isinstance(env.unwrapped, world)


def makes_world(creator: Any) -> bool:
    """Whether ``creator`` is the class of a world, or a function once MiniGrid is loaded: that may make one."""
    world = _world_class()
    return world is not None and (issubclass(creator, world) if isinstance(creator, type) else True)


def is_sentence(space: gym.Space[Any] | None) -> bool:
    """Whether a space is of text: MiniGrid has one of its own."""
    return isinstance(space, gym.spaces.Text) or hasattr(space, "mission_func")


def symbolic_view(env: gym.Env[Any, Any]) -> gym.spaces.Box | None:
    """The space (W, H, 3) of a world's view by codes of objects, colours and states; None where it shows another.

    It is the whole observation (``ImgObsWrapper``) or the image of a dictionary, beside a sentence.
    """
    space: Any = env.observation_space
    if isinstance(space, gym.spaces.Dict):
        space = space.get("image")
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or space.shape[2:] != (3,):
        return None
    while isinstance(env, gym.Wrapper):  # the first that shows another view says so
        if any(kind.__name__ in _OTHER_VIEWS for kind in type(env).__mro__):
            return None
        env = env.env
    return space


def image_beside_sentence(env: gym.Env[Any, Any]) -> gym.spaces.Box | None:
    """The space of a dictionary's image, which stands beside a sentence and perhaps a direction; else None."""
    space: Any = env.observation_space
    if not isinstance(space, gym.spaces.Dict) or not is_sentence(space.get("mission")):
        return None
    image = space.get("image")
    return image if isinstance(image, gym.spaces.Box) else None
