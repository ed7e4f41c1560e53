"""A-GEM: gradients are projected so that they do not increase the loss on earlier tasks' states."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch, Grads
from graft.transfer.divergence import gradient
from graft.transfer.memory import Memory, tasks
from graft.transfer.method import METHODS, State, Step


@METHODS.register("agem")
@dataclass(frozen=True, kw_only=True)
class AGEM(Memory):
    """Averaged gradient episodic memory: where g . g_ref < 0, g becomes g - (g . g_ref / |g_ref|^2) g_ref.

    g_ref is the gradient of the mean KL(stored policy || policy) on states of the memory (`Memory.divergence`); in the
    paper, of the supervised loss on stored labels. The KL is at its minimum when a task ends, so nothing but rounding
    is projected before the policy drifts.

    Source: Chaudhry et al. 2019, eq. 11; in reinforcement learning, Wolczyk et al. 2021 (Continual World).
    """

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        if not tasks(state):
            return Step(grads, state)
        divergence, state = self.divergence(network, state)
        return Step(projected(grads, gradient(divergence, network)), state)


def projected(grads: Grads, reference: Grads) -> Grads:
    """``grads`` without their part against ``reference``, where their dot product over all parameters is negative.

    A parameter that ``reference`` lacks counts there as zero; one that only ``reference`` has does not train.
    """
    both = [(grads[name].double(), reference[name].double()) for name in grads if name in reference]
    if not both:
        return grads
    dot = torch.stack([(g * r).sum() for g, r in both]).sum()
    if dot >= 0:
        return grads
    # In double precision: squares of a gradient that has hardly begun to grow would be zero in single precision.
    factor = dot / torch.stack([r.square().sum() for _, r in both]).sum()
    return {
        name: (g - factor * reference[name].double()).to(g) if name in reference else g for name, g in grads.items()
    }
