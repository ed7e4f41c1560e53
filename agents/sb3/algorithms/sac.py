"""SAC of Stable-Baselines3 with a transfer method's gradients on the actor."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy

from graft.agents.networks.encoder import Encoder
from graft.agents.networks.policy_network import PolicyNetwork, check_finite, unscale_actions
from graft.agents.sb3.algorithm import ALGORITHMS
from graft.agents.sb3.gradients import MethodGradients
from graft.agents.sb3.off_policy import OffPolicy, last_minibatch
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import SACOptions
from graft.agents.training.backend import Batch
from graft.errors import GraftError


class NetworkActor(Actor):
    """The library's actor on a PolicyNetwork, without the library's layers."""

    def __init__(self, observation_space: Any, action_space: Any, network: PolicyNetwork) -> None:
        BasePolicy.__init__(self, observation_space, action_space, squash_output=True)
        self.network = network
        self.use_sde = False
        self.action_dist = SquashedDiagGaussianDistribution(len(network.schemas.action.names))  # type: ignore[assignment]

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Means and log standard deviations (N, A) before the tanh; raises Unstable where training diverged."""
        outputs = self.network(obs)
        check_finite(outputs)
        if outputs.log_std is None:
            raise GraftError(f"A network of kind '{self.network.config.kind}' has no squashed policy, which SAC needs.")
        return outputs.action, outputs.log_std, {}


class EncoderFeatures(BaseFeaturesExtractor):
    """An encoder as the library's critics take it."""

    def __init__(self, observation_space: Any, encoder: Encoder) -> None:
        super().__init__(observation_space, encoder.out_dim)
        self.encoder = encoder

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.encoder(observations))


class RawCritic(ContinuousCritic):
    """The library's pair of critics on raw observations, which the encoder scales."""

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> torch.Tensor:
        return cast(torch.Tensor, features_extractor(obs))


class NetworkSACPolicy(SACPolicy):
    """The library's actor, critics and target critics around a PolicyNetwork.

    Args:
        network: the actor, trained in place.
        shared: whether the critics read the actor's encoder, without training it, instead of a copy.
        hidden: units of each critic's hidden layers above the encoder.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Schedule,
        network: PolicyNetwork,
        shared: bool,
        hidden: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, normalize_images=False, **kwargs)
        self.shared = shared
        self.actor = NetworkActor(observation_space, action_space, network)
        encoder = network.encoder if shared else copy.deepcopy(network.encoder)
        self.critic = RawCritic(
            observation_space,
            action_space,
            net_arch=list(hidden),
            features_extractor=EncoderFeatures(observation_space, encoder),
            features_dim=encoder.out_dim,
            normalize_images=False,
            share_features_extractor=shared,
        )
        self.critic_target = copy.deepcopy(self.critic)
        self.critic_target.set_training_mode(False)
        trained = [p for q in self.critic.q_networks for p in q.parameters()] if shared else self.critic.parameters()
        rate = lr_schedule(1)
        self.actor.optimizer = self.optimizer_class(network.parameters(), lr=rate, **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.critic.optimizer = self.optimizer_class(trained, lr=rate, **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _build(self, lr_schedule: Schedule) -> None: ...

    def follow_freezing(self) -> None:
        assert isinstance(self.actor, NetworkActor)
        assert isinstance(self.critic.features_extractor, EncoderFeatures)
        if not self.shared:
            self.critic.features_extractor.encoder.copy_freezing(self.actor.network.encoder)


class TransferSAC(MethodGradients, SAC):
    """`stable_baselines3.SAC` with its own losses and updates; ``gradients`` sees the actor's."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Updates of actor and critics from the replay buffer; raises Unstable where training diverged."""
        assert isinstance(self.policy, NetworkSACPolicy)
        self.policy.follow_freezing()
        super().train(gradient_steps, batch_size)

    def minibatch(self) -> tuple[PolicyNetwork, Batch]:
        assert isinstance(self.actor, NetworkActor)
        network, sample = self.actor.network, last_minibatch(self.replay_buffer)
        return network, Batch(sample.observations, unscale_actions(sample.actions, network.schemas.action))


@ALGORITHMS.register("sac")
@dataclass(frozen=True, kw_only=True)
class SACAlgorithm(SACOptions, OffPolicy):
    """Soft actor-critic (Haarnoja et al. 2018) for Box actions with finite bounds.

    The network is the actor; its value head is not used. Critics are not part of it and not transferred: they start
    fresh in every training, on an encoder that the option ``encoder`` chooses.
    """

    learner_class: ClassVar[type[BaseAlgorithm]] = TransferSAC
    policy_class: ClassVar[type[BasePolicy]] = NetworkSACPolicy

    def arguments(self, env: BatchVecEnv) -> dict[str, Any]:
        return {**super().arguments(env), "ent_coef": self.entropy}

    def policy_arguments(self) -> dict[str, Any]:
        return {"shared": self.encoder == "shared", "hidden": self.critic}
