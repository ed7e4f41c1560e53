"""A PolicyNetwork as a Stable-Baselines3 actor-critic policy."""

from __future__ import annotations

from typing import Any, cast

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from graft.agents.networks.policy_network import Outputs, PolicyNetwork, check_finite


class NetworkPolicy(ActorCriticPolicy):
    """Wraps ``network``, trained in place; the library adds optimiser and action distribution.

    The library's own layers, and its orthogonal re-initialisation, are skipped.
    """

    def __init__(
        self, observation_space: Any, action_space: Any, lr_schedule: Schedule, network: PolicyNetwork, **kwargs: Any
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, net_arch=[], normalize_images=False, **kwargs)
        self.network = network
        # Frozen parameters are included: without a gradient they are skipped, and a schedule may unfreeze them.
        adam = {"fused": True, **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(network.parameters(), lr=lr_schedule(1), **adam)  # type: ignore[call-arg]

    def _build(self, lr_schedule: Schedule) -> None: ...

    def set_training_mode(self, mode: bool) -> None:
        self.train(mode)

    def _distribution(self, outputs: Outputs) -> Distribution:
        check_finite(outputs)
        if isinstance(self.action_dist, DiagGaussianDistribution):
            assert outputs.log_std is not None
            return self.action_dist.proba_distribution(outputs.action, outputs.log_std)
        return self.action_dist.proba_distribution(outputs.action)

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions, values (N, 1) and log-probabilities (N,)."""
        outputs = self.network(obs)
        distribution = self._distribution(outputs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, outputs.value.unsqueeze(-1), distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Values (N, 1), log-probabilities (N,) and entropy (N,) of actions, for raw observations."""
        outputs: Outputs = self.network(obs)
        distribution = self._distribution(outputs)
        return outputs.value.unsqueeze(-1), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        return self._distribution(self.network(obs))

    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Values (N, 1) of raw observations."""
        return cast(torch.Tensor, self.network(obs).value.unsqueeze(-1))
