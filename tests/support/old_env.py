"""Environments with mistakes, for processes that know them by ``support.old_env:OldElsewhere-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class OldElsewhere(gym.Env[Any, Any]):
    """Its reset returns the observation alone."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(3, np.float32)


class CrampedElsewhere(gym.Env[Any, Any]):
    """Shows numbers that its bytes cannot hold, as a part of its observations; its rewards are arrays."""

    observation_space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (2, 2), np.uint8)})
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return {"image": np.array([[300, 455], [255, 300]])}, {}

    def step(self, action: Any) -> Any:
        return {"image": np.array([[300, 455], [255, 300]])}, np.array([2.0]), False, False, {}


gym.register("OldElsewhere-v0", entry_point=OldElsewhere, max_episode_steps=20)
gym.register("CrampedElsewhere-v0", entry_point=CrampedElsewhere, max_episode_steps=20)
