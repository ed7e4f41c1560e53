"""Outputs of policies, the KL divergence between two of them, and gradients of penalties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from graft.agents.networks.policy_network import NEVER, Distribution, Outputs, PolicyNetwork, split_choices
from graft.agents.training.backend import Grads

CHUNK = 1024
"""States per forward pass of `policy_outputs`."""


def kl(
    p: Outputs,
    q: Outputs,
    distribution: Distribution | None = None,
    shared: torch.Tensor | None = None,
    sizes: Sequence[int] = (),
) -> torch.Tensor:
    """Kullback-Leibler divergence KL(p || q) of the action distributions of N states, (N,), in nats.

    Where ``p`` has no ``log_std``, ``action`` are logits of a categorical distribution, or of one for each of several
    choices, whose divergences add up; else they are means of a diagonal Gaussian (also of one that is squashed by tanh,
    which leaves the divergence as it is). The Q values of a ``greedy`` policy count as means of Gaussians of variance
    1: half the squared distance, in the squared units of the return.

    Args:
        p: the target. q: the approximation. Both get gradients.
        distribution: of `NetworkConfig`: ``greedy``, ``squashed``, or None.
        shared: (A,) booleans, the actions that ``p`` knows; None: all. The others have probability 0 under ``p``, which
            is renormalised, but not under ``q``; of Gaussians and Q values, other dimensions do not count. The same
            holds for actions that ``p`` may not play in a state (`NEVER`); where it may play none that it knows, the
            divergence is 0.
        sizes: of several choices at once, as in `ActionSchema`. A choice without a known action does not count.
    """
    if distribution == "greedy":
        return 0.5 * _masked((p.action - q.action).square(), shared).sum(-1)
    if p.log_std is None:
        known = torch.ones_like(p.action[0], dtype=torch.bool) if shared is None else shared
        parts = zip(*(split_choices(of, sizes) for of in (p.action, q.action, known)), strict=True)
        return torch.stack([_categorical_kl(*part) for part in parts if part[2].any()]).sum(0)
    assert q.log_std is not None, "a Gaussian is matched by a Gaussian"
    log_ratio = 2 * (p.log_std - q.log_std)
    distance = (p.action - q.action).square() * (-2 * q.log_std).exp()
    return 0.5 * _masked(log_ratio.exp() - log_ratio - 1 + distance, shared).sum(-1)


def _masked(values: torch.Tensor, shared: torch.Tensor | None) -> torch.Tensor:
    return values if shared is None else values.masked_fill(~shared, 0.0)


def _categorical_kl(p: torch.Tensor, q: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """KL divergence of categorical policies from logits (N, A)."""
    if bool((p <= NEVER).any()):
        known = shared & (p > NEVER)
        nothing = ~known.any(-1)
        known = known | nothing.unsqueeze(-1)
        return _renormalised_kl(p, q, known).masked_fill(nothing, 0.0)
    return _renormalised_kl(p, q, shared)


def _renormalised_kl(p: torch.Tensor, q: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    log_p = p.masked_fill(~shared, -torch.inf).log_softmax(-1)
    probability = log_p.exp()
    # 0 * log 0 is 0, also in the gradient.
    return (probability * (_masked(log_p, shared) - q.log_softmax(-1))).sum(-1)


@torch.no_grad()
def policy_outputs(network: PolicyNetwork, observations: torch.Tensor) -> Outputs:
    """Outputs of N states, in eval mode, in chunks that are moved to the network's device."""
    device = next(network.parameters()).device
    with evaluating(network):
        parts = [network(chunk.to(device)) for chunk in torch.split(observations, CHUNK)]
    spread = parts[0].log_std
    if spread is not None:
        spread = torch.cat([part.log_std for part in parts]) if spread.dim() > 1 else spread.clone()
    return Outputs(torch.cat([p.action for p in parts]), spread, torch.cat([p.value for p in parts]))


def rows_of(outputs: Outputs, rows: torch.Tensor) -> Outputs:
    """Outputs of some of the states; a ``log_std`` (A,) is that of all."""
    spread = outputs.log_std
    return Outputs(
        outputs.action[rows], spread[rows] if spread is not None and spread.dim() > 1 else spread, outputs.value[rows]
    )


@contextmanager
def evaluating(network: PolicyNetwork) -> Iterator[None]:
    """The network in eval mode, where running statistics do not move; then each module in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def gradient(loss: torch.Tensor, network: PolicyNetwork) -> Grads:
    """Gradients of a scalar, for the parameters that train and that it depends on; its graph is freed."""
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not loss.requires_grad or not trained:
        return {}
    slopes = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {name: g for name, g in zip(trained, slopes, strict=True) if g is not None}


def added(grads: Grads, more: Grads) -> Grads:
    """The sum of two sets of gradients; what is absent counts as zero."""
    summed = {name: g + more[name] if name in more else g for name, g in grads.items()}
    return summed | {name: g for name, g in more.items() if name not in grads}
