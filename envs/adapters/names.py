"""Names of features and actions: of well-known environments from their documentation, and where nobody knows any.

Two tasks that share a name share its weights in a transfer, so a name is used only where it means the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym


def index_names(task: str, stem: str, count: int, start: int = 0) -> tuple[str, ...]:
    """``("Maze.obs_0", "Maze.obs_1", ...)``: names where a library knows none.

    They carry the task's name, without its version, because feature 3 of one game is not feature 3 of another.
    """
    return tuple(f"{game_name(task)}.{stem}_{i}" for i in range(start, start + count))


def game_name(task: str) -> str:
    """A task's id without provider, module and version: ``Maze``."""
    return re.sub(r"-v\d+$", "", task.removeprefix("envpool/").rpartition(":")[2])


def value_names(entries: tuple[str, ...], values: Sequence[range], given: tuple[str, ...] | None) -> tuple[str, ...]:
    """``("Maze.obs_0=5", "Maze.obs_0=6", ...)``: one name for each value of each entry, so that sizes may change.

    Args:
        entries: names of the entries where nobody knows any. values: those of each entry.
        given: names of all values, or of all entries; not used where there are as many of neither.
    """
    if given is not None and len(given) == sum(map(len, values)):
        return given
    named = given if given is not None and len(given) == len(entries) else entries
    return tuple(f"{entry}={value}" for entry, own in zip(named, values, strict=True) for value in own)


def frame_names(names: tuple[str, ...], frames: int) -> tuple[str, ...]:
    """``names`` of each of several frames, the oldest first: ``frame_0:red``."""
    return tuple(f"frame_{i}:{name}" for i in range(frames) for name in names)


class Names(NamedTuple):
    """Names of one environment's observation features and of its actions, where they are known."""

    observation: tuple[str, ...] | None = None
    action: tuple[str, ...] | None = None


_CARTPOLE = Names(("cart_position", "cart_velocity", "pole_angle", "pole_velocity"), ("left", "right"))
_ACROBOT = Names(
    ("cos_angle_1", "sin_angle_1", "cos_angle_2", "sin_angle_2", "angular_velocity_1", "angular_velocity_2"),
    ("torque_negative", "torque_zero", "torque_positive"),
)

_LANDER_FEATURES = (
    *("lander.x", "lander.y", "lander.velocity_x", "lander.velocity_y", "lander.angle", "lander.angle_velocity"),
    *("lander.contact_1", "lander.contact_2"),
)
_LANDER = Names(_LANDER_FEATURES, ("noop", "left_engine", "main_engine", "right_engine"))
_LANDER_CONTINUOUS = Names(_LANDER_FEATURES, ("main_engine", "lateral_engine"))
_LEG = ("hip_angle", "hip_velocity", "knee_angle", "knee_velocity", "contact")
_WALKER = Names(
    (
        *("hull.angle", "hull.angle_velocity", "hull.velocity_x", "hull.velocity_y"),
        *(f"leg_{i}.{what}" for i in (1, 2) for what in _LEG),
        *(f"lidar_{i}" for i in range(10)),
    ),
    tuple(f"leg_{i}.{joint}" for i in (1, 2) for joint in ("hip", "knee")),
)
_CAR = Names(None, ("steering", "gas", "brake"))
_CAR_DISCRETE = Names(None, ("noop", "steer_right", "steer_left", "gas", "brake"))

_BY_NAME = {
    "CartPole-v0": _CARTPOLE,
    "CartPole-v1": _CARTPOLE,
    "MountainCar-v0": Names(("position", "velocity"), ("left", "noop", "right")),
    "MountainCarContinuous-v0": Names(("position", "velocity"), ("force",)),
    "Acrobot-v1": _ACROBOT,
    "Pendulum-v1": Names(("cos_angle", "sin_angle", "angular_velocity"), ("torque",)),
    **dict.fromkeys(("LunarLander-v2", "LunarLander-v3"), _LANDER),
    **dict.fromkeys(("LunarLanderContinuous-v2", "LunarLanderContinuous-v3"), _LANDER_CONTINUOUS),
    **dict.fromkeys(("BipedalWalker-v3", "BipedalWalkerHardcore-v3"), _WALKER),
    **dict.fromkeys(("CarRacing-v2", "CarRacing-v3"), _CAR),
}
_OTHER_FORM = {_LANDER: _LANDER_CONTINUOUS, _CAR: _CAR_DISCRETE}  # what a task is with the keyword ``continuous``


def known_names(env_id: str, actions: gym.Space[Any] | None = None) -> Names:
    """The names of ``env_id`` (without a prefix), empty where unknown; ``actions`` tells the forms of a task apart."""
    found = _BY_NAME.get(env_id, Names())
    other = _OTHER_FORM.get(found)
    if other is None or other.action is None or actions is None:
        return found
    count = actions.n if isinstance(actions, gym.spaces.Discrete) else math.prod(actions.shape or ())
    return other if int(count) == len(other.action) else found
