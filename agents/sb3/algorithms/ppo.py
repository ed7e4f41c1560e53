"""PPO of Stable-Baselines3, with gradients that pass through a transfer method, and frozen blocks computed once."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from graft.agents.networks.policy_network import PREFIX_CHUNK, PolicyNetwork
from graft.agents.sb3.algorithm import ALGORITHMS, Algorithm
from graft.agents.sb3.gradients import apply_method_gradients
from graft.agents.sb3.masked_rollout_buffer import MaskedRolloutBuffer
from graft.agents.sb3.policy import NetworkPolicy
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import PPOOptions
from graft.agents.training.backend import Gradients


class TransferPPO(PPO):
    """`stable_baselines3.PPO` whose loss, rollout and update are the library's.

    Two things are added around its `train`:

    - ``gradients`` sees each minibatch's gradients before they are clipped. The library clips between backward and
      step and offers no hook there, so its own clipping is set to infinity (which multiplies by one) and done, after
      ``gradients``, just before the optimiser's step.
    - Where the first blocks of the encoder are frozen and no ``gradients`` asks for raw observations, their output is
      computed once per rollout instead of once per minibatch and epoch. The values are the same to rounding.
    """

    def __init__(self, *args: Any, gradients: Gradients | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gradients = gradients
        if gradients is not None:
            self._clip_at, self.max_grad_norm = self.max_grad_norm, math.inf
            self.policy.optimizer.register_step_pre_hook(self._before_step)

    @property
    def _policy(self) -> NetworkPolicy:
        assert isinstance(self.policy, NetworkPolicy)
        return self.policy

    def train(self) -> None:
        """One update of the policy from the rollout buffer.

        Raises:
            Unstable: training diverged.
        """
        if isinstance(self.rollout_buffer, MaskedRolloutBuffer) and not self.rollout_buffer.any_live:
            return  # nobody was in play, so there is nothing to learn from
        depth = 0 if self._gradients else self._policy.network.frozen_depth
        if depth:
            self.rollout_buffer.observations = self._prefix_of_rollout(depth)
        self._policy.input_depth = depth
        super().train()
        self._policy.input_depth = 0

    def _prefix_of_rollout(self, depth: int) -> np.ndarray[Any, Any]:
        """Output of the first ``depth`` blocks for every observation in the buffer, (steps, envs, ...)."""
        raw = self.rollout_buffer.observations
        flat = torch.as_tensor(raw.reshape(-1, *raw.shape[2:]))
        network = self._policy.network
        with torch.no_grad():
            hidden = torch.cat(
                [network.prefix(c.to(self.device), depth).cpu() for c in torch.split(flat, PREFIX_CHUNK)]
            )
        result: np.ndarray[Any, Any] = hidden.reshape(*raw.shape[:2], *hidden.shape[1:]).numpy()
        return result

    def _before_step(self, *_: Any) -> None:
        """The method's gradients in the place of the loss's, then the clipping that the library left out."""
        assert self._gradients is not None
        assert self._policy.last_batch is not None
        apply_method_gradients(self._gradients, self._policy.network, self._policy.last_batch, self._clip_at)


@ALGORITHMS.register("ppo")
@dataclass(frozen=True, kw_only=True)
class PPOAlgorithm(PPOOptions, Algorithm):
    """Proximal policy optimisation (Schulman et al. 2017) for actions of every kind."""

    def learner(
        self, network: PolicyNetwork, env: BatchVecEnv, seed: int, gradients: Gradients | None, device: str
    ) -> BaseAlgorithm:
        """The learner; a rollout smaller than the minibatch is one minibatch."""
        masked = {"rollout_buffer_class": MaskedRolloutBuffer, "rollout_buffer_kwargs": {"acted": lambda: env.acted}}
        with warnings.catch_warnings():
            # A last minibatch that is smaller than the others is allowed, and the config says so.
            warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)
            return TransferPPO(
                NetworkPolicy,
                env,
                gradients=gradients,
                n_steps=self.num_steps,
                batch_size=min(self.minibatch, self.num_steps * self.num_envs),
                n_epochs=self.epochs,
                learning_rate=self.learning_rate,
                gamma=self.gamma,
                gae_lambda=self.gae_lambda,
                ent_coef=self.entropy,
                clip_range=self.clip,
                vf_coef=self.value,
                max_grad_norm=self.max_grad_norm,
                policy_kwargs={"network": network},
                **(masked if env.env.dead_rows else {}),
                seed=seed,
                device=device,
            )
