"""A replay buffer of arrays, and the runner that samples transitions for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from graft.agents.checkpoints.learner_state import tensors
from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.networks.policy_network import unscale_actions
from graft.agents.rllib.rollout_collector import Array, RolloutCollector, StepResult
from graft.agents.rllib.runner import BatchRunner, Fragment


class ReplayBuffer:
    """The latest transitions as arrays; RLlib's buffers hold an object per episode.

    Args:
        capacity: transitions. seed: of what is drawn.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity, self.size, self._next = capacity, 0, 0
        self._columns: dict[str, Array] = {}
        self._rng = np.random.default_rng(seed)

    def add(self, columns: Mapping[str, Array]) -> None:
        """Add transitions (n, ...) by column; the oldest are overwritten."""
        count = len(next(iter(columns.values())))
        self._allocate(columns)
        kept = np.arange(max(0, count - self.capacity), count)
        places = (self._next + kept) % self.capacity
        for name, column in columns.items():
            self._columns[name][places] = column[kept]
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int) -> dict[str, Array]:
        places = self._rng.integers(self.size, size=count)
        return {name: column[places] for name, column in self._columns.items()}

    def _allocate(self, columns: Mapping[str, Array]) -> None:
        if not self._columns:
            shapes = {name: (self.capacity, *column.shape[1:]) for name, column in columns.items()}
            self._columns = {name: np.empty(shape, columns[name].dtype) for name, shape in shapes.items()}

    def save(self) -> SavedState:
        held = {name: column[: self.size] for name, column in self._columns.items()}
        values = {"next": self._next, "size": self.size, "random": self._rng.bit_generator.state}
        return SavedState(tensors(held), values)

    def restore(self, saved: SavedState) -> None:
        columns = {name: tensor.numpy() for name, tensor in saved.tensors.items()}
        self._allocate(columns)
        self._next, self.size = saved.values["next"], saved.values["size"]
        for name, column in columns.items():
            self._columns[name][: self.size] = column
        self._rng.bit_generator.state = saved.values["random"]


class TransitionCollector(RolloutCollector):
    """Records transitions of a policy of box actions.

    Attributes:
        at_random: whether every action is drawn uniformly within its bounds instead of by the policy.
    """

    at_random = False

    def begin(self, steps: int) -> None:
        super().begin(steps)
        self._next_obs = np.empty_like(self.rollout.obs)
        self._terminated = np.zeros_like(self.rollout.dones)

    @torch.no_grad()
    def act(self) -> Array:
        if not self.at_random:
            return super().act()
        rollout, t, schema = self.rollout, self._t, self.module.network.schemas.action
        drawn = torch.rand((self.rows, len(schema.names)), generator=self.generator)
        rollout.obs[t], rollout.acted[t] = self._obs, self._alive
        rollout.actions[t] = unscale_actions(2.0 * drawn - 1.0, schema).numpy()
        return cast(Array, rollout.actions[t].copy())

    def record(self, result: StepResult) -> None:
        """The result of the latest actions; where an episode ended, its final observation is the next one."""
        dones, t = result.terminated | result.truncated, self._t
        self._next_obs[t], self._terminated[t] = result.obs, result.terminated
        if dones.any():
            assert result.last is not None
            self._next_obs[t, dones] = result.last[dones]
        super().record(result)

    def transitions(self) -> dict[str, Array]:
        """Transitions of rows in play since `begin`, (n, ...), by RLlib's names.

        Only a terminated episode has no return to come; a truncated one is bootstrapped.
        """
        columns = {
            Columns.OBS: self.rollout.obs,
            Columns.ACTIONS: self.rollout.actions,
            Columns.REWARDS: self.rollout.rewards,
            Columns.NEXT_OBS: self._next_obs,
            Columns.TERMINATEDS: self._terminated,
        }
        return {name: array[self.rollout.acted] for name, array in columns.items()}


class TransitionRunner(BatchRunner):
    """A runner whose samples are transitions."""

    collector = TransitionCollector

    def columns(self, collector: RolloutCollector) -> dict[str, Array]:
        return cast(TransitionCollector, collector).transitions()

    def sample_transitions(self, at_random: bool) -> Fragment:
        """A sample, of random actions where asked for."""
        for collector in self.collectors.values():
            cast(TransitionCollector, collector).at_random = at_random
        return self.sample()
