"""A game in two builds, for processes that know it by ``support.patched_env:Sides-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

LENGTH = 4

AGENT = {"schema": {"observation": ["side", "time"], "action": ["left", "right"]}}
PATCHED = {
    "id": "support.patched_env:Sides-v0",
    "kwargs": {"pay": 0.5, "wide": True},
    "schema": {"observation": ["side", "time", "hazard"], "action": ["left", "right", "wait"]},
}


class Sides(gym.Env[Any, Any]):
    """Shows the episode's side, -1 or 1, and the time; pays ``pay`` a step, and ``right`` more on the side chosen.

    ``luck``: paid a step in episodes of the right side, whatever is chosen. ``wide``: the build with another
    observation, ``hazard``, and another action. Infos tell the side and the time, and some of them ``found``.
    """

    def __init__(self, pay: float = 1.0, right: float = 0.0, wide: bool = False, luck: float = 0.0) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (3 if wide else 2,), np.float32)
        self.action_space = gym.spaces.Discrete(3 if wide else 2)
        self.pay, self.right, self.wide, self.luck = pay, right, wide, luck

    def _shown(self) -> Any:
        return np.array([self.side, self.time / LENGTH, 0.5][: 3 if self.wide else 2], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.side, self.time = int(self.np_random.choice([-1, 1])), 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        told = {"side": self.side, "time": self.time, "word": "none"}
        if 1 < self.time < LENGTH:
            told["found"] = True
        chosen = int(action) == (self.side + 1) // 2
        paid = self.pay + self.right * chosen + self.luck * (self.side > 0)
        return self._shown(), paid, self.time == LENGTH, False, told


gym.register("Sides-v0", entry_point=Sides)
