"""The RLlib backend; the only place in `agents` that imports Ray, beside `graft.agents.ray_session.auth`."""

from graft.agents.rllib.algorithm import ALGORITHMS, Algorithm
from graft.agents.rllib.backend import train

__all__ = ["ALGORITHMS", "Algorithm", "train"]
