"""L2-SP: all weights are held with equal importance near the start of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.algorithm import NotNegative
from graft.agents.training.rollouts import Rollouts
from graft.transfer.method import METHODS, Consolidated, State, TaskPosition
from graft.transfer.regulariser import Regulariser


@METHODS.register("l2")
@dataclass(frozen=True, kw_only=True)
class L2(Regulariser):
    """Penalty (strength / 2) * sum_i (theta_i - anchor_i)^2; the anchor is the source, or the end of the last task.

    Source: Li et al. 2018, "Explicit inductive bias for transfer learning with convolutional networks", eq. 3, without
    the separate penalty on fresh layers; their factor is alpha / 2 as here.
    """

    strength: NotNegative = 0.1

    states: ClassVar[int] = 0

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """The anchor is where training begins; all importances are 1."""
        if source is None:
            return {}
        omega = {name: torch.ones_like(p) for name, p in network.named_parameters() if name in self.held(network)}
        state = self.anchored(network, {}, omega, 0)
        self.check_held(network, state)
        return state

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        """Nothing to remember: the next task's anchor is where it starts."""
        return Consolidated(network, {})
