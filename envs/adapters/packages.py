"""Which third-party packages of environments are installed, without importing them."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import NamedTuple

import gymnasium as gym

READY = "ready"
INSTALL = "pip install 'graft-rl[games]'"


class Part(NamedTuple):
    """A part of Gymnasium's registry: the package it needs, if any, and how the names of its modules begin."""

    package: str
    modules: str


PARTS = {
    "Gymnasium classic control": Part("", "gymnasium.envs.classic_control."),
    "Gymnasium toy text": Part("", "gymnasium.envs.toy_text."),
    "Gymnasium Box2D": Part("Box2D", "gymnasium.envs.box2d."),
    "Gymnasium MuJoCo": Part("mujoco", "gymnasium.envs.mujoco."),
    "MiniGrid": Part("minigrid", "minigrid."),
    "ALE": Part("ale_py", "ale_py."),
}
"""Parts of Gymnasium itself, and packages that register their environments with it when they are imported."""


def state(package: str, name: str = "", install: str = INSTALL) -> str:
    """`READY`, or a sentence with the line that installs ``package``; "" is always there.

    Args:
        package: as Python imports it. name: its usual name, if that differs.
    """
    if not package or find_spec(package) is not None:
        return READY
    return f"{name or package} is not installed; install it with `{install}`."


def is_ours(package: str) -> bool:
    """Whether `INSTALL` installs ``package``, as Python imports it."""
    return any(part.package == package for part in PARTS.values())


def gymnasium_states() -> dict[str, str]:
    """Part of `PARTS` -> its state."""
    return {name: state(part.package, name.removeprefix("Gymnasium ")) for name, part in PARTS.items()}


def gymnasium_counts() -> dict[str, int]:
    """Part of `PARTS` -> how many ids it registers; imports the packages that are installed."""
    for part in PARTS.values():
        if part.modules.startswith(f"{part.package}.") and find_spec(part.package) is not None:
            importlib.import_module(part.package)
    entries = [str(spec.entry_point) for spec in gym.registry.values()]
    return {name: sum(entry.startswith(part.modules) for entry in entries) for name, part in PARTS.items()}
