"""What SAC and DQN share: options of a replay buffer, and the minibatch that a gradient came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from agents.algorithm import Count, Positive, Share
from agents.sb3.algorithm import Algorithm
from agents.sb3.vec_env import BatchVecEnv
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


@dataclass(frozen=True, kw_only=True)
class OffPolicy(Algorithm):
    """Options of every algorithm that learns from a replay buffer.

    Attributes:
        learning_rate: of Adam. gamma: discount. batch: transitions per gradient step.
        buffer: transitions kept; observations stay in the task's dtype.
        tau: share of the network that its target takes over at each update of the target.
        learning_starts: env steps of uniformly random play before the first update.
        train_freq: steps of each environment between updates.
        gradient_steps: per update; -1 for as many as env steps were taken since the last one.
    Raises:
        GraftError: no gradient steps, or a buffer smaller than the batch of environments.
    """

    num_envs: Count = 8
    learning_rate: Positive = 3e-4
    buffer: Count = 100_000
    batch: Count = 256
    gamma: Share = 0.99
    tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    learning_starts: Annotated[int, Field(ge=0)] = 1000
    train_freq: Count = 1
    gradient_steps: Annotated[int, Field(ge=-1)] = -1

    def __post_init__(self) -> None:
        # Values that the library would take in silence and read as others.
        if self.gradient_steps == 0:
            raise GraftError("gradient_steps=0 is not allowed: give a number from 1, or -1 for one per env step.")
        if self.buffer < self.num_envs:
            raise GraftError(
                f"buffer={self.buffer} is not allowed: it must hold a step of all {self.num_envs} environments."
            )

    def check_rows(self, env: BatchVecEnv) -> None:
        """Raises GraftError where rows can be out of play: a replay buffer would learn from these steps too."""
        if env.env.dead_rows:
            raise GraftError(
                "A replay buffer can't leave out the steps of agents that are out of play; use the algorithm 'ppo'."
            )

    def arguments(self) -> dict[str, Any]:
        """These options as the library's classes name them."""
        return {
            "learning_rate": self.learning_rate,
            "buffer_size": self.buffer,
            "batch_size": self.batch,
            "gamma": self.gamma,
            "tau": self.tau,
            "learning_starts": self.learning_starts,
            "train_freq": self.train_freq,
            "gradient_steps": self.gradient_steps,
            "replay_buffer_class": RecallingBuffer,
        }


def follow_freezing(copy: torch.nn.Module, original: torch.nn.Module) -> None:
    """Let the parameters of ``copy`` train where those of ``original`` do; the two are built alike."""
    for mine, theirs in zip(copy.parameters(), original.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
