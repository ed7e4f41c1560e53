"""Evaluations during training: which levels and which random numbers each of them has."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch

from graft import envs
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS
from graft.agents.training import periodic_evaluation
from graft.agents.training.backend import Evaluation, TrainJob
from graft.agents.training.evaluate import Episodes, nth_seed
from graft.agents.training.periodic_evaluation import PeriodicEvaluation
from graft.envs.core.task import Task

DRAWN = {"length": {"uniform": [0.3, 3.0]}}
MIXTURE = Task("Graft/Mixture-v0", {"tasks": ["Graft/Dodge-v0", "Graft/Shoot-v0"], "show_task": True})
TASKS = [
    Task("Graft/Dodge-v0", {"view": "features"}),
    Task("CartPole-v1", DRAWN),
    pytest.param(MIXTURE, marks=pytest.mark.slow),
]
LEVELS = 700
"""The seed of the first evaluation's."""


def player(task: Task, seed: int, uniform: bool = False) -> PolicyNetwork:
    """One that does something else with each seed, or draws its actions evenly."""
    network = PolicyNetwork(envs.schemas(task), NetworkConfig(None, {}, (8,)), seed)
    with torch.no_grad():
        network.policy.out.weight.mul_(0.0 if uniform else 50.0)
    return network


class Evaluated:
    """A network's evaluations; ``boards``: what each reset showed. ``returns``: of each evaluation."""

    def __init__(self, task: Task, network: PolicyNetwork, count: int) -> None:
        self.boards: list[np.ndarray] = []
        self.returns: list[list[float]] = []
        plan = Evaluation(every=10, episodes=8, num_envs=4)
        job = TrainJob(network, task, ALGORITHMS["ppo"](), 100, 3, lambda *_: None, plan)
        with closing(envs.make(task, 4, LEVELS)) as env:
            reset = env.reset

            def watched(**options):
                obs, infos = reset(**options)
                self.boards.append(obs.copy())
                return obs, infos

            env.reset = watched
            evaluation = PeriodicEvaluation(job, env, LEVELS, list)
            for number in range(count):
                if number == count - 1:  # what it did before is forgotten
                    network.load_state_dict(player(task, 0, uniform=True).state_dict())
                evaluation.evaluate(10 * number)
                self.returns.append(evaluation.result(0, 0.0).final_returns)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_all_networks_meet_the_same_levels_in_every_evaluation(task):
    one, other = (Evaluated(task, player(task, seed), 5) for seed in (1, 2))
    assert len(one.boards) == len(other.boards) == 10  # two episodes of each environment
    assert all(np.array_equal(a, b) for a, b in zip(one.boards, other.boards, strict=True))
    assert not any(np.array_equal(a, b) for i, a in enumerate(one.boards) for b in one.boards[:i])
    assert one.returns[:4] != other.returns[:4]
    assert one.returns[4] == other.returns[4]  # of one network, on the same levels with the same dice


def test_the_first_has_the_seeds_of_its_environments():
    task = Task("Graft/Gather-v0")
    found = Evaluated(task, player(task, 1), 1)
    with closing(envs.make(task, 4, LEVELS)) as env:
        assert np.array_equal(found.boards[0], env.reset()[0])


def test_seeds_by_number():
    seeds = [nth_seed(5, k) for k in range(200)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**30 for seed in seeds)
    assert seeds != [nth_seed(6, k) for k in range(200)]


@pytest.mark.parametrize(("episodes", "counts"), [(None, (32, 64)), (8, (8, 8))])
def test_the_last_evaluation_has_more_episodes_unless_a_number_is_given(episodes, counts, monkeypatch):
    task, asked = Task("Graft/Dodge-v0", {"view": "features"}), []
    played = Episodes(np.zeros(4), np.ones(4), np.arange(4))
    monkeypatch.setattr(periodic_evaluation, "evaluate", lambda *given: asked.append(given[2]) or played)
    plan = Evaluation(every=10, episodes=episodes)
    job = TrainJob(player(task, 0), task, ALGORITHMS["ppo"](), 25, 3, lambda *_: None, plan)
    with closing(envs.make(task, 4, LEVELS)) as env:
        evaluation = PeriodicEvaluation(job, env, LEVELS, list)
        for env_steps in (0, 16, 32):
            evaluation.evaluate(env_steps)
    assert asked == [counts[0], counts[0], counts[1]]
