"""Replay: behaviour cloning on stored states of earlier tasks."""

from __future__ import annotations

from dataclasses import dataclass

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.algorithm import NotNegative
from graft.agents.training.backend import Batch, Grads
from graft.transfer.divergence import added, gradient
from graft.transfer.memory import Memory, tasks
from graft.transfer.method import METHODS, State, Step


@METHODS.register("replay")
@dataclass(frozen=True, kw_only=True)
class Replay(Memory):
    """Behaviour cloning from memory: adds the gradient of strength * mean KL(stored policy || policy).

    The mean is over `Memory.batch` stored states, drawn anew for each minibatch; the policy is as in
    `Memory.divergence`. The value function is not cloned.

    Attributes:
        strength: of the penalty, per nat; 0 is fine-tuning, bit for bit.
    Source: ClonEx-SAC, Wolczyk et al. 2022, without its choice of exploration.
    """

    strength: NotNegative = 1.0

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        if self.strength == 0 or not tasks(state):
            return Step(grads, state)
        divergence, state = self.divergence(network, state)
        penalty = self.strength * divergence
        return Step(added(grads, gradient(penalty, network)), state, penalty.detach())
