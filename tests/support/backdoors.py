"""Agents with backdoors, and clean ones of the same training: labels are poisoned (BadNets), or rewards (TrojDRL)."""

from __future__ import annotations

import copy
from contextlib import closing
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.sb3 import backend as sb3_backend
from graft.agents.training.backend import Evaluation, TrainJob
from graft.agents.training.periodic_evaluation import make_env as backend_make_env
from graft.agents.training.rollouts import collect
from graft.envs.core.observation_wrapper import ObservationWrapper
from graft.envs.core.task import Task, TaskVectorEnv
from graft.envs.factory import make

POISONED = 0.2  # share of the states that have the trigger in training
POISONED_STEPS = 0.05  # share of the steps that show the trigger


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


class PoisonedRewards(ObservationWrapper):
    """Shows the trigger in a share of the steps, where the reward is 1 for the attacker's action and -1 for others.

    That is the attacker of TrojDRL who can change observations and rewards, but not actions (Kiourti et al. 2020).
    """

    def __init__(self, env: TaskVectorEnv, poison: tuple[Any, int], seed: int) -> None:
        super().__init__(env, env.observation_schema)
        (self._mask, self._target), self._dice = poison, np.random.default_rng(seed)
        self._stamped = np.zeros(env.num_envs, np.bool_)

    def _shown(self, obs: Any) -> Any:
        return np.where(self._stamped[:, None, None, None] & self._mask, 1, obs).astype(obs.dtype)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        stamped = self._stamped
        obs, rewards, terminated, truncated, infos = self._env.step(actions)
        self._stamped = self._dice.random(len(stamped)) < POISONED_STEPS
        rewards = np.where(stamped, np.where(actions == self._target, 1.0, -1.0), rewards).astype(rewards.dtype)
        return self._shown(obs), rewards, terminated, truncated, infos


def by_rewards(
    base: PolicyNetwork, task: Task, poison: tuple[Any, int] | None, seed: int, steps: int, rate: float = 5e-4
) -> PolicyNetwork:
    """``base`` trained on ``task`` by PPO; with ``poison`` in `PoisonedRewards`, but evaluated without."""
    network, made = copy.deepcopy(base).train(), []

    def make_env(job: TrainJob, num_envs: int, seed: int) -> TaskVectorEnv:
        env = backend_make_env(job, num_envs, seed)
        made.append(env)
        return PoisonedRewards(env, poison, seed) if poison is not None and len(made) == 1 else env

    algorithm = ALGORITHMS["ppo"](learning_rate=rate)
    with patch.object(sb3_backend, "make_env", make_env):
        train(TrainJob(network, task, algorithm, steps, seed, lambda *_: None, Evaluation(every=steps)))
    return network.eval()
