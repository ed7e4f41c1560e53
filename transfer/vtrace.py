"""V-trace: targets of values and advantages from steps of another policy; log-probabilities of stored actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from graft.agents.networks.policy_network import Outputs, split_choices
from graft.envs.core.schema import ActionSchema


class Corrected(NamedTuple):
    """Targets of the values and advantages of the actions, each (N, T)."""

    targets: Tensor
    advantages: Tensor


def vtrace(log_ratios: Tensor, discounts: Tensor, rewards: Tensor, values: Tensor, bootstrap: Tensor) -> Corrected:
    """Off-policy corrected targets v_s = V(x_s) + sum_t gamma^(t-s) (c_s ... c_(t-1)) delta_t, and advantages.

    delta_t = rho_t (r_t + gamma_t V(x_(t+1)) - V(x_t)); an advantage is rho_s (r_s + gamma_s v_(s+1) - V(x_s)); rho and
    c are the ratio of the policies' probabilities, at most 1.

    Args:
        log_ratios: log pi(a|x) - log mu(a|x), (N, T): of the policy that learns, and of the one that acted.
        discounts: (N, T), 0 where an episode ended. rewards, values: (N, T).
        bootstrap: value after the last step, (N,).
    Source: Espeholt et al. 2018 (IMPALA), eq. 1 and section 4.2, with rho' = c' = 1.
    """
    ratios = log_ratios.exp().clamp(max=1.0)
    errors = ratios * (rewards + discounts * torch.cat([values[:, 1:], bootstrap.unsqueeze(1)], 1) - values)
    excess = torch.zeros_like(values)
    running = torch.zeros_like(bootstrap)
    for t in reversed(range(values.shape[1])):
        running = errors[:, t] + discounts[:, t] * ratios[:, t] * running
        excess[:, t] = running
    targets = values + excess
    after = torch.cat([targets[:, 1:], bootstrap.unsqueeze(1)], 1)
    return Corrected(targets, ratios * (rewards + discounts * after - values))


def taken_actions(actions: Tensor, schema: ActionSchema) -> Tensor:
    """Actions (M, ...) by the schema's names, (M, A): those of a box, or True for what was chosen of every choice."""
    if schema.kind == "box":
        return actions
    sizes = schema.sizes or (len(schema.names),)
    chosen = actions.long().view(len(actions), len(sizes))
    return torch.cat([one_hot(chosen[:, i], size) for i, size in enumerate(sizes)], 1).bool()


def log_probability(
    outputs: Outputs, taken: Tensor, known: Tensor | None = None, sizes: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (M,) of actions under a policy of the default distribution, and whether they can be told (M,).

    Args:
        taken: (M, A), of `taken_actions`.
        known: (A,), actions that count: a choice without any does not, nor a dimension of a box; None for all. A step
            whose action is none of them can't be told, and has 0.
        sizes: of several choices at once, as in `ActionSchema`.
    """
    every = torch.ones(taken.shape[1], dtype=torch.bool, device=taken.device) if known is None else known
    if outputs.log_std is not None:
        spread = outputs.log_std.expand_as(outputs.action)
        apart = (taken - outputs.action) * (-spread).exp()
        each = -0.5 * apart.square() - spread - 0.5 * math.log(2 * math.pi)
        return each.masked_fill(~every, 0.0).sum(-1), torch.ones_like(taken[:, 0], dtype=torch.bool)
    told, total = torch.ones_like(taken[:, 0]), torch.zeros_like(outputs.action[:, 0])
    for logits, chosen, counts in zip(*(split_choices(t, sizes) for t in (outputs.action, taken, every)), strict=True):
        if counts.any():
            told = told & chosen.any(-1)
            total = total + logits.log_softmax(-1).masked_fill(~chosen, 0.0).sum(-1)
    return total.masked_fill(~told, 0.0), told
