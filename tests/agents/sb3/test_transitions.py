"""Transitions that a checkpoint keeps of a replay buffer, and that a training begins with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from support.off_policy import small_dqn, small_sac
from support.tiny_tasks import assert_same

from graft.agents.sb3 import train
from graft.agents.sb3.off_policy import LastSampleReplayBuffer, fill, latest_transitions
from graft.agents.training.backend import Evaluation, TrainJob
from graft.agents.training.transitions import check_transitions

QUIET = Evaluation(every=10_000, episodes=8, num_envs=8)
SPACE, ACTION = Box(-9.0, 9.0, (2,)), Box(-1.0, 1.0, (1,))


def buffer(n_envs: int = 2, size: int = 10) -> LastSampleReplayBuffer:
    """For ``size`` transitions of all environments together."""
    return LastSampleReplayBuffer(size, SPACE, ACTION, n_envs=n_envs, handle_timeout_termination=True)


def with_steps(count: int, scale: float = 1.0) -> LastSampleReplayBuffer:
    """Two environments, five steps of each kept; transition k has k in all its columns; odd ones end their episodes,
    every other of these by a time limit.
    """
    made = buffer()
    for step in range(count):
        number = np.array([2.0 * step, 2.0 * step + 1], np.float32)
        obs = np.repeat(number[:, None], 2, 1)
        infos = [{}, {"TimeLimit.truncated": step % 2 == 0}]
        made.add(obs, obs + 0.5, number[:, None], number * scale, np.array([0.0, 1.0]), infos)
    return made


@pytest.mark.parametrize("steps", [3, 5, 8])
def test_the_latest_come_in_order_with_plain_rewards_and_without_time_limits(steps):
    found = latest_transitions(with_steps(steps, 0.5), 7, 0.5)
    numbers = torch.arange(2 * steps, dtype=torch.float32)[-6:]  # three whole steps of both environments
    assert torch.equal(found["rewards"], numbers)
    assert torch.equal(found["actions"], numbers[:, None])
    assert torch.equal(found["observations"], numbers[:, None].expand(-1, 2))
    assert torch.equal(found["next_observations"], found["observations"] + 0.5)
    assert torch.equal(found["terminated"], ((numbers % 2 == 1) & (numbers // 2 % 2 == 1)).float())


@pytest.mark.parametrize(
    ("n_envs", "size", "count", "rows"), [(2, 20, 99, 5), (3, 30, 99, 3), (2, 20, 5, 2), (2, 6, 99, 3)]
)
def test_they_fill_another_buffer_and_come_back(n_envs, size, count, rows):
    given = latest_transitions(with_steps(8), 10, 1.0)
    made = buffer(n_envs, size)
    fill(made, given, count, 0.5)
    assert (made.pos, made.full) == (rows % (size // n_envs), rows * n_envs == size)
    again = latest_transitions(made, 99, 0.5)
    assert_same({name: tensor[-rows * n_envs :] for name, tensor in given.items()}, again)
    assert np.array_equal(made.rewards[:rows].flatten(), 0.5 * given["rewards"][-rows * n_envs :].numpy())
    sample = made.sample(64)
    assert set(sample.rewards.flatten().tolist()) <= {k / 2 for k in given["rewards"].tolist()}


@pytest.mark.usefixtures("tiny_tasks")
@pytest.mark.parametrize("small", [small_dqn, small_sac], ids=lambda small: small.name)
def test_a_training_leaves_them_and_the_next_learns_from_them_at_once(small):
    def job(network, keep, transitions, budget, **options):
        algorithm = small.algorithm(keep_transitions=keep, **options)
        rest = {"evaluation": QUIET, "device": "cpu", "transitions": transitions}
        return TrainJob(network, small.task, algorithm, budget, 0, lambda *_: None, **rest)

    first = job(small.network(), 32, {}, 60)
    train(first)
    assert {len(tensor) for tensor in first.transitions.values()} == {32}
    check_transitions(first.transitions, small.network().schemas)
    assert first.transitions["observations"].shape[1:] == small.network().schemas.observation.shape
    assert not torch.equal(first.transitions["observations"], first.transitions["next_observations"])

    kept = {name: tensor.clone() for name, tensor in first.transitions.items()}
    second = job(small.network(), 100, dict(kept), 8, learning_starts=0)
    train(second)
    assert {len(tensor) for tensor in second.transitions.values()} == {40}  # eight more
    assert_same({name: tensor[:32] for name, tensor in second.transitions.items()}, kept)

    third = job(small.network(), 0, {}, 60)
    train(third)
    assert third.transitions == {}
