"""PPO of Stable-Baselines3 with a transfer method's gradients, and frozen blocks computed once per rollout."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3.algorithm import ALGORITHMS, Algorithm
from graft.agents.sb3.gradients import MethodGradients
from graft.agents.sb3.masked_rollout_buffer import MaskedRolloutBuffer
from graft.agents.sb3.policy import NetworkPolicy
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import PPOOptions
from graft.agents.training.backend import Batch


class TransferPPO(MethodGradients, PPO):
    """`stable_baselines3.PPO` whose loss, rollout and update are the library's.

    Where the first blocks of the encoder are frozen and no ``gradients`` asks for raw observations, their output is
    computed once per rollout instead of once per minibatch and epoch. The values are the same to rounding.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # A last minibatch that is smaller than the others is allowed, as the config's documentation says.
            warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)
            super().__init__(*args, **kwargs)

    @property
    def _policy(self) -> NetworkPolicy:
        return cast(NetworkPolicy, self.policy)

    def train(self) -> None:
        """One update of the policy from the rollout buffer; raises Unstable where training diverged."""
        if isinstance(self.rollout_buffer, MaskedRolloutBuffer) and not self.rollout_buffer.any_live:
            return  # no row was in play
        depth = 0 if self._gradients else self._policy.network.frozen_depth
        if depth:
            raw = self.rollout_buffer.observations
            hidden = self._policy.network.whole_prefix(torch.as_tensor(raw.reshape(-1, *raw.shape[2:])), depth)
            self.rollout_buffer.observations = hidden.reshape(*raw.shape[:2], *hidden.shape[1:]).numpy()
        self._policy.input_depth = depth
        super().train()
        self._policy.input_depth = 0

    def minibatch(self) -> tuple[PolicyNetwork, Batch]:
        assert self._policy.last_batch is not None
        return self._policy.network, self._policy.last_batch


@ALGORITHMS.register("ppo")
@dataclass(frozen=True, kw_only=True)
class PPOAlgorithm(PPOOptions, Algorithm):
    """Proximal policy optimisation (Schulman et al. 2017) for actions of every kind."""

    learner_class: ClassVar[type[BaseAlgorithm]] = TransferPPO
    policy_class: ClassVar[type[BasePolicy]] = NetworkPolicy

    def arguments(self, env: BatchVecEnv) -> dict[str, Any]:
        """The library's; a rollout smaller than the minibatch is one minibatch."""
        masked = {"rollout_buffer_class": MaskedRolloutBuffer, "rollout_buffer_kwargs": {"acted": lambda: env.acted}}
        return {
            "n_steps": self.num_steps,
            "batch_size": min(self.minibatch, self.num_steps * self.num_envs),
            "n_epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "gamma": self.gamma,
            "gae_lambda": self.gae_lambda,
            "ent_coef": self.entropy,
            "clip_range": self.clip,
            "vf_coef": self.value,
            "max_grad_norm": self.max_grad_norm,
            **(masked if env.env.dead_rows else {}),
        }
