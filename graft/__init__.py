"""Graft: transfer of what a reinforcement-learning agent has learned in one game into another.

>>> from graft import Checkpoint, METHODS, Task, envs
>>> env = envs.make(Task("Graft/Gather-v0", {"slip": 0.3}), num_envs=64, seed=0)

Names are imported when they are first asked for, so that ``import graft`` itself loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.agents import Checkpoint, PolicyNetwork
    from graft.envs import GraftError, Task
    from graft.transfer import METHODS, transplant

__version__ = "0.5.0"

__all__ = ["METHODS", "Checkpoint", "GraftError", "PolicyNetwork", "Task", "__version__", "transplant"]

_HOMES = {
    "Checkpoint": "graft.agents",
    "PolicyNetwork": "graft.agents",
    "GraftError": "graft.envs",
    "Task": "graft.envs",
    "METHODS": "graft.transfer",
    "transplant": "graft.transfer",
}
"""Public name -> the package that has it."""


def __getattr__(name: str) -> Any:
    """Import a public name from its package (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'graft' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
