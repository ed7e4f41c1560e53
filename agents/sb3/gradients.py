"""Mixin for Stable-Baselines3's algorithms: a transfer method changes gradients before they are clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3.learner_state import network_optimizer
from graft.agents.training.backend import Batch, Gradients
from graft.agents.training.critics import CriticState


class MethodGradients(BaseAlgorithm):
    """Passes each minibatch's gradients of the network through ``gradients``, where given.

    The library clips between backward and step and offers no hook there. So its own clipping is set to infinity (which
    multiplies by one) and done, after ``gradients``, just before the optimiser's step.

    Attributes:
        critic_warmup: of `Hooks`, for algorithms with critics beside the network. critics_carried: whether these are
            those of a source.
    """

    critic_warmup = 0.0
    critics_carried = False

    def __init__(self, *args: Any, gradients: Gradients | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gradients = gradients
        self._clip_at: float | None = getattr(self, "max_grad_norm", None)  # SAC clips nothing
        if gradients is not None and self._clip_at is not None:
            self.max_grad_norm = math.inf
        network_optimizer(self).register_step_pre_hook(self._before_step)

    def critic_state(self) -> CriticState | None:
        """Critics beside the network, where there are any."""
        return None

    def minibatch(self) -> tuple[PolicyNetwork, Batch]:
        """The network, and the minibatch that its current gradients come from."""
        raise NotImplementedError

    def _before_step(self, *_: Any) -> None:
        if self._gradients is None:
            return
        network, batch = self.minibatch()
        named = list(network.named_parameters())
        grads = {name: p.grad for name, p in named if p.grad is not None}
        changed = self._gradients(grads, network, batch)
        for name, parameter in named:
            parameter.grad = changed.get(name)
        if self._clip_at is not None:
            clip_gradients([p for _, p in named], self._clip_at)


def clip_gradients(parameters: Iterable[torch.nn.Parameter], largest: float) -> None:
    """Scale the gradients to a norm of ``largest`` or less, as torch's `clip_grad_norm_` with less overhead."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp_(max=1.0))
