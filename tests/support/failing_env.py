"""An environment that fails now and then, for processes that know it by ``support.failing_env:FailsSoon-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class FailsSoon(gym.Env[Any, Any]):
    """Raises in the fifth step of each episode."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 5:
            raise ZeroDivisionError("a bug")
        return np.zeros(3, np.float32), 0.0, self.steps >= 20, False, {}


gym.register("FailsSoon-v0", entry_point=FailsSoon, max_episode_steps=20)
