"""RLlib's unchanged PPO on Graft's environments and networks, to compare the backend with."""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.tune.registry import register_env

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.rllib.algorithms.ppo import settings
from graft.agents.rllib.module import module_spec
from graft.agents.training.algorithm import PPOOptions
from graft.envs.core.task import Task, TaskVectorEnv
from graft.envs.factory import make

NAME = "graft-baseline"


def baseline_ppo(network: PolicyNetwork, task: Task, options: PPOOptions, seed: int) -> PPO:
    """An algorithm whose ``train()`` takes one rollout and update, in this process, with RLlib's runner and connectors.

    The environments are a native batch under next-step autoreset, the convention that RLlib's runner wants; the
    options are those of the backend's PPO.
    """

    def make_env(context: dict[str, Any]) -> TaskVectorEnv:
        return make(task, context["num_envs"], seed, AutoresetMode.NEXT_STEP, observation=network.schemas.observation)

    register_env(NAME, make_env)
    config = PPOConfig()
    config.environment(NAME, disable_env_checking=True)
    config.env_runners(
        num_env_runners=0,
        num_envs_per_env_runner=options.num_envs,
        rollout_fragment_length=options.num_steps,
        gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
    )
    config.learners(num_learners=0)
    config.rl_module(rl_module_spec=module_spec(network))
    config.training(**settings(options))
    config.debugging(seed=seed, log_level="ERROR")
    return cast(PPO, config.build_algo())
