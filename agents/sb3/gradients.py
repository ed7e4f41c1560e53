"""Mixin for Stable-Baselines3's algorithms: a transfer method changes gradients before they are clipped."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3.learner_state import network_optimizer
from graft.agents.training.backend import Batch, Gradients
from graft.agents.training.critics import CriticState
from graft.agents.training.divergence import Columns, DivergenceCheck, total_norm


class MethodGradients(BaseAlgorithm):
    """Checks each minibatch's gradients of the network, and passes them through ``gradients``, where given.

    The library clips between backward and step and offers no hook there. So its own clipping is set to infinity (which
    multiplies by one) and done, after ``gradients``, just before the optimiser's step. The norm also says whether all
    gradients are finite.

    Attributes:
        critic_warmup: of `Hooks`, for algorithms with critics beside the network. critics_carried: whether these are
            those of a source.
    """

    critic_warmup = 0.0
    critics_carried = False

    def __init__(self, *args: Any, gradients: Gradients | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gradients = gradients
        self.divergence = DivergenceCheck()
        self._clip_at: float | None = getattr(self, "max_grad_norm", None)  # SAC clips nothing
        if self._clip_at is not None:
            self.max_grad_norm = math.inf
        network_optimizer(self).register_step_pre_hook(self._before_step)

    @cached_property
    def _trained(self) -> list[torch.nn.Parameter]:
        """The network's parameters, in its order."""
        return list(getattr(self.policy, "actor", self.policy).parameters())

    def critic_state(self) -> CriticState | None:
        """Critics beside the network, where there are any."""
        return None

    def minibatch(self) -> tuple[PolicyNetwork, Batch]:
        """The network, and the minibatch that its current gradients come from."""
        raise NotImplementedError

    def columns(self) -> Columns:
        """That minibatch, as it is kept where training diverges by it."""
        batch = self.minibatch()[1]
        return lambda: {"observations": batch.observations, "actions": batch.actions}

    def _before_step(self, *_: Any) -> None:
        if self._gradients is not None:
            network, batch = self.minibatch()
            named = list(network.named_parameters())
            grads = {name: p.grad for name, p in named if p.grad is not None}
            changed = self._gradients(grads, network, batch)
            for name, parameter in named:
                parameter.grad = changed.get(name)
        gradients = [p.grad for p in self._trained if p.grad is not None]
        if gradients:
            norm = total_norm(gradients)
            self.divergence.see(norm, self.columns())
            if self._clip_at is not None:  # as torch's `clip_grad_norm_`
                torch._foreach_mul_(gradients, (self._clip_at / (norm + 1e-6)).clamp_(max=1.0))
