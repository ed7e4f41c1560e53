"""A wrapper that keeps numbers of the last step's info, which batches of environments do not pass on."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np

from graft.envs.core.task import Task
from graft.envs.core.wrappers import WRAPPERS

TOLD = "told_in_infos"
"""The wrapper's attribute."""


class LastInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the numbers under ``keys`` of the last step's info; not a number (nan) where there is none."""

    def __init__(self, env: Any, keys: list[str]) -> None:
        super().__init__(env)
        self._keys = keys
        self.told_in_infos = dict.fromkeys(keys, math.nan)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.told_in_infos = {key: _number(info.get(key)) for key in self._keys}
        return obs, reward, terminated, truncated, info


def _number(value: Any) -> float:
    """A number, a boolean or an array of one of them without axes; not a number for all else, such as text."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real | np.bool_):
        return math.nan
    number: Any = value
    try:
        return float(number)
    except OverflowError:  # a whole number beyond the largest float
        return math.inf if number > 0 else -math.inf


def telling(task: Task, key: str) -> Task:
    """``task`` whose environments keep what their infos say under ``key``."""
    given = task.kwargs.get(WRAPPERS, [])
    inner = list(given) if isinstance(given, list | tuple) else [given]
    kept = {f"{LastInfo.__module__}:{LastInfo.__name__}": {"keys": [key]}}
    return Task(task.id, {**task.kwargs, WRAPPERS: [*inner, kept]})
