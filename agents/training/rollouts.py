"""States that a policy meets, for whoever needs to see what it does in them."""

from __future__ import annotations

import numpy as np
import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch
from graft.envs.core.task import TaskVectorEnv


def collect(network: PolicyNetwork, env: TaskVectorEnv, states: int, generator: torch.Generator) -> Batch:
    """Play sampled actions until ``states`` states or more were met.

    Args:
        env: same-step autoreset; it is reset first.
        generator: of the action samples, on the network's device.
    Returns:
        Raw observations (N, *obs_shape) and the actions taken in them, on the CPU, in the order of time; N is
        ``states`` or a little more, as many as whole steps of the batch give. Rows out of play give none.
    """
    device = next(network.parameters()).device
    observations, actions = [], []
    was_training = network.training
    network.eval()
    try:
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
    finally:
        network.train(was_training)
    return Batch(torch.cat(observations), torch.cat(actions))
