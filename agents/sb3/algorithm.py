"""The algorithm seam of this backend: a frozen dataclass whose fields are its config, and what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training import algorithm
from graft.agents.training.backend import Gradients
from graft.envs.core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Algorithm(algorithm.Algorithm):
    """An algorithm of Stable-Baselines3."""

    @classmethod
    def siblings(cls) -> Mapping[str, type[Any]]:
        """Those of this backend."""
        return dict(ALGORITHMS.items())

    def learner(
        self, network: PolicyNetwork, env: BatchVecEnv, seed: int, gradients: Gradients | None, device: str
    ) -> BaseAlgorithm:
        """A learner of the library that trains ``network`` in place and passes its gradients through ``gradients``."""
        raise NotImplementedError


ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "graft.agents.sb3.algorithms")
