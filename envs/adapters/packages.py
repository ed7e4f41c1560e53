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


SAME_NAME = (
    *("gymnasium", "imageio", "jax", "matplotlib", "moviepy", "mpe2", "networkx", "numba", "pandas", "pettingzoo"),
    *("pybullet", "pygame", "pymunk", "rlcard", "scipy", "shapely", "shimmy", "sinergym", "tqdm", "vizdoom"),
)
PACKAGES = {
    **dict(zip(SAME_NAME, SAME_NAME, strict=True)),
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "dm_control": "dm-control",
    "dotenv": "python-dotenv",
    "flappy_bird_gymnasium": "flappy-bird-gymnasium",
    "gym_aloha": "gym-aloha",
    "gym_anytrading": "gym-anytrading",
    "gym_pusht": "gym-pusht",
    "gym_xarm": "gym-xarm",
    "gymnasium_robotics": "gymnasium-robotics",
    "highway_env": "highway-env",
    "mo_gymnasium": "mo-gymnasium",
    "OpenGL": "PyOpenGL",
    "panda_gym": "panda-gym",
    "PIL": "pillow",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Module, as Python imports it -> the package that brings it, as pip installs it."""


def state(package: str, name: str = "", install: str = INSTALL) -> str:
    """`READY`, or a sentence with the line that installs ``package`` as Python imports it; "" is always there."""
    if not package or find_spec(package) is not None:
        return READY
    return f"{name or package} is not installed; install it with `{install}`."


def is_ours(package: str) -> bool:
    """Whether `INSTALL` installs ``package``, as Python imports it."""
    return any(needed == package for needed, _ in PARTS.values())


def install_line(module: str) -> str | None:
    """What installs the package that brings a module, where that is known."""
    return INSTALL if is_ours(module) else f"pip install {PACKAGES[module]}" if module in PACKAGES else None


def missing_package(what: str, error: Exception) -> GraftError:
    """The error for ``what`` (such as "Task 'X-v0'"), whose import failed with ``error``.

    A module does not say which package brings it: only those of `PACKAGES` get the line that installs it.
    """
    causes = [cause for cause in (error, error.__cause__) if isinstance(cause, ModuleNotFoundError) and cause.name]
    if not causes:
        if isinstance(error, ImportError) and not isinstance(error, gym.error.DependencyNotInstalled):
            return GraftError(f"{what} needs a package that cannot be imported: {str(error).rstrip('.')}.")
        return GraftError(f"{what} needs a package that is not installed; install it: {error}")
    module = str(causes[0].name)
    root = module.partition(".")[0]
    if line := install_line(root):
        return GraftError(f"{what} needs a package that is not installed; install it: `{line}`")
    return GraftError(
        f"{what} needs the Python module '{module}', which is not installed; install the package that brings it, or "
        f"put its folder on PYTHONPATH."
    )


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
