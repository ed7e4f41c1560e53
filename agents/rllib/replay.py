"""A replay buffer of arrays, and the runner that fills it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from graft.agents.checkpoints.learner_state import tensors
from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.networks.policy_network import unscale_actions
from graft.agents.rllib.rollout_collector import Array, RolloutCollector, StepResult
from graft.agents.rllib.runner import BatchRunner, Fragment


class ReplayBuffer:
    """The last transitions, in arrays of their own types; RLlib's buffers hold Python objects, one per episode.

    Args:
        capacity: transitions. seed: of what is drawn.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity, self.size, self._next = capacity, 0, 0
        self._columns: dict[str, Array] = {}
        self._rng = np.random.default_rng(seed)

    def add(self, columns: Mapping[str, Array]) -> None:
        """Transitions (n, ...) by column; where there is no room, the oldest go."""
        count = len(next(iter(columns.values())))
        self._room_for(columns)
        kept = np.arange(max(0, count - self.capacity), count)
        places = (self._next + kept) % self.capacity
        for name, column in columns.items():
            self._columns[name][places] = column[kept]
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int) -> dict[str, Array]:
        """``count`` transitions, each drawn from all of them."""
        places = self._rng.integers(self.size, size=count)
        return {name: column[places] for name, column in self._columns.items()}

    def _room_for(self, columns: Mapping[str, Array]) -> None:
        if not self._columns:
            shapes = {name: (self.capacity, *column.shape[1:]) for name, column in columns.items()}
            self._columns = {name: np.empty(shape, columns[name].dtype) for name, shape in shapes.items()}

    def save(self) -> SavedState:
        """What is in it, not copied, and its random numbers."""
        held = {name: column[: self.size] for name, column in self._columns.items()}
        return SavedState(
            tensors(held), {"next": self._next, "size": self.size, "random": self._rng.bit_generator.state}
        )

    def restore(self, saved: SavedState) -> None:
        """Inverse of `save`."""
        columns = {name: tensor.numpy() for name, tensor in saved.tensors.items()}
        self._room_for(columns)
        self._next, self.size = saved.values["next"], saved.values["size"]
        for name, column in columns.items():
            self._columns[name][: self.size] = column
        self._rng.bit_generator.state = saved.values["random"]


class TransitionCollector(RolloutCollector):
    """A policy of box actions that records transitions.

    Attributes:
        at_random: whether it draws every action within its bounds instead of playing the policy.
    """

    at_random = False

    def begin(self, steps: int) -> None:
        """Begin to record."""
        super().begin(steps)
        assert self.steps is not None
        self._after = np.empty_like(self.steps.obs)
        self._terminated = np.zeros_like(self.steps.dones)

    @torch.no_grad()
    def act(self) -> Array:
        """Actions of all rows, as the environment takes them."""
        if not self.at_random:
            return super().act()
        steps, t, schema = self.steps, self._t, self.module.network.schemas.action
        assert steps is not None
        drawn = torch.rand((self.rows, len(schema.names)), generator=self._generator)
        steps.obs[t], steps.acted[t] = self._obs, self._alive
        steps.actions[t] = unscale_actions(2.0 * drawn - 1.0, schema).numpy()
        played: Array = steps.actions[t].copy()
        return played

    def see(self, seen: StepResult) -> None:
        """What came of its actions: where an episode ended, the observation that it ended in."""
        dones, t = seen.terminated | seen.truncated, self._t
        self._after[t], self._terminated[t] = seen.obs, seen.terminated
        if dones.any():
            assert seen.last is not None
            self._after[t, dones] = seen.last[dones]
        super().see(seen)

    def transitions(self) -> dict[str, Array]:
        """Those of rows in play since `begin`, (n, ...), by RLlib's names of columns.

        Only a terminated episode has no return to come; a truncated one goes on from where it was cut off.
        """
        steps = self.steps
        assert steps is not None
        found = {
            Columns.OBS: steps.obs,
            Columns.ACTIONS: steps.actions,
            Columns.REWARDS: steps.rewards,
            Columns.NEXT_OBS: self._after,
            Columns.TERMINATEDS: self._terminated,
        }
        return {name: array[steps.acted] for name, array in found.items()}


class TransitionRunner(BatchRunner):
    """A runner whose samples are transitions."""

    player: TransitionCollector

    def make_module(self) -> None:
        """Called by RLlib after the environments were made."""
        super().make_module()
        world, rows = self._world, self.num_envs
        self.player = TransitionCollector(
            self.module, rows, world.seed * 1009 + self.index, world.reward_scale, self._device
        )

    def fragment(self) -> Fragment:
        """What the player has recorded."""
        steps = self.player.steps
        assert steps is not None
        return Fragment(self.player.transitions(), steps.rewards.size, self.player.rows, self.player.ended)

    def play(self, at_random: bool) -> Fragment:
        """A sample, of random actions where asked for."""
        self.player.at_random = at_random
        return self.sample()


def sample_transitions(runner: Any, at_random: bool) -> Fragment:
    """What a runner in another process is asked to do."""
    found: Fragment = runner.play(at_random)
    return found
