"""Base class of this backend's algorithms: a frozen dataclass whose fields are its config, and RLlib's config."""

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

    squads: ClassVar[bool] = False  # whether it can train several policies, those of a squad's teams
    module: ClassVar[type[NetworkModule]] = NetworkModule  # the RLModule of learners and runners

    @classmethod
    def siblings(cls) -> Mapping[str, type[Any]]:
        return dict(ALGORITHMS.items())

    def config(self, num_learners: int, budget: int | None = None) -> AlgorithmConfig:
        """RLlib's config with these options, for ``budget`` env steps; the backend adds network, environments and
        resources.
        """
        raise NotImplementedError


ALGORITHMS: Registry[type[Algorithm]] = Registry(
    "algorithm", "graft.agents.rllib.algorithms", Algorithm, "graft.algorithms.rllib"
)
