"""Registered scores of well-known tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.envs.adapters.atari.adapter import atari_bounds
from graft.envs.adapters.minigrid.adapter import minigrid_bounds
from graft.envs.adapters.minigrid.missions import is_grid
from graft.envs.adapters.procgen.adapter import procgen_bounds
from graft.envs.core.task import Bounds

_ZOO = "expert: mean of {} in the benchmark table of RL Baselines3 Zoo"
_SOLVED = "random: mean of {} episodes; expert: the return from which Gymnasium calls it solved"
BOUNDS = {
    "CartPole-v1": Bounds(22.4, 500.0, "random: mean of 10,000 episodes; expert: the longest possible episode"),
    "Acrobot-v1": Bounds(-498.9, -69.1, "random: mean of 1,000 episodes; " + _ZOO.format("QR-DQN")),
    "MountainCar-v0": Bounds(-200.0, -100.8, "random: mean of 1,000 episodes; " + _ZOO.format("DQN")),
    "Pendulum-v1": Bounds(-1226.6, -151.9, "random: mean of 2,000 episodes; " + _ZOO.format("TD3")),
    **dict.fromkeys(("LunarLander-v2", "LunarLander-v3"), Bounds(-183.2, 200.0, _SOLVED.format("3,000"))),
    **dict.fromkeys(
        ("LunarLanderContinuous-v2", "LunarLanderContinuous-v3"), Bounds(-210.4, 200.0, _SOLVED.format("3,000"))
    ),
    "BipedalWalker-v3": Bounds(-100.4, 300.0, _SOLVED.format("900")),
    "BipedalWalkerHardcore-v3": Bounds(-108.9, 300.0, _SOLVED.format("400")),
}
"""Under any keywords."""


def known_bounds(name: str, kwargs: Mapping[str, Any]) -> Bounds | None:
    """Registered scores of the id ``name``, without its provider's prefix, or None."""
    if is_grid(name):
        return minigrid_bounds(name)
    return BOUNDS.get(name) or atari_bounds(name, kwargs) or procgen_bounds(name)
