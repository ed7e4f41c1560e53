"""Base class of this backend's algorithms: a frozen dataclass whose fields are its config, and the learner it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training import algorithm
from graft.agents.training.backend import Gradients
from graft.envs.core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Algorithm(algorithm.Algorithm):
    """An algorithm of Stable-Baselines3.

    A subclass sets the two classes, ``arguments`` and, where its policy needs more than the network,
    ``policy_arguments``.
    """

    learner_class: ClassVar[type[BaseAlgorithm]]  # with `graft.agents.sb3.gradients.MethodGradients` as its first base
    policy_class: ClassVar[type[BasePolicy]]  # takes ``network`` as a keyword

    @classmethod
    def siblings(cls) -> Mapping[str, type[Any]]:
        return dict(ALGORITHMS.items())

    def learner(
        self, network: PolicyNetwork, env: BatchVecEnv, seed: int, gradients: Gradients | None, device: str
    ) -> BaseAlgorithm:
        """A learner of the library that trains ``network`` in place and passes its gradients through ``gradients``."""
        self.check_network(network)
        env.play_as(network)
        chosen = {"gradients": gradients, "seed": seed, "device": device, **self.arguments(env)}
        return self.learner_class(
            self.policy_class, env, policy_kwargs={"network": network, **self.policy_arguments()}, **chosen
        )

    def arguments(self, env: BatchVecEnv) -> dict[str, Any]:
        """Keyword arguments of the library's class; raises GraftError for a batch that it cannot learn from."""
        raise NotImplementedError

    def policy_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the policy beside the network."""
        return {}


ALGORITHMS: Registry[type[Algorithm]] = Registry(
    "algorithm", "graft.agents.sb3.algorithms", Algorithm, "graft.algorithms.sb3"
)
