"""The algorithm seam of this backend: a frozen dataclass whose fields are its config, and what it makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.backend import Gradients
from agents.network import Distribution, NetworkConfig, PolicyNetwork, can_play
from agents.sb3.vec_env import BatchVecEnv
from envs.errors import GraftError
from envs.registry import Registry
from envs.schema import Schemas

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Options that every algorithm has.

    Attributes:
        num_envs: environments in the training batch.
        reward_scale: what rewards are multiplied by before the algorithm sees them; reported returns are as they are.
    """

    distribution: ClassVar[Distribution | None] = None
    """How it plays the heads of the networks that it trains (see `agents.network.Outputs`)."""

    num_envs: Count = 64
    reward_scale: Positive = 1.0

    def check(self, schemas: Schemas) -> None:
        """Raises GraftError where the algorithm cannot play the task's actions."""
        if not can_play(self.distribution, schemas.action):
            name = next((n for n, kind in ALGORITHMS.items() if kind is type(self)), type(self).__name__)
            fitting = [n for n, kind in ALGORITHMS.items() if can_play(kind.distribution, schemas.action)]
            needs = "discrete actions" if self.distribution == "greedy" else "box actions with finite bounds"
            raise GraftError(
                f"Algorithm '{name}' needs {needs}, and the task's are {schemas.action.kind} "
                f"({', '.join(schemas.action.names)}); allowed here: {', '.join(fitting)}."
            )

    def check_network(self, network: PolicyNetwork) -> None:
        """Raises GraftError where ``network`` was made for an algorithm that plays it in another way."""
        self.check(network.schemas)
        if network.config.distribution != self.distribution:
            raise GraftError(
                f"The network's distribution is '{network.config.distribution or 'default'}', and "
                f"{type(self).__name__} plays '{self.distribution or 'default'}'; make the network from "
                f"architecture_for(algorithm, config)."
            )

    def learner(
        self, network: PolicyNetwork, env: BatchVecEnv, seed: int, gradients: Gradients | None, device: str
    ) -> BaseAlgorithm:
        """A learner of the library that trains ``network`` in place and passes its gradients through ``gradients``."""
        raise NotImplementedError


ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "agents.sb3.algorithms")


def architecture_for(algorithm: Algorithm, config: NetworkConfig) -> NetworkConfig:
    """``config`` with the distribution that ``algorithm`` plays: what its networks are built from."""
    return replace(config, distribution=algorithm.distribution)
