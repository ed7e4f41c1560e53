"""The algorithm seam of this backend: a frozen dataclass whose fields are its config, and RLlib's config made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from graft.agents.rllib.module import NetworkModule
from graft.agents.training import algorithm
from graft.envs.core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Algorithm(algorithm.Algorithm):
    """An algorithm of RLlib's new API stack."""

    squads: ClassVar[bool] = False
    """Whether it can train the policies of several teams at once."""

    module: ClassVar[type[NetworkModule]] = NetworkModule
    """What its learners and runners hold the network in."""

    @classmethod
    def siblings(cls) -> Mapping[str, type[Any]]:
        """Those of this backend."""
        return dict(ALGORITHMS.items())

    def config(self, num_learners: int) -> AlgorithmConfig:
        """RLlib's config with these options, which the backend adds network, environments and resources to."""
        raise NotImplementedError


ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "graft.agents.rllib.algorithms")
