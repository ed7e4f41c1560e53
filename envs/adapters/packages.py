"""Which third-party packages of environments are installed, without importing them."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import gymnasium as gym

from graft.errors import GraftError

READY = "ready"
INSTALL = "pip install 'graft-rl[games]'"

PARTS = {
    "Gymnasium classic control": ("", "gymnasium.envs.classic_control."),
    "Gymnasium toy text": ("", "gymnasium.envs.toy_text."),
    "Gymnasium Box2D": ("Box2D", "gymnasium.envs.box2d."),
    "Gymnasium MuJoCo": ("mujoco", "gymnasium.envs.mujoco."),
    "MiniGrid": ("minigrid", "minigrid."),
    "ALE": ("ale_py", "ale_py."),
}
"""Part of Gymnasium's registry -> the package that it needs, if any, and how the names of its modules begin."""


def state(package: str, name: str = "", install: str = INSTALL) -> str:
    """`READY`, or a sentence with the line that installs ``package`` as Python imports it; "" is always there."""
    if not package or find_spec(package) is not None:
        return READY
    return f"{name or package} is not installed; install it with `{install}`."


def is_ours(package: str) -> bool:
    """Whether `INSTALL` installs ``package``, as Python imports it."""
    return any(needed == package for needed, _ in PARTS.values())


def missing_package(what: str, error: Exception) -> GraftError:
    """The error for ``what`` (such as "Task 'X-v0'"), whose import failed with ``error``."""
    package = getattr(error, "name", None) or getattr(error.__cause__, "name", None)
    root = package.partition(".")[0] if package else ""
    line = f"`{INSTALL if is_ours(root) else f'pip install {root}'}`" if root else f"{error}"
    return GraftError(f"{what} needs a package that is not installed; install it: {line}")


def gymnasium_states() -> dict[str, str]:
    """Part of `PARTS` -> its state."""
    return {name: state(package, name.removeprefix("Gymnasium ")) for name, (package, _) in PARTS.items()}


def gymnasium_counts() -> dict[str, int]:
    """Part of `PARTS` -> how many ids it registers; imports the packages that are installed."""
    for package, modules in PARTS.values():
        if modules.startswith(f"{package}.") and find_spec(package) is not None:
            importlib.import_module(package)
    entries = [str(spec.entry_point) for spec in gym.registry.values()]
    return {name: sum(entry.startswith(modules) for entry in entries) for name, (_, modules) in PARTS.items()}
