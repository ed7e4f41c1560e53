"""Trajectories for V-trace (steps in order, with the observation after the last), and a network's older copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS

from graft.agents.rllib.module import TargetNetworkModule, distribution_inputs
from graft.agents.rllib.rollout_collector import Array, Rollout, RolloutCollector
from graft.agents.rllib.runner import BatchRunner

IGNORED_LOGP = 1e4
"""Behaviour log-probability of steps that are not learned from, so that V-trace's importance ratio is 0: RLlib's mask
leaves such a step out of the loss, but keeps its error in the return of the step before it."""


def trajectory_columns(steps: Rollout, following: Array, gamma: float) -> dict[str, Array]:
    """Rows that were in play, each T + 1 steps, by RLlib's names: (n (T + 1), ...), row after row.

    The last step holds ``following`` (N, ...), the current observations, which are valued but not learned from. Steps
    of rows out of play are not learned from either. A truncated episode counts as terminated, with the discounted value
    of its final observation, by the runner's network, added to its last reward.
    """
    played = steps.acted.any(0)
    rewards = steps.rewards + np.where(steps.dones, np.float32(gamma) * steps.last, np.float32(0.0))
    columns = {
        Columns.OBS: _longer(steps.obs, following),
        Columns.ACTIONS: _longer(steps.actions),
        Columns.ACTION_LOGP: _longer(np.where(steps.acted, steps.logp, np.float32(IGNORED_LOGP)), IGNORED_LOGP),
        Columns.REWARDS: _longer(rewards),
        Columns.TERMINATEDS: _longer(steps.dones),
        Columns.LOSS_MASK: _longer(steps.acted),
    }
    return {name: array[:, played].swapaxes(0, 1).reshape(-1, *array.shape[2:]) for name, array in columns.items()}


def _longer(array: Array, last: Any = 0) -> Array:
    more = np.empty_like(array[:1])
    more[:] = last
    return np.concatenate([array, more])


class TrajectoryRunner(BatchRunner):
    """A runner whose samples are trajectories."""

    def columns(self, collector: RolloutCollector) -> dict[str, Array]:
        return trajectory_columns(collector.rollout, collector.obs, self.config.gamma)


class TargetModule(TargetNetworkModule):
    """A network and, in learners, an older copy of it."""

    @torch.no_grad()
    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The copy's distribution of actions."""
        outputs = self.target.suffix(batch[Columns.OBS], self.input_depth)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: distribution_inputs(outputs)}
