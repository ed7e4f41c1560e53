"""The RLlib backend; the only place in `agents` that imports Ray, beside `agents.ray_access`."""

from agents.rllib.algorithm import ALGORITHMS, Algorithm
from agents.rllib.backend import train

__all__ = ["ALGORITHMS", "Algorithm", "train"]
