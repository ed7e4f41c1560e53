"""What SAC and DQN share: options of a replay buffer, and the latest minibatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from graft.agents.sb3.algorithm import Algorithm
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import ReplayOptions
from graft.agents.training.backend import NextSteps
from graft.errors import GraftError


class LastSampleReplayBuffer(ReplayBuffer):
    """The library's replay buffer, which keeps a reference to its latest minibatch."""

    last: ReplayBufferSamples | None = None

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        self.last = super().sample(batch_size, env)
        return self.last


def last_minibatch(buffer: ReplayBuffer | None) -> ReplayBufferSamples:
    """The minibatch that the library's `train` is working on."""
    assert isinstance(buffer, LastSampleReplayBuffer)
    assert buffer.last is not None
    return buffer.last


def following(sample: ReplayBufferSamples) -> Callable[[int], NextSteps]:
    """Of `Batch`: a replay buffer has the next observation of every step, at an episode's end its last one."""
    after = sample.next_observations
    return lambda most: NextSteps(torch.arange(len(after), device=after.device)[:most], after[:most])


@dataclass(frozen=True, kw_only=True)
class OffPolicy(ReplayOptions, Algorithm):
    """An algorithm that learns from a replay buffer."""

    def check_rows(self, env: BatchVecEnv) -> None:
        """Raises GraftError where rows can be out of play: a replay buffer would hold these steps too."""
        if env.env.dead_rows:
            raise GraftError(
                "A replay buffer can't leave out the steps of agents that are out of play; use the algorithm 'ppo'."
            )

    def arguments(self, env: BatchVecEnv) -> dict[str, Any]:
        self.check_rows(env)
        return {
            "learning_rate": self.learning_rate,
            "buffer_size": self.buffer,
            "batch_size": self.batch,
            "gamma": self.gamma,
            "tau": self.tau,
            "learning_starts": self.learning_starts,
            "train_freq": self.train_freq,
            "gradient_steps": self.gradient_steps,
            "replay_buffer_class": LastSampleReplayBuffer,
        }
