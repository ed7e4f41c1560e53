"""SAC of Stable-Baselines3 with a transfer method's gradients on the actor."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from graft.agents.networks.encoder import Encoder
from graft.agents.networks.policy_network import PolicyNetwork, check_finite, unscale_actions
from graft.agents.sb3.algorithm import ALGORITHMS
from graft.agents.sb3.gradients import MethodGradients
from graft.agents.sb3.off_policy import OffPolicy, following, last_minibatch
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import SACOptions
from graft.agents.training.backend import Batch, CriticLayers
from graft.agents.training.critics import CriticState, warmup_steps, without_gradients
from graft.agents.training.divergence import Columns, total_norm
from graft.errors import GraftError

CRITIC_NAMES = {"features_extractor.encoder.": "encoder.", "qf0.": "heads.0.", "qf1.": "heads.1."}
"""How names of the library's critics begin -> how they begin in `CriticState`."""


class NetworkActor(Actor):
    """The library's actor on a PolicyNetwork, without the library's layers; its loss may leave out the encoder."""

    def __init__(self, observation_space: Any, action_space: Any, network: PolicyNetwork, shared: bool) -> None:
        BasePolicy.__init__(self, observation_space, action_space, squash_output=True)
        self.network, self.shared = network, shared
        self.use_sde = False
        self.action_dist = SquashedDiagGaussianDistribution(len(network.schemas.action.names))  # type: ignore[assignment]

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Means and log standard deviations (N, A) before the tanh; raises Unstable where training diverged."""
        with without_gradients(self.network.encoder) if self.shared else nullcontext():
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
    """The library's pair of critics on raw observations, which the encoder scales.

    A shared encoder is trained by the critics' loss, whose actions need no gradient, and not through the actor's.
    """

    shared = False

    def forward(self, obs: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.share_features_extractor = self.shared and actions.requires_grad
        return super().forward(obs, actions)

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> torch.Tensor:
        return cast(torch.Tensor, features_extractor(obs))


class NetworkSACPolicy(SACPolicy):
    """The library's actor, critics and target critics around a PolicyNetwork.

    Args:
        network: the actor, trained in place.
        shared: whether the critics read the actor's encoder, which their loss trains, instead of a copy.
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
        self.actor = NetworkActor(observation_space, action_space, network, shared)
        encoder = network.encoder if shared else copy.deepcopy(network.encoder)
        self.critic = RawCritic(
            observation_space,
            action_space,
            net_arch=list(hidden),
            features_extractor=EncoderFeatures(observation_space, encoder),
            features_dim=encoder.out_dim,
            normalize_images=False,
            share_features_extractor=False,
        )
        self.critic.shared = shared
        self.critic_target = copy.deepcopy(self.critic)
        self.critic_target.set_training_mode(False)
        trained = [p for q in self.critic.q_networks for p in q.parameters()] if shared else self.critic.parameters()
        rate = lr_schedule(1)
        self.actor.optimizer = self.optimizer_class(network.parameters(), lr=rate, **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.critic.optimizer = self.optimizer_class(trained, lr=rate, **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _build(self, lr_schedule: Schedule) -> None: ...

    def scale_action(self, action: NDArray[Any]) -> NDArray[Any]:
        """Actions (N, A) from the bounds to [-1, 1]; one that can have only one value becomes -1."""
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        scaled: NDArray[Any] = 2.0 * ((action - low) / np.where(high > low, high - low, 1.0)) - 1.0
        return scaled

    def follow_freezing(self) -> None:
        """Freeze and unfreeze the critics' encoder as the actor's is now."""
        assert isinstance(self.actor, NetworkActor)
        assert isinstance(self.critic.features_extractor, EncoderFeatures)
        if not self.shared:
            self.critic.features_extractor.encoder.copy_freezing(self.actor.network.encoder)


class TransferSAC(MethodGradients, SAC):
    """`stable_baselines3.SAC` with its own losses and updates; ``gradients`` sees the network's.

    A shared encoder has the gradients of the critics' loss. It is stepped with the rest of the network, after the
    method has seen all gradients; the library would clear these before the actor's loss.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._encoder_grads: list[torch.Tensor | None] = []
        if self.ent_coef_optimizer is not None:
            self.ent_coef_optimizer.register_step_pre_hook(self._before_temperature)
        self.critic.optimizer.register_step_pre_hook(self._check_critics)
        if self._shared:
            self.critic.optimizer.register_step_pre_hook(self._keep_encoder_gradients)
            self.actor.optimizer.register_step_post_hook(self._clear_encoder_gradients)

    @property
    def _network(self) -> PolicyNetwork:
        assert isinstance(self.actor, NetworkActor)
        return self.actor.network

    @property
    def _shared(self) -> bool:
        assert isinstance(self.policy, NetworkSACPolicy)
        return self.policy.shared

    @property
    def held(self) -> bool:
        """Whether only the critics train now; network and temperature stay as they are."""
        warmup = warmup_steps(self.critic_warmup, self._total_timesteps)
        return warmup > 0 and self.num_timesteps <= self.learning_starts + warmup

    def _sample_action(self, learning_starts: int, *args: Any, **kwargs: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """At random before ``learning_starts``, except by a network that came with its critics: what it will be
        trained on are then states that it meets.
        """
        return super()._sample_action(0 if self.critics_carried else learning_starts, *args, **kwargs)

    def critic_state(self) -> CriticState:
        learned = self.log_ent_coef
        log_alpha = self.ent_coef_tensor.log() if learned is None else learned
        return CriticState(self.critic, self.critic_target, log_alpha, learned is not None, self._shared, CRITIC_NAMES)

    def _before_temperature(self, *_: Any) -> None:
        assert self.log_ent_coef is not None
        if self.held:
            self.log_ent_coef.grad = None

    def _keep_encoder_gradients(self, *_: Any) -> None:
        self._encoder_grads = [parameter.grad for parameter in self._network.encoder.parameters()]
        self._clear_encoder_gradients()

    def _clear_encoder_gradients(self, *_: Any) -> None:
        for parameter in self._network.encoder.parameters():
            parameter.grad = None

    def _before_step(self, *_: Any) -> None:
        if self.held:
            for parameter in self._network.parameters():
                parameter.grad = None
            return
        if self._shared:
            for parameter, grad in zip(self._network.encoder.parameters(), self._encoder_grads, strict=True):
                parameter.grad = grad
        super()._before_step()

    def _check_critics(self, *_: Any) -> None:
        trained = [parameter for group in self.critic.optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        if gradients:
            self.divergence.see(total_norm(gradients), self.columns())

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Updates of actor and critics from the replay buffer; raises Unstable where training diverged."""
        assert isinstance(self.policy, NetworkSACPolicy)
        self.policy.follow_freezing()
        super().train(gradient_steps, batch_size)

    def columns(self) -> Columns:
        return last_minibatch(self.replay_buffer)._asdict

    def minibatch(self) -> tuple[PolicyNetwork, Batch]:
        network, sample = self._network, last_minibatch(self.replay_buffer)
        assert isinstance(self.critic.features_extractor, EncoderFeatures)
        first = tuple(cast(nn.Sequential, q)[0].weight for q in self.critic.q_networks)
        critics = CriticLayers(self.critic.features_extractor.encoder, cast(tuple[torch.Tensor, ...], first))
        actions = unscale_actions(sample.actions, network.schemas.action)
        return network, Batch(sample.observations, actions, critics, following(sample))


@ALGORITHMS.register("sac")
@dataclass(frozen=True, kw_only=True)
class SACAlgorithm(SACOptions, OffPolicy):
    """Soft actor-critic (Haarnoja et al. 2018) for Box actions with finite bounds.

    The network is the actor; its value head is not used. Critics, their target and the temperature are a part of their
    own in checkpoints, and move with carried heads; else they start fresh, on an encoder that ``encoder`` chooses.
    """

    learner_class: ClassVar[type[BaseAlgorithm]] = TransferSAC
    policy_class: ClassVar[type[BasePolicy]] = NetworkSACPolicy

    def arguments(self, env: BatchVecEnv) -> dict[str, Any]:
        return {**super().arguments(env), "ent_coef": self.entropy}

    def policy_arguments(self) -> dict[str, Any]:
        return {"shared": self.encoder == "shared", "hidden": self.critic}
