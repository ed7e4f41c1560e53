"""Normalisation of observations by running statistics, which are buffers of the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import nn

Gather = Callable[[torch.Tensor], list[torch.Tensor]]
"""A tensor of one of several learners -> those of all, in the same order in each."""

CLIP = 10.0  # normalised values are clipped to this, as in Stable-Baselines3's VecNormalize
EPSILON = 1e-8
RESOLUTION = 1e-6
"""Deviations of this share of a feature's mean, or of 1 where that is more, are rounding (float32's is 1.2e-7)."""


class Normaliser(nn.Module):
    """Observations (N, ...) -> (N, D) with mean 0 and variance 1, by running statistics.

    The scale of a feature that has never varied is unknown: its mean is subtracted, and it is not divided by anything.

    A policy must not change between acting and learning. So observations in training mode are only counted, and enter
    the statistics when a backend calls `commit_statistics`, between two rollouts; in eval mode they are not counted.
    Before the first commit observations pass unchanged; after it, features that were never counted are only clipped.

    ``running_mean``, ``running_var`` and ``running_count`` (D,): a feature that a transfer adds has its own count.
    Where ``held``, nothing is counted in training mode either. ``absent`` (D,): which features the task that is learned
    does not show. Their zeros say nothing about what they are elsewhere, and are not counted.

    Source: parallel updates as in Chan et al. 1979, over all observations since the first.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    running_count: torch.Tensor
    absent: torch.Tensor
    _pending: torch.Tensor

    def __init__(self, features: int, clip: float = CLIP) -> None:
        super().__init__()
        self.held, self.clip = False, clip
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("running_count", torch.zeros(features))
        self.register_buffer("absent", torch.zeros(features, dtype=torch.bool), persistent=False)
        self.register_buffer("_pending", torch.zeros(3, features, dtype=torch.float64), persistent=False)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        flat = obs.flatten(1).float()
        if self.training and not self.held:
            self._count(flat.detach().double())
        varies = self.varied
        scale = torch.where(varies, (self.running_var + EPSILON).sqrt(), 1.0)
        scaled = (flat - self.running_mean) / scale
        known = (self.running_count > 0) | ~varies
        values = torch.where(known, scaled, flat)
        return torch.where(known.any(), values.clamp(-self.clip, self.clip), values)

    @property
    def varied(self) -> torch.Tensor:
        """Whether each feature was ever seen to vary, by more than `RESOLUTION`: booleans (D,)."""
        return varied(self.running_mean, self.running_var)

    @torch.no_grad()
    def forget_constant(self) -> None:
        """Count features that never varied as not seen, for a network that moves to another task.

        If their statistics go on, they will be those of that task alone; until then the output stays the same.
        """
        self.running_count.mul_(self.varied)

    @torch.no_grad()
    def _count(self, flat: torch.Tensor) -> None:
        centred = flat - flat.mean(0)
        count = torch.full_like(flat[0], len(flat))
        self._pending.copy_(_merged(self._pending, torch.stack([count, flat.mean(0), centred.square().sum(0)])))

    @torch.no_grad()
    def commit_statistics(self, gather: Gather | None = None) -> None:
        """Add what was counted to the statistics; ``gather`` collects it from several learners."""
        if gather is not None:
            first, *others = gather(self._pending)
            self._pending.copy_(reduce(_merged, others, first))
        self._pending[:, self.absent] = 0.0
        if not self._pending[0].any():
            return
        known = torch.stack([self.running_count, self.running_mean, self.running_var * self.running_count]).double()
        count, mean, squares = _merged(known, self._pending)
        self.running_count.copy_(count)
        self.running_mean.copy_(mean)
        self.running_var.copy_(torch.where(count > 0, squares / count, self.running_var))
        self._pending.zero_()


def varied(mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
    """Whether features of this mean and variance vary by more than rounding; elementwise."""
    return var > (RESOLUTION * mean.abs().clamp(min=1)).square()


def _merged(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Count, mean and sum of squared deviations (3, D) of two sets of numbers."""
    count = a[0] + b[0]
    share = torch.where(count > 0, b[0] / count.clamp(min=1), 0.0)
    distance = b[1] - a[1]
    return torch.stack([count, a[1] + distance * share, a[2] + b[2] + distance.square() * a[0] * share])


def normalisers(module: nn.Module) -> list[Normaliser]:
    return [part for part in module.modules() if isinstance(part, Normaliser)]


def commit_statistics(module: nn.Module, gather: Gather | None = None) -> None:
    """`Normaliser.commit_statistics` of all normalisers in a module."""
    for normaliser in normalisers(module):
        normaliser.commit_statistics(gather)


def statistics(module: nn.Module) -> set[str]:
    """Names of the tensors that are observation statistics."""
    normalisers_by_path = {path: part for path, part in module.named_modules() if isinstance(part, Normaliser)}
    return {f"{path}.{name}" for path, part in normalisers_by_path.items() for name in part.state_dict()}
