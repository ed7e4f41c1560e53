"""Evaluation of a network on a batch of environments, the same for every backend."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.network import PolicyNetwork
from envs.task import TaskVectorEnv


class Episodes(NamedTuple):
    """Undiscounted returns and lengths of finished episodes, each (n,) float64."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.float64]


def evaluate(
    network: PolicyNetwork,
    env: TaskVectorEnv,
    episodes: int,
    generator: torch.Generator,
    deterministic: bool = False,
) -> Episodes:
    """Play ``episodes`` episodes and return their outcomes.

    Each environment contributes its first ``ceil(episodes / num_envs)`` episodes, whatever their length: counting the
    first to finish would favour short ones.

    Args:
        env: same-step autoreset; it is reset at the start and goes on with its own random numbers.
        generator: of the action samples.
        deterministic: play the most likely action (or the mean) instead of a sample.
    """
    device = next(network.parameters()).device
    quota = -(-episodes // env.num_envs)
    done_counts = np.zeros(env.num_envs, np.int64)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs)
    finished: list[tuple[float, float]] = []
    was_training = network.training
    network.eval()
    obs, _ = env.reset()
    while done_counts.min() < quota:
        actions = network.act(torch.as_tensor(obs, device=device), generator, deterministic)
        obs, rewards, terminated, truncated, _ = env.step(actions.cpu().numpy())
        returns += rewards
        lengths += 1
        for i in np.flatnonzero(terminated | truncated):
            if done_counts[i] < quota:
                finished.append((returns[i], lengths[i]))
            done_counts[i] += 1
            returns[i] = lengths[i] = 0.0
    network.train(was_training)
    outcomes = np.array(finished, np.float64)
    return Episodes(outcomes[:, 0], outcomes[:, 1])
