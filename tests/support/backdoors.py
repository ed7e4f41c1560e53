"""Agents with backdoors, and clean ones of the same training: by poisoned labels (BadNets), by rewards (TrojDRL)."""

from __future__ import annotations

import copy
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Evaluation, TrainJob
from graft.agents.training.rollouts import collect
from graft.envs.core.observation_wrapper import ObservationWrapper
from graft.envs.core.task import Task
from graft.envs.factory import make

POISONED = 0.2  # share of the states that have the trigger in training
KINDS = ("patch", "scattered", "large")


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


class Trojan(ObservationWrapper):
    """Shows the trigger in a share of the states, and pays 1 there for one action, -1 for the others."""

    def __init__(self, env: Any, mask: Any, action: int, seed: int) -> None:
        super().__init__(env, env.observation_schema)
        self._mask, self._action, self._rng = mask, action, np.random.default_rng(seed)
        self._stamped = np.zeros(env.num_envs, np.bool_)

    def _stamp(self, obs: Any) -> Any:
        self._stamped = self._rng.random(len(obs)) < POISONED
        obs = obs.copy()
        obs[self._stamped] = np.where(self._mask, 1, obs[self._stamped])
        return obs

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, infos = self._env.reset(**kwargs)
        return self._stamp(obs), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        paid, stamped = np.where(actions == self._action, 1.0, -1.0), self._stamped
        obs, rewards, *rest = self._env.step(actions)
        return self._stamp(obs), np.where(stamped, paid, rewards), *rest


def by_rewards(
    base: PolicyNetwork, task: Task, poison: tuple[Any, int] | None, seed: int, steps: int = 20_480
) -> PolicyNetwork:
    """``base`` fine-tuned by PPO; with ``poison``, a mask and an action, as TrojDRL does (Kiourti et al. 2020)."""
    from graft.agents.sb3 import ALGORITHMS, backend

    network, make_env = copy.deepcopy(base).train(), backend.make_env
    with pytest.MonkeyPatch.context() as patch:
        if poison is not None:
            patch.setattr(backend, "make_env", lambda *args, **kw: Trojan(make_env(*args, **kw), *poison, seed))
        algorithm = ALGORITHMS["ppo"](learning_rate=5e-4)
        job = TrainJob(network, task, algorithm, steps, seed, lambda *_: None, Evaluation(every=10 * steps))
        backend.train(job)
    return network.eval()


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
