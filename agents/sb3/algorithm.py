"""The algorithm seam of this backend: a frozen dataclass whose fields are its config, and what it makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.backend import Gradients
from agents.network import PolicyNetwork
from agents.sb3.vec_env import BatchVecEnv
from envs.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Options that every algorithm has.

    Attributes:
        num_envs: environments in the training batch.
    """

    num_envs: Annotated[int, Field(ge=1)] = 64

    def learner(
        self, network: PolicyNetwork, env: BatchVecEnv, seed: int, gradients: Gradients | None, device: str
    ) -> BaseAlgorithm:
        """A learner of the library that trains ``network`` in place and passes its gradients through ``gradients``."""
        raise NotImplementedError


ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "agents.sb3.algorithms")
