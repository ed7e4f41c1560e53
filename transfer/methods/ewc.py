"""Elastic weight consolidation (EWC): weights are held by the policy's Fisher information on each earlier task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.algorithm import NotNegative
from graft.transfer.fisher import policy_and_value_fisher
from graft.transfer.method import METHODS
from graft.transfer.regulariser import Regulariser
from graft.transfer.state import Tensors


@METHODS.register("ewc")
@dataclass(frozen=True, kw_only=True)
class EWC(Regulariser):
    """Importance: the policy's diagonal Fisher information on states of the task. One anchor per task.

    The paper's importances are not normalised, so its strengths (400 to 1e5) do not carry over.

    Attributes:
        value_fisher: weight of the value function's Fisher information, E[(dV/dtheta)^2], beside the policy's, both
            of equal mean; 0 for none.
    Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", eq. 3.
    """

    strength: NotNegative = 0.01
    value_fisher: NotNegative = 0.0

    states: ClassVar[int] = 2048

    def importances(self, network: PolicyNetwork, observations: torch.Tensor) -> Tensors:
        return policy_and_value_fisher(network, observations, self.held(network), self.value_fisher)
