"""What SAC and DQN share: the minibatch that a gradient came from, and checks of their options."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from envs.errors import GraftError


class RecallingBuffer(ReplayBuffer):
    """The library's replay buffer, which stores observations as they come, and knows the last minibatch it gave."""

    last: ReplayBufferSamples | None = None

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """A minibatch of transitions."""
        self.last = super().sample(batch_size, env)
        return self.last


def last_minibatch(buffer: ReplayBuffer | None) -> ReplayBufferSamples:
    """The minibatch that the library's `train` is working on."""
    assert isinstance(buffer, RecallingBuffer)
    assert buffer.last is not None
    return buffer.last


def check_schedule(gradient_steps: int, buffer: int, num_envs: int) -> None:
    """Raises GraftError for options that the library would take in silence and read as others."""
    if gradient_steps == 0:
        raise GraftError("gradient_steps=0 is not allowed: give a number from 1, or -1 for one per env step.")
    if buffer < num_envs:
        raise GraftError(f"buffer={buffer} is not allowed: it must hold a step of all {num_envs} environments.")


def follow_freezing(copy: torch.nn.Module, original: torch.nn.Module) -> None:
    """Let the parameters of ``copy`` train where those of ``original`` do; the two are built alike."""
    for mine, theirs in zip(copy.parameters(), original.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
