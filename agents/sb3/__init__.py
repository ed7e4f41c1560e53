"""The Stable-Baselines3 backend; the only place that imports it."""

from graft.agents.sb3.algorithm import ALGORITHMS, Algorithm
from graft.agents.sb3.backend import train
from graft.agents.training.algorithm import architecture_for

__all__ = ["ALGORITHMS", "Algorithm", "architecture_for", "train"]
