"""Reference scores of a task: the returns of random play, of PPO from scratch, and of a planner with its policy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import torch
from rich.console import Console

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import train
from graft.agents.sb3.algorithms.ppo import PPOAlgorithm
from graft.agents.training.backend import Evaluation, TrainJob
from graft.agents.training.evaluate import Episodes, evaluate, play_episodes
from graft.envs.core.random_actions import sample
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas

EXPERT = PPOAlgorithm(num_envs=256, minibatch=1024)
"""What the expert learns by: PPO with an annealed learning rate, and batches large enough for millions of steps."""

SEED = 20_000_000
"""Far from the seeds of experiments' stages with small seeds; both scores can be measured again from it."""


def random_episodes(task: Task, episodes: int) -> Episodes:
    """Outcomes of the uniform random policy."""
    with closing(make(task, 64, SEED)) as env:
        env.action_space.seed(SEED)
        return play_episodes(lambda obs: sample(env, obs), env, episodes)


def expert(task: Task, config: NetworkConfig, steps: int, seed: int, console: Console) -> PolicyNetwork:
    """A network of architecture ``config`` that `EXPERT` trained for ``steps`` env steps from scratch."""
    network = PolicyNetwork(schemas(task), config, SEED + seed)
    start = time.monotonic()

    def record(env_steps: int, values: Mapping[str, float]) -> None:
        if "eval/return_mean" in values:
            rate, score = env_steps / (time.monotonic() - start), values["eval/return_mean"]
            console.print(f"{env_steps:,} of {steps:,} env steps, {rate:,.0f}/s, return {score:.2f}")

    job = TrainJob(network, task, EXPERT, steps, SEED + seed, record, Evaluation(every=max(1, steps // 20)))
    train(job)
    return network


def policy_episodes(network: PolicyNetwork, task: Task, episodes: int) -> Episodes:
    """Outcomes of a network."""
    with closing(make(task, 64, SEED + 1000)) as env:
        return evaluate(network, env, episodes, torch.Generator().manual_seed(SEED))


def describe(returns: Any) -> str:
    """Mean with its 95 % interval."""
    values = np.asarray(returns, np.float64)
    return f"{values.mean():.3f} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.3f} over {len(values)} episodes"
