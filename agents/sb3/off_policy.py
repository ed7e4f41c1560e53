"""What SAC and DQN share: options of a replay buffer, and the latest minibatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from graft.agents.sb3.algorithm import Algorithm
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import ReplayOptions
from graft.agents.training.backend import NextSteps
from graft.agents.training.transitions import (
    ACTIONS,
    NEXT_OBSERVATIONS,
    OBSERVATIONS,
    REWARDS,
    TERMINATED,
    TransitionTensors,
)
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


def _columns(buffer: ReplayBuffer) -> dict[str, NDArray[Any]]:
    """By their names in `TransitionTensors`, (steps, environments, ...); time limits count as ends here."""
    return {
        OBSERVATIONS: buffer.observations,
        NEXT_OBSERVATIONS: buffer.next_observations,
        ACTIONS: buffer.actions,
        REWARDS: buffer.rewards,
        TERMINATED: buffer.dones,
    }


def latest_transitions(buffer: ReplayBuffer, count: int, reward_scale: float) -> TransitionTensors:
    """The latest of a buffer, in whole steps of all its environments, ``count`` at most; rewards without the scale."""
    held = buffer.buffer_size if buffer.full else buffer.pos
    rows = min(held, count // buffer.n_envs)
    order = np.arange(buffer.pos - rows, buffer.pos) % buffer.buffer_size
    latest = {name: column[order] for name, column in _columns(buffer).items()}
    latest[TERMINATED] *= 1 - buffer.timeouts[order]
    latest[REWARDS] /= reward_scale
    return {name: torch.from_numpy(column.reshape(-1, *column.shape[2:])) for name, column in latest.items()}


def fill(buffer: ReplayBuffer, transitions: Mapping[str, torch.Tensor], count: int, reward_scale: float) -> None:
    """Put the latest ``count`` of ``transitions`` into an empty buffer, in whole steps of all its environments."""
    rows = min(min(count, len(transitions[REWARDS])) // buffer.n_envs, buffer.buffer_size)
    for name, column in _columns(buffer).items():
        latest = transitions[name][len(transitions[name]) - rows * buffer.n_envs :].numpy()
        column[:rows] = latest.reshape(rows, *column.shape[1:])
    buffer.rewards[:rows] *= reward_scale
    buffer.timeouts[:rows] = 0
    buffer.pos, buffer.full = rows % buffer.buffer_size, rows == buffer.buffer_size


def following(sample: ReplayBufferSamples) -> Callable[[int], NextSteps]:
    """Of `Batch`: a replay buffer has the next observation of every step, at an episode's end its last one."""
    after = sample.next_observations
    return lambda most: NextSteps(torch.arange(len(after), device=after.device)[:most], after[:most])


@dataclass(frozen=True, kw_only=True)
class OffPolicy(ReplayOptions, Algorithm):
    """An algorithm that learns from a replay buffer.

    Attributes:
        keep_transitions: how many of the latest transitions of the buffer are kept in the checkpoint, and from there
            put into the buffer of a transfer that carries heads; 0: none.
    """

    keep_transitions: Annotated[int, Field(ge=0)] = 0

    @property
    def keeps_transitions(self) -> bool:
        return self.keep_transitions > 0

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
