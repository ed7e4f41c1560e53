"""The planner: what it simulates, what it leaves alone, and that looking ahead pays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graft import envs
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.builtin.engine.batch import GameVectorEnv
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.experiments.benchmarks.planner import RolloutPlanner, planned_episodes
from graft.experiments.benchmarks.reference import policy_episodes

GAMES, ACTIONS, SAMPLES = 3, 6, 2
FEATURES = NetworkConfig("mlp", {"widths": [8]}, (8,))
GATHER, DODGE = (Task(f"Graft/{name}-v0", {"view": "features"}) for name in ("Gather", "Dodge"))


def made(task: Task, games: int) -> GameVectorEnv:
    env = envs.make(task, games, 0)
    assert isinstance(env, GameVectorEnv)
    return env


def network(task: Task) -> PolicyNetwork:
    return PolicyNetwork(envs.schemas(task), FEATURES, 0).eval()


def test_one_step_ahead_are_the_rewards_and_the_values_of_what_comes_next() -> None:
    env, model, alone = (made(GATHER, count) for count in (GAMES, GAMES * ACTIONS * SAMPLES, GAMES))
    net = network(GATHER)
    with torch.no_grad():
        net.value.out.weight.zero_()
        net.value.out.bias.fill_(2.0)
    planner = RolloutPlanner(net, env, model, SAMPLES, horizon=1, gamma=0.5)
    env.reset()
    rng, paid = np.random.default_rng(0), 0.0
    for _ in range(20):
        before = env.save_state()
        found = planner.values()
        for name, array in env.save_state().items():
            np.testing.assert_array_equal(array, before[name], name)
        for action in range(ACTIONS):
            alone.restore_state(before)
            _, rewards, terminated, _, _ = alone.step(np.full(GAMES, action))
            np.testing.assert_allclose(found[:, action], rewards + 0.5 * 2.0 * ~terminated)
            paid += float(np.abs(rewards).sum())
        assert (planner.act() == found.argmax(axis=1)).all()
        env.step(rng.integers(0, ACTIONS, GAMES))
    assert paid > 0


def test_it_does_not_know_what_will_be_drawn() -> None:
    """Trials of one game differ in what falls, and are the same for each action."""
    env, model = made(DODGE, 1), made(DODGE, ACTIONS * SAMPLES)
    planner = RolloutPlanner(network(DODGE), env, model, SAMPLES, horizon=6)
    env.reset()
    planner.values()
    rng = model.save_state()["rng"][:, 0].reshape(ACTIONS, SAMPLES)
    assert (rng == rng[0]).all()
    assert len({*rng[0].tolist(), int(env.save_state()["rng"][0, 0])}) == SAMPLES + 1


def test_looking_ahead_is_better_than_the_policy() -> None:
    net = network(DODGE)
    planned = planned_episodes(net, DODGE, 4, seed=1, gamma=0.97, samples=2, horizon=6).returns.mean()
    assert planned > 5 > policy_episodes(net, DODGE, 64).returns.mean()


def test_other_tasks_are_refused() -> None:
    task = Task("CartPole-v1")
    with pytest.raises(GraftError, match="cannot be planned in; give a built-in game"):
        planned_episodes(PolicyNetwork(envs.schemas(task), FEATURES, 0), task, 2, 0, 0.97)
