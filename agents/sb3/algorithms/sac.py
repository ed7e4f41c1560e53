"""SAC of Stable-Baselines3 on a PolicyNetwork, with gradients that pass through a transfer method."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy

from agents.backend import Batch, Gradients
from agents.encoder import Encoder
from agents.network import Distribution, PolicyNetwork, check_finite, stretched
from agents.sb3.algorithm import ALGORITHMS, Algorithm, Count, NotNegative, Positive, Share
from agents.sb3.gradients import pass_through
from agents.sb3.off_policy import RecallingBuffer, check_schedule, follow_freezing, last_minibatch
from agents.sb3.vec_env import BatchVecEnv
from envs.errors import GraftError


class NetworkActor(Actor):
    """The library's actor on a network that was built elsewhere; the library's own layers are never made."""

    def __init__(self, observation_space: Any, action_space: Any, network: PolicyNetwork) -> None:
        BasePolicy.__init__(self, observation_space, action_space, squash_output=True)
        self.network = network
        self.use_sde = False
        self.action_dist = SquashedDiagGaussianDistribution(len(network.schemas.action.names))  # type: ignore[assignment]

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Means (N, A) and log standard deviations (N, A) at raw observations, before the tanh.

        Raises:
            Unstable: training diverged.
        """
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
        """Features (N, out_dim)."""
        features: torch.Tensor = self.encoder(observations)
        return features


class RawCritic(ContinuousCritic):
    """The library's pair of critics on raw observations, which the encoder scales."""

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> torch.Tensor:
        """Features (N, F) of observations as the environment gives them."""
        features: torch.Tensor = features_extractor(obs)
        return features


class NetworkSACPolicy(SACPolicy):
    """The library's actor, critics and target critics around a network that was built elsewhere.

    Args:
        network: the actor, trained in place.
        shared: whether the critics read the actor's encoder, without training it, instead of a copy of it.
        hidden: units of each critic's hidden layers, above the encoder.
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

    def _build(self, lr_schedule: Schedule) -> None:
        """Nothing to build: the network is given."""

    def follow_freezing(self) -> None:
        """Freeze and thaw the critics' encoder with the actor's, which a schedule may have changed."""
        assert isinstance(self.actor, NetworkActor)
        assert isinstance(self.critic.features_extractor, EncoderFeatures)
        if not self.shared:
            mine, theirs = self.critic.features_extractor.encoder, self.actor.network.encoder
            mine.frozen_blocks = theirs.frozen_blocks
            follow_freezing(mine, theirs)


class TransferSAC(SAC):
    """`stable_baselines3.SAC` whose losses and updates are the library's.

    ``gradients`` sees the gradients of the actor's loss just before its optimiser's step; the library clips none.
    """

    def __init__(self, *args: Any, gradients: Gradients | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gradients = gradients
        if gradients is not None:
            self.actor.optimizer.register_step_pre_hook(self._before_step)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Updates of actor and critics from the replay buffer.

        Raises:
            Unstable: training diverged.
        """
        assert isinstance(self.policy, NetworkSACPolicy)
        self.policy.follow_freezing()
        super().train(gradient_steps, batch_size)

    def _before_step(self, *_: Any) -> None:
        assert self._gradients is not None
        assert isinstance(self.actor, NetworkActor)
        network, sample = self.actor.network, last_minibatch(self.replay_buffer)
        actions = stretched(sample.actions, network.schemas.action)
        pass_through(self._gradients, network, Batch(sample.observations, actions))


@ALGORITHMS.register("sac")
@dataclass(frozen=True, kw_only=True)
class SACAlgorithm(Algorithm):
    """Soft actor-critic (Haarnoja et al. 2018) for Box actions with finite bounds.

    The network is the actor. What carries over into a transfer is what the network holds: its encoder and, where heads
    are carried, its policy head. The critics are no part of it, so they end with the training, and start as

    - ``separate``: a copy of the network's encoder *as the transfer made it*, under fresh layers. It trains on the
      critics' loss, except for what is frozen in the network. A transfer method's gradients do not reach it.
    - ``shared``: fresh layers on the network's encoder itself, which only the actor's loss trains.

    The value head is not used and gets no gradient.

    Attributes:
        learning_rate: of Adam, for actor, critics and entropy coefficient. gamma: discount.
        batch: transitions per gradient step. buffer: transitions kept; observations stay in the task's dtype.
        tau: share of the critics that the target critics take over at each gradient step.
        learning_starts: env steps of uniformly random play before the first update.
        train_freq: steps of each environment between updates.
        gradient_steps: per update; -1 for as many as env steps were taken since the last one, as in the paper.
        entropy: the coefficient of the entropy; ``auto`` learns it, towards an entropy of -1 per action.
        encoder: what the critics read (above). critic: hidden units of each critic above the encoder.
    Raises:
        GraftError: no gradient steps, or a buffer smaller than the batch of environments.
    """

    distribution: ClassVar[Distribution | None] = "squashed"

    num_envs: Count = 8
    learning_rate: Positive = 3e-4
    buffer: Count = 200_000
    batch: Count = 256
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    gamma: Share = 0.99
    learning_starts: Annotated[int, Field(ge=0)] = 1000
    train_freq: Count = 1
    gradient_steps: Annotated[int, Field(ge=-1)] = -1
    entropy: Literal["auto"] | NotNegative = "auto"
    encoder: Literal["separate", "shared"] = "separate"
    critic: tuple[Count, ...] = (256, 256)

    def __post_init__(self) -> None:
        check_schedule(self.gradient_steps, self.buffer, self.num_envs)

    def learner(
        self, network: PolicyNetwork, env: BatchVecEnv, seed: int, gradients: Gradients | None, device: str
    ) -> BaseAlgorithm:
        """The learner."""
        self.check_network(network)
        return TransferSAC(
            NetworkSACPolicy,
            env,
            gradients=gradients,
            learning_rate=self.learning_rate,
            buffer_size=self.buffer,
            learning_starts=self.learning_starts,
            batch_size=self.batch,
            tau=self.tau,
            gamma=self.gamma,
            train_freq=self.train_freq,
            gradient_steps=self.gradient_steps,
            replay_buffer_class=RecallingBuffer,
            ent_coef=self.entropy,
            policy_kwargs={"network": network, "shared": self.encoder == "shared", "hidden": self.critic},
            seed=seed,
            device=device,
        )
