"""PPO's loss in closed form: its gradient by the network's outputs, without distribution objects or a graph of its own.

With r the ratio of the new and the old probability of an action, A the normalised advantage, H the entropy and R the
return, the loss of Schulman et al. 2017 (eq. 9) is the mean over a minibatch of N states of

    -min(r A, clip(r, 1 - c, 1 + c) A) - entropy * H + value * (R - V)^2.

Its derivative by log pi is -r A / N where r A is not above the clipped product, else 0. By a logit z_j of a categorical
distribution, d log pi / dz_j = [j taken] - p_j and dH/dz_j = -p_j (log p_j + H). By the mean and log s of a normal
distribution, d log pi = (a - mean) / s^2 and ((a - mean) / s)^2 - 1, and dH / d log s = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from graft.agents.networks.policy_network import Outputs, split_choices

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Taken(NamedTuple):
    """A minibatch of N steps: ``actions`` (N,), (N, choices) integers or (N, A) reals, the rest (N,)."""

    actions: torch.Tensor
    old_log_prob: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


class Weights(NamedTuple):
    """``clip`` of the ratio, and the weights of the entropy bonus and the value loss."""

    clip: float
    entropy: float
    value: float


class Terms(NamedTuple):
    """Means over a minibatch, as Stable-Baselines3 logs them."""

    policy_loss: float
    value_loss: float
    entropy_loss: float
    clip_fraction: float
    approx_kl: float
    loss: float


def means(terms: torch.Tensor, size: int, weights: Weights) -> list[Terms]:
    """Of what `backward` returned for minibatches of ``size``, put together: (4, S)."""
    gain, error, entropy, log_ratio = terms
    apart = log_ratio.exp() - 1
    each = torch.stack([gain, error.square(), entropy, (apart.abs() > weights.clip).float(), apart - log_ratio])
    found = []
    for part in torch.split(each, size, 1):
        gain_mean, value, entropy_mean, clip_fraction, kl = part.mean(1).tolist()
        loss = -gain_mean - weights.entropy * entropy_mean + weights.value * value
        found.append(Terms(-gain_mean, value, -entropy_mean, clip_fraction, kl, loss))
    return found


def draw(outputs: Outputs, sizes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Actions (N,), (N, choices) or (N, A) by torch's own random numbers, and their log-probabilities (N,).

    The numbers are used as Stable-Baselines3's distributions use them.
    """
    if outputs.log_std is not None:
        noise = torch.randn_like(outputs.action)
        log_prob = -0.5 * noise.square() - outputs.log_std - HALF_LOG_TAU
        return outputs.action + noise * outputs.log_std.exp(), log_prob.sum(1)
    chosen, log_prob = [], torch.zeros_like(outputs.value)
    for logits in split_choices(outputs.action, sizes):
        log_p = logits.log_softmax(1)
        chosen.append(torch.multinomial(log_p.exp(), 1, True))
        log_prob = log_prob + log_p.gather(1, chosen[-1]).squeeze(1)
    return torch.cat(chosen, 1) if sizes else chosen[0].squeeze(1), log_prob


class Categorical:
    """A categorical distribution of each choice: ``log_prob`` and ``entropy`` (N,) of all together."""

    def __init__(self, outputs: Outputs, sizes: Sequence[int], actions: torch.Tensor) -> None:
        parts = split_choices(outputs.action, sizes)
        self._taken = torch.split(actions.view(len(actions), -1), 1, 1)
        self._log_p = [logits.log_softmax(1) for logits in parts]
        self._p = [log_p.exp() for log_p in self._log_p]
        self._entropies = [-(p * log_p).sum(1) for p, log_p in zip(self._p, self._log_p, strict=True)]
        found = [log_p.gather(1, a).squeeze(1) for log_p, a in zip(self._log_p, self._taken, strict=True)]
        self.log_prob, self.entropy = found[0], self._entropies[0]
        for log_prob, entropy in zip(found[1:], self._entropies[1:], strict=True):
            self.log_prob, self.entropy = self.log_prob + log_prob, self.entropy + entropy

    def gradients(self, by_log_prob: torch.Tensor, by_entropy: float) -> list[torch.Tensor]:
        """Of the loss by the logits, from those by each log-probability (N,) and by each entropy."""
        column, gradients = by_log_prob.unsqueeze(1), []
        for p, log_p, entropy, taken in zip(self._p, self._log_p, self._entropies, self._taken, strict=True):
            inner = (log_p + entropy.unsqueeze(1)).mul_(-by_entropy).sub_(column)
            gradients.append(inner.mul_(p).scatter_add_(1, taken, column))
        return [gradients[0] if len(gradients) == 1 else torch.cat(gradients, 1)]


class Normal:
    """Independent normal distributions with means (N, A) and log standard deviations (A,)."""

    def __init__(self, mean: torch.Tensor, log_std: torch.Tensor, actions: torch.Tensor) -> None:
        self._std = log_std.exp()
        self._apart = (actions - mean).div_(self._std)
        self.log_prob = (-0.5 * self._apart.square() - log_std - HALF_LOG_TAU).sum(1)
        self.entropy = (log_std + HALF_LOG_TAU + 0.5).sum().expand(len(mean))

    def gradients(self, by_log_prob: torch.Tensor, by_entropy: float) -> list[torch.Tensor]:
        """Of the loss by the means and by the log standard deviations."""
        column = by_log_prob.unsqueeze(1)
        by_log_std = (column * (self._apart.square() - 1)).sum(0) + by_entropy * len(by_log_prob)
        return [column * self._apart / self._std, by_log_std]


@torch.no_grad()
def backward(outputs: Outputs, sizes: Sequence[int], taken: Taken, weights: Weights) -> torch.Tensor:
    """Add the loss's gradients to the parameters that ``outputs`` come from.

    Args:
        outputs: of the minibatch's states. sizes: of several choices at once, else empty.
    Returns:
        (4, N): of each state the clipped product, the value's error, the entropy and the logarithm of the ratio.
    """
    count, advantages = len(taken.returns), taken.advantages
    if count > 1:
        deviation, mean = torch.std_mean(advantages)
        advantages = (advantages - mean) / (deviation + 1e-8)
    policy: Categorical | Normal
    if outputs.log_std is None:
        policy = Categorical(outputs, sizes, taken.actions)
        heads = [outputs.action, outputs.value]
    else:
        policy = Normal(outputs.action, outputs.log_std, taken.actions)
        heads = [outputs.action, outputs.log_std, outputs.value]
    log_ratio = policy.log_prob - taken.old_log_prob
    ratio = log_ratio.exp()
    product, clipped = advantages * ratio, advantages * ratio.clamp(1 - weights.clip, 1 + weights.clip)
    error = outputs.value - taken.returns
    by_log_prob = torch.where(product <= clipped, product, 0.0).mul_(-1 / count)
    by_outputs = [*policy.gradients(by_log_prob, -weights.entropy / count), error * (2 * weights.value / count)]
    chosen = [(head, by) for head, by in zip(heads, by_outputs, strict=True) if head.requires_grad]
    if chosen:
        torch.autograd.backward([head for head, _ in chosen], [by for _, by in chosen])
    return torch.stack([torch.minimum(product, clipped), error, policy.entropy, log_ratio])
