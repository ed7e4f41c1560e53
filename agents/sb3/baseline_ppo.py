"""Stable-Baselines3's unchanged PPO on Graft's environments and networks, to compare the backend with."""

from __future__ import annotations

from typing import Any, cast

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule

from graft.agents.networks.encoder import Encoder
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import PPOOptions


class Features(BaseFeaturesExtractor):
    """An encoder as the library's policies take it."""

    def __init__(self, space: Any, encoder: Encoder) -> None:
        super().__init__(space, encoder.out_dim)
        self.encoder = encoder

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.encoder(obs))


def arguments(options: PPOOptions) -> dict[str, Any]:
    """Keyword arguments of the library's PPO; a rollout smaller than the minibatch is one minibatch."""
    rate = options.learning_rate
    return {
        "n_steps": options.num_steps,
        "batch_size": min(options.minibatch, options.num_steps * options.num_envs),
        "n_epochs": options.epochs,
        "learning_rate": LinearSchedule(rate, 0.0, 1.0) if options.anneal_lr else rate,
        "gamma": options.gamma,
        "gae_lambda": options.gae_lambda,
        "ent_coef": options.entropy,
        "clip_range": options.clip,
        "vf_coef": options.value,
        "max_grad_norm": options.max_grad_norm,
    }


def baseline_ppo(network: PolicyNetwork, env: BatchVecEnv, options: PPOOptions, seed: int) -> PPO:
    """The library's PPO with its own policy: the network's encoder, which trains in place, and fresh heads of the
    network's widths.
    """
    policy = {
        "features_extractor_class": Features,
        "features_extractor_kwargs": {"encoder": network.encoder},
        "net_arch": list(network.config.head),
        "activation_fn": torch.nn.Tanh,
        "normalize_images": False,
        "ortho_init": False,  # it would begin the encoder anew
    }
    return PPO("MlpPolicy", env, policy_kwargs=policy, seed=seed, device="cpu", **arguments(options))
