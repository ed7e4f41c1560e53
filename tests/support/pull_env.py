"""A task for Gymnasium whose two actions have any bounds, and which remembers what it was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

NAMES = ("Pull.action_0", "Pull.action_1")


class Pull(gym.Env[Any, Any]):
    """Shows two numbers in [-1, 1], and pays minus the distance of the first action, over ``unit``, to the first.

    ``taken`` are the actions of all environments; one that is not in the space is an error.
    """

    taken: ClassVar[list[Any]] = []

    def __init__(self, low: Sequence[float], high: Sequence[float], unit: float = 1.0, dtype: str = "float32") -> None:
        self.action_space = gym.spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=np.dtype(dtype).type)
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
        self.unit = unit

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.shown, self.steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self.shown, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken.append(action)
        reward = -abs(float(action[0]) / self.unit - float(self.shown[0]))
        self.shown = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        self.steps += 1
        return self.shown, reward, False, self.steps == 8, {}


def register(monkeypatch: Any) -> None:
    """Let ``gymnasium.make`` make ``Pull-v0``; gone after the test."""
    monkeypatch.setattr(Pull, "taken", [])
    monkeypatch.setitem(gym.registry, "Pull-v0", gym.envs.registration.EnvSpec("Pull-v0", Pull))
