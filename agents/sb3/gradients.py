"""Where a transfer method gets hold of the gradients of a learner of Stable-Baselines3."""

from __future__ import annotations

import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch, Gradients


def apply_method_gradients(
    gradients: Gradients, network: PolicyNetwork, batch: Batch, clip_at: float | None = None
) -> None:
    """Put what ``gradients`` makes of the network's gradients in their place.

    Args:
        gradients: the method. network: what is trained. batch: the states that the gradients come from.
        clip_at: largest norm of what comes out, for a learner that left its own clipping to us; None for none.
    """
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    changed = gradients(found, network, batch)
    for name, parameter in network.named_parameters():
        parameter.grad = changed.get(name)
    if clip_at is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), clip_at)
