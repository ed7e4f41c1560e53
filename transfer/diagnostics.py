"""Diagnostics as pure functions: CKA, effective rank, dormant units, distance of weights, conflict of gradients.

Features and activations are (N, ...), one row per state; sums are taken in float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from graft.errors import GraftError

Tensors = Mapping[str, torch.Tensor]
"""Tensors by name: the weights of a layer, or gradients, where an absent name stands for zeros."""

SMALLEST = 8
"""Rows and columns that a layer's change needs for its spectrum to say something."""

CONSTANT = 1e-6
"""Features whose spread is at most this share of their norm count as constant: a network's float32 has 1.2e-7."""


def centred_gram(x: torch.Tensor) -> torch.Tensor:
    """Inner products (N, N) of the rows of features (N, ...), flattened and centred over the N states; float64."""
    x = x.flatten(1).detach().to("cpu", torch.float64)
    centred = x - x.mean(dim=0)
    if centred.norm() <= CONSTANT * x.norm():
        centred = torch.zeros_like(x)
    return centred @ centred.T


def gram_alignment(x: torch.Tensor, y: torch.Tensor) -> float:
    """Linear centred kernel alignment (CKA) of two representations of the same states, by their `centred_gram`s (N, N).

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)); the factors 1 / (N - 1)^2 cancel (the biased estimator). Unchanged by
    rotating or scaling all features of one side.

    Returns:
        In [0, 1], 1 where one is the other up to rotation, shift and scale; 0 where one of them is constant.
    Source: Kornblith et al. 2019, eq. 3.
    """
    norms = x.norm() * y.norm()
    return float(((x * y).sum() / norms).clamp(max=1)) if norms != 0 else 0.0


def spectrum(before: Tensors, after: Tensors, largest: int | None = None) -> dict[str, float]:
    """Share of the first singular value in a layer's change, σ₁² / Σσ², by layer: 1 where the change has rank 1.

    Backdoors change a layer in few directions; of layers with at least `SMALLEST` rows and columns that changed, and
    with at most ``largest`` rows or columns, whichever are fewer.
    """
    found = {}
    for name, weight in before.items():
        change = (after[name].double() - weight.double()).flatten(1) if weight.ndim >= 2 else weight[None]
        if largest is not None and min(change.shape) > largest:
            continue
        if min(change.shape) >= SMALLEST and change.any():
            squares = change @ change.T if len(change) <= change.shape[1] else change.T @ change
            found[name] = float(torch.linalg.eigvalsh(squares)[-1] / squares.trace())
    return found


def effective_rank(features: torch.Tensor) -> float:
    """Number of directions that the features fill: exp of the entropy of their singular values, which sum to 1.

    Args:
        features: (N, D), finite, not centred: a constant offset counts as a direction, as in the source.
    Returns:
        In [1, min(N, D)]: k where k singular values are equal and the others 0; 0 where all features are 0.
    Source: Roy & Vetterli 2007, definition 1, natural logarithm. (Kumar et al. 2021 count singular values instead.)
    """
    values = torch.linalg.svdvals(features.detach().to("cpu", torch.float64))
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


def dormant_share(activations: torch.Tensor, tau: float = 0.1) -> float:
    """Share of a layer's units that hardly answer to any state.

    A unit is dormant where its mean absolute activation is at most ``tau`` times the mean of that over the layer.

    Args:
        activations: after the nonlinearity, finite, (N, H) or (N, C, ...); a channel is one unit, averaged over space.
        tau: threshold, >= 0; 0 counts the units that are always 0.
    Returns:
        In [0, 1]; 1 where the layer gives only zeros.
    Source: Sokar et al. 2023, definition 3.1.
    """
    size = activations.detach().abs().transpose(0, 1).flatten(1).mean(dim=1, dtype=torch.float64)
    return float((size <= tau * size.mean()).double().mean())


def relative_distance(now: Tensors, before: Tensors) -> float:
    """||theta - theta_0|| / ||theta_0||, the Euclidean norms jointly over all tensors of a layer.

    Returns:
        0 exactly where nothing moved; infinite where only ``before`` is all zeros.
    Raises:
        GraftError: other names, or other shapes under the same name.
    """
    shapes, shapes_before = ({name: tuple(t.shape) for name, t in side.items()} for side in (now, before))
    if shapes != shapes_before:
        raise GraftError(f"A distance needs the same tensors now and before, got {shapes} and {shapes_before}.")
    moved = _norm({name: now[name].to(old.device) - old for name, old in before.items()})
    start = _norm(before)
    if moved == 0:
        return 0.0
    return moved / start if start > 0 else math.inf


def conflict(task: Tensors, added: Tensors) -> float:
    """Cosine between the gradient of the task's loss and what a method adds to it, over all parameters jointly.

    In [-1, 1]: below 0 where the method works against the task; 0 where one of them is zero.
    """
    lengths = _norm(task) * _norm(added)
    if lengths == 0:
        return 0.0
    common = task.keys() & added.keys()
    flat = {name: [side[name].detach().double().flatten() for side in (task, added)] for name in sorted(common)}
    dot = sum(float(ours @ theirs) for ours, theirs in flat.values())
    return float(torch.tensor(dot / lengths, dtype=torch.float64).clamp(-1, 1))


def share(task: Tensors, added: Tensors) -> float:
    """|added| / (|task| + |added|), norms over all parameters jointly: in [0, 1], 0 where both vanish."""
    ours, theirs = _norm(added), _norm(task)
    return ours / (ours + theirs) if ours != 0 else 0.0


def _norm(tensors: Tensors) -> float:
    # In float64, because gradients of a strong penalty are large enough for their squares to overflow float32.
    return math.hypot(*(float(torch.linalg.vector_norm(t.detach(), dtype=torch.float64)) for t in tensors.values()))
