"""The RLlib backend; only it and `ray_session` import Ray."""

from graft.agents.rllib.algorithm import ALGORITHMS, Algorithm
from graft.agents.rllib.backend import train

__all__ = ["ALGORITHMS", "Algorithm", "train"]
