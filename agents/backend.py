"""The seam between a training backend and its callers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from agents.network import PolicyNetwork

Grads = dict[str, torch.Tensor]
"""Parameter name -> gradient; a parameter without a gradient is absent."""


class Batch(NamedTuple):
    """A minibatch as an algorithm sees it: raw observations (N, *obs_shape), and actions (N,) or (N, A)."""

    observations: torch.Tensor
    actions: torch.Tensor


@dataclass(frozen=True)
class Hooks:
    """What a transfer method does during training.

    Attributes:
        gradients: ``(grads, network, batch) -> grads``, called after backward and before clipping.
        schedule: ``(network, progress)``, called before each rollout with the share of the budget spent, in [0, 1).
    """

    gradients: Callable[[Grads, PolicyNetwork, Batch], Grads] | None = None
    schedule: Callable[[PolicyNetwork, float], None] | None = None


Record = Callable[[int, Mapping[str, float]], None]
"""``(env_steps, {tag: value})``: where a backend sends its metrics."""


@dataclass(frozen=True)
class EvaluationPlan:
    """When and how to evaluate: every ``every`` env steps, at the start and at the end.

    ``episodes`` per evaluation, on ``num_envs`` environments; ``deterministic`` plays the most likely action.
    """

    every: int = 20_000
    episodes: int = 64
    num_envs: int = 64
    deterministic: bool = False


class TrainResult(NamedTuple):
    """What training did: env steps taken, wall-clock seconds, and returns of the final evaluation's episodes."""

    env_steps: int
    seconds: float
    final_returns: list[float]


class Unstable(RuntimeError):
    """Training produced a loss that is not a number; the message says where."""


TrainFunction = Callable[..., TrainResult]
Json = dict[str, Any]
