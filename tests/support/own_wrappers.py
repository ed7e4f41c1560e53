"""Wrappers as users write them, for tasks that name them by ``support.own_wrappers:Class``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Chosen(gym.ObservationWrapper[Any, Any, Any]):
    """Shows the features at ``places`` times ``scale``, which has one number for each."""

    def __init__(self, env: gym.Env[Any, Any], places: tuple[int, ...], scale: np.ndarray[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(places, tuple)
        assert isinstance(scale, np.ndarray)
        self.places, self.scale = list(places), scale
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(places),))
        self.observation_names = [f"chosen_{place}" for place in places]

    def observation(self, observation: Any) -> Any:
        return (observation[self.places] * self.scale).astype(np.float32)


class Fined(gym.Wrapper[Any, Any, Any, Any]):
    """Takes ``fines`` (a list) off the rewards, in turns."""

    def __init__(self, env: gym.Env[Any, Any], fines: list[float]) -> None:
        super().__init__(env)
        assert isinstance(fines, list)
        self.fines, self.steps = fines, 0

    def step(self, action: Any) -> Any:
        obs, reward, *rest = self.env.step(action)
        self.steps += 1
        return obs, float(reward) - self.fines[self.steps % len(self.fines)], *rest


def no_env(env: gym.Env[Any, Any]) -> int:
    """No wrapper."""
    return 3


def halved(reward: Any) -> float:
    """Half a reward."""
    return float(reward) / 2
