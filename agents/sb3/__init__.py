"""The Stable-Baselines3 backend; the only place that imports it."""

from agents.algorithm import architecture_for
from agents.sb3.algorithm import ALGORITHMS, Algorithm
from agents.sb3.backend import train

__all__ = ["ALGORITHMS", "Algorithm", "architecture_for", "train"]
