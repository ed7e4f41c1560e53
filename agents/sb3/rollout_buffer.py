"""A rollout buffer that is allocated once, and gives minibatches as tensors of its own memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer


class TensorRolloutBuffer(RolloutBuffer):
    """The library's rollout buffer, whose arrays of (steps, environments, ...) stay where they are.

    Steps of rows that are out of play are in no minibatch. The advantages of other steps don't change: a row leaves
    play at the end of its episode, where their sum ends.

    Args:
        acted: returns which rows were in play in the step that is being added, (N,) bool; None where all always are.

    Attributes:
        channels_last: whether observations (C, H, W) lie in memory as (H, W, C), which convolutions on a CPU read
            faster; their shape is the same.
    """

    channels_last = False

    def __init__(self, *args: Any, acted: Callable[[], NDArray[np.bool_]] | None = None, **kwargs: Any) -> None:
        self._acted = acted
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        if not hasattr(self, "observations") or self.generator_ready:  # the library's `get` rearranges the arrays
            super().reset()
            self.arrange(self.channels_last)
        self.pos, self.full = 0, False
        self._live = np.ones((self.buffer_size, self.n_envs), np.bool_)

    def arrange(self, channels_last: bool) -> None:
        """Set ``channels_last``; what was stored is lost."""
        self.channels_last = channels_last
        shape = (self.buffer_size, self.n_envs, *self.obs_shape)
        if channels_last:
            steps, rows, channels, height, width = shape
            stored = np.zeros((steps, rows, height, width, channels), self.observation_space.dtype)
            self.observations = stored.transpose(0, 1, 4, 2, 3)
        else:
            self.observations = np.zeros(shape, self.observation_space.dtype)

    def begin_step(self, observations: NDArray[Any], starts: NDArray[Any]) -> torch.Tensor:
        """Store what a step begins with, and return its observations (N, *obs_shape), in the buffer's own memory."""
        self.observations[self.pos] = observations
        self.episode_starts[self.pos] = starts
        return torch.from_numpy(self.observations[self.pos])

    def end_step(
        self, actions: torch.Tensor, rewards: NDArray[np.float32], values: torch.Tensor, log_probs: torch.Tensor
    ) -> None:
        """Store what came of the step that began: actions (N,) or (N, A), and the rest (N,)."""
        place = self.pos
        self.actions[place] = actions.cpu().numpy().reshape(self.n_envs, self.action_dim)
        self.rewards[place] = rewards
        self.values[place] = values.cpu().numpy()
        self.log_probs[place] = log_probs.cpu().numpy()
        if self._acted is not None:
            self._live[place] = self._acted()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def rows(self) -> NDArray[np.int64]:
        """Numbers of the steps in play, step * N + environment: those of the first environment, of the second, ..."""
        steps, count = self.buffer_size, self.n_envs
        numbers = np.arange(steps * count).reshape(steps, count).T
        return numbers[self._live.T]

    def tensor(self, name: str, device: torch.device) -> torch.Tensor:
        """One of the arrays as (steps * N, ...); on a CPU in the buffer's own memory."""
        return torch.from_numpy(getattr(self, name)).flatten(0, 1).to(device)
