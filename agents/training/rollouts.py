"""Collects states that a policy visits."""

from __future__ import annotations

import numpy as np
import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch
from graft.agents.training.evaluate import eval_mode
from graft.envs.core.task import TaskVectorEnv


def collect(network: PolicyNetwork, env: TaskVectorEnv, states: int, generator: torch.Generator) -> Batch:
    """Play sampled actions until at least ``states`` states were visited.

    Args:
        env: same-step autoreset; it is reset first.
        generator: of the action samples, on the network's device.
    Returns:
        Raw observations (N, *obs_shape) and actions, on the CPU, in the order of time; N is ``states`` or more, up to
        the end of the batch's step. Rows out of play are left out.
    """
    device = next(network.parameters()).device
    observations, actions = [], []
    with eval_mode(network):
        obs, infos = env.reset()
        missing = states
        while missing > 0:
            seen = torch.as_tensor(obs)
            chosen = network.act(seen.to(device), generator).cpu()
            alive = torch.as_tensor(infos.get("alive", np.ones(env.num_envs, np.bool_)))
            observations.append(seen[alive])
            actions.append(chosen[alive])
            missing -= int(alive.sum())
            obs, *_, infos = env.step(chosen.numpy())
    return Batch(torch.cat(observations), torch.cat(actions))
