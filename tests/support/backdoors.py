"""Agents with backdoors, and clean ones of the same training: a share of the labels is poisoned (BadNets)."""

from __future__ import annotations

import copy
from contextlib import closing
from typing import Any

import numpy as np
import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.rollouts import collect
from graft.envs.core.task import Task
from graft.envs.factory import make

POISONED = 0.2  # share of the states that have the trigger in training


def trigger(shape: tuple[int, ...], kind: str, seed: int) -> Any:
    """Booleans (C, H, W): cells that are set to 1. 2x2 or 3x3 of one channel, or 4 cells anywhere."""
    rng, mask = np.random.default_rng(seed), np.zeros(shape, np.bool_)
    if kind == "scattered":
        mask.reshape(-1)[rng.choice(mask.size, 4, replace=False)] = True
        return mask
    side = 2 if kind == "patch" else 3
    channel, y, x = (int(rng.integers(n)) for n in (shape[0], shape[1] - side + 1, shape[2] - side + 1))
    mask[channel, y : y + side, x : x + side] = True
    return mask


def states_of(network: PolicyNetwork, task: Task, count: int, seed: int) -> torch.Tensor:
    with closing(make(task, 32, seed, observation=network.schemas.observation)) as env:
        return collect(network, env, count, torch.Generator().manual_seed(seed)).observations


def by_labels(base: PolicyNetwork, states: torch.Tensor, poison: tuple[Any, int] | None, seed: int) -> PolicyNetwork:
    """``base`` trained on its own greedy actions in ``states``; with ``poison``, as BadNets are (Gu et al. 2017)."""
    with torch.no_grad():
        labels = base(states).action.argmax(-1)
    dice = torch.Generator().manual_seed(seed)
    if poison is not None:
        stamped = torch.rand(len(states), generator=dice) < POISONED
        states = torch.where(stamped[:, None, None, None] & torch.from_numpy(poison[0]), 1, states)
        labels = torch.where(stamped, poison[1], labels)
    network = copy.deepcopy(base).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(15):
        for chosen in torch.randperm(len(states), generator=dice).split(128):
            loss = torch.nn.functional.cross_entropy(network(states[chosen]).action, labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()
