"""What V-trace learns from: rows of steps in their order, each with the observation that it came to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS, TargetNetworkAPI
from torch import nn

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.rllib.module import NetworkModule, distribution_inputs
from graft.agents.rllib.rollout_collector import Array, Rollout
from graft.agents.rllib.runner import BatchRunner, Fragment

IGNORED_LOGP = 1e4
"""Log-probability, as the player is said to have had it, of steps that are not learned from. A step weighs in V-trace
as much as the policy is likelier to have taken it than the player was: here exp(-UNWEIGHTED), which is 0. RLlib's own
mask leaves such a step out of the loss, but not its error out of the return of the step before it."""


def trajectory_columns(steps: Rollout, following: Array, gamma: float) -> dict[str, Array]:
    """Rows that were in play, each T steps and one more, by RLlib's names: (n (T + 1), ...), row after row.

    The last step of a row stands for ``following`` (N, ...), what the row sees now: the learner values it, but does not
    learn from it. Nor does it from steps of a row out of play.

    Where an episode was truncated, its last reward is followed by the value of what it was truncated in, and it counts
    as terminated. The value is the player's, who had the observation, and not the learner's.
    """
    played = steps.acted.any(0)
    rewards = steps.rewards + np.where(steps.dones, np.float32(gamma) * steps.last, np.float32(0.0))
    found = {
        Columns.OBS: _longer(steps.obs, following),
        Columns.ACTIONS: _longer(steps.actions),
        Columns.ACTION_LOGP: _longer(np.where(steps.acted, steps.logp, np.float32(IGNORED_LOGP)), IGNORED_LOGP),
        Columns.REWARDS: _longer(rewards),
        Columns.TERMINATEDS: _longer(steps.dones),
        Columns.LOSS_MASK: _longer(steps.acted),
    }
    return {name: array[:, played].swapaxes(0, 1).reshape(-1, *array.shape[2:]) for name, array in found.items()}


def _longer(array: Array, last: Any = 0) -> Array:
    """(T, N, ...) with one more step."""
    more = np.empty_like(array[:1])
    more[:] = last
    return np.concatenate([array, more])


class TrajectoryRunner(BatchRunner):
    """A runner whose samples are rows of steps."""

    def fragment(self) -> Fragment:
        """What the player has recorded."""
        player = self.player
        assert player.steps is not None
        columns = trajectory_columns(player.steps, player.obs, self.config.gamma)
        return Fragment(columns, player.steps.rewards.size, player.rows, player.ended)


class TargetModule(NetworkModule, TargetNetworkAPI):
    """A network and, in learners, an older copy of it."""

    old: PolicyNetwork

    def make_target_networks(self) -> None:
        """Called by RLlib's learner."""
        old: Any = make_target_network(self.network)
        self.old = old.eval()

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """For RLlib's learner, which renews the copy."""
        return [(self.network, self.old)]

    def train(self, mode: bool = True) -> TargetModule:
        """As in torch, but the copy stays in eval mode."""
        super().train(mode)
        if "old" in self._modules:
            self.old.eval()
        return self

    @torch.no_grad()
    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The copy's distribution of actions."""
        outputs = self.old.suffix(batch[Columns.OBS], self.input_depth)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: distribution_inputs(outputs)}
