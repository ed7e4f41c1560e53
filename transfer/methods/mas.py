"""Memory aware synapses (MAS): weights are held by the sensitivity of the outputs to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.algorithm import NotNegative
from graft.transfer.fisher import sensitivities
from graft.transfer.method import METHODS
from graft.transfer.regulariser import Regulariser
from graft.transfer.state import Tensors


@METHODS.register("mas")
@dataclass(frozen=True, kw_only=True)
class MAS(Regulariser):
    """Importance: mean over states of |d ||outputs||^2 / d theta|. One anchor per task.

    The paper accumulates importances over tasks around the latest anchor instead.

    Source: Aljundi et al. 2018, "Memory aware synapses", eq. 4 and section 3.
    """

    strength: NotNegative = 0.01

    states: ClassVar[int] = 2048

    def importances(self, network: PolicyNetwork, observations: torch.Tensor) -> Tensors:
        return sensitivities(network, observations, self.held(network))
