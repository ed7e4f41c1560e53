"""Online EWC: one anchor, at the end of the latest task, with importances that decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.algorithm import NotNegative, Share
from graft.agents.training.rollouts import Rollouts
from graft.transfer.fisher import policy_and_value_fisher
from graft.transfer.method import METHODS, Consolidated, State, TaskPosition
from graft.transfer.regulariser import Regulariser, normalised
from graft.transfer.state import group, named


@METHODS.register("online_ewc")
@dataclass(frozen=True, kw_only=True)
class OnlineEWC(Regulariser):
    """Importance: omega <- gamma * omega + omega_new, both of mean 1, around the end of the latest task.

    Attributes:
        gamma: what is left of older importances when a task is added.
        value_fisher: as of `EWC`.
    Source: Schwarz et al. 2018, "Progress & Compress", eq. 9 and the rescaled Fisher of its section 3.3. The sum is
    not normalised again: with every task the penalty grows, as it does there.
    """

    strength: NotNegative = 0.01
    gamma: Share = 0.95
    value_fisher: NotNegative = 0.0

    states: ClassVar[int] = 2048

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        held, states = self.held(network), rollouts.observations
        new, mean = normalised(policy_and_value_fisher(network, states, held, self.value_fisher))
        old = group(state, "omega.0")
        omega = {name: t + self.gamma * old[name] if name in old else t for name, t in new.items()}
        kept = self.anchored(network, {}, omega, 0)
        return Consolidated(network, {**kept, **named("omega.0", omega), "raw.0": mean})
