"""Returns of a batch with several parts, apart: by hand, and in the metrics of a training on a mixture."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.tiny_tasks import EVALUATION, ClockEnv, small_config, small_network

from graft import envs
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training import recent_returns
from graft.agents.training.algorithm import architecture_for
from graft.agents.training.backend import TrainJob
from graft.agents.training.evaluate import evaluate
from graft.envs.adapters.mixture import mixture
from graft.envs.core.task import Bounds, Groups, Task

MIX = mixture(["Graft/Dodge-v0", Task("Graft/Gather-v0", {"slip": 0.2}), "Graft/Snake-v0"])
OPTIONS = {
    "ppo": {"num_steps": 64, "minibatch": 128, "epochs": 1},
    "dqn": {"buffer": 400, "batch": 16, "learning_starts": 100, "gradient_steps": 1},
}
NAMES = ("Dodge", "Gather(slip=0.2)", "Snake")


def clocks():
    """Part a: episodes of 3 steps that pay 10, 11, 12, or 30, 31, 32; part b: 2 steps that pay 20, 21."""
    env = ClockEnv([3, 2, 3])
    env.groups = Groups(("a", "b"), np.array([0, 1, 0]), (Bounds(30.0, 130.0, ""), None))
    return env


def test_episodes_say_who_played_them_and_parts_have_means():
    env = clocks()
    found = evaluate(small_network(env.schemas), env, 6, torch.Generator().manual_seed(0))
    assert sorted(zip(found.rows.tolist(), found.returns.tolist(), strict=True)) == [
        (0, 33.0),
        (0, 33.0),
        (1, 41.0),
        (1, 41.0),
        (2, 93.0),
        (2, 93.0),
    ]
    assert found.means(env.groups) == {"a": 63.0, "b": 41.0}
    assert found.means(None) == {}
    plain = {"eval/return_mean": pytest.approx(334 / 6), "eval/length_mean": pytest.approx(16 / 6)}
    plain["eval/return_worst_tenth"] = 33.0  # the worst of six
    parts = {"eval/return_mean/a": 63.0, "eval/return_mean/b": 41.0, "eval/return_normalized/a": pytest.approx(0.33)}
    assert found.metrics(env.groups) == plain | parts
    assert found.metrics(None) == plain


def test_the_latest_episodes_of_each_part(monkeypatch):
    monkeypatch.setattr(recent_returns, "WINDOW", 2)
    env = BatchVecEnv(clocks())
    env.reset()
    still = np.zeros(3, np.int64)
    assert env.recent.means() == {}
    env.step(still)
    env.step(still)
    assert env.recent.means() == {"b": 41.0}
    saved = env.recent.save_state()
    env.step(still)
    assert env.recent.means() == {"a": 63.0, "b": 41.0}
    env.recent.add(2, 7.0)
    assert env.recent.means() == {"a": 50.0, "b": 41.0}, "93 and 7 are the latest two"
    env.recent.restore_state(saved)
    assert env.recent.means() == {"b": 41.0}
    plain = BatchVecEnv(ClockEnv([1]))
    plain.reset()
    plain.step(still[:1])
    assert (plain.recent.means(), plain.recent.save_state()) == ({}, {})


def logged(algorithm, budget, network):
    records = []
    result = train(
        TrainJob(
            network, MIX, algorithm, budget, 3, lambda n, v: records.append((n, dict(v))), EVALUATION, device="cpu"
        )
    )
    return records, result


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_a_mixture_is_logged_task_by_task(name):
    algorithm = ALGORITHMS[name](num_envs=8, **OPTIONS[name])
    config = architecture_for(algorithm, small_config("planes"))
    records, result = logged(algorithm, 2000, PolicyNetwork(envs.schemas(MIX), config, 0))
    values = [v for _, v in records if "eval/return_mean" in v]
    for tags in values:
        means = [tags[f"eval/return_mean/{task}"] for task in NAMES]
        weights = np.array([3, 3, 2])  # of 8 environments
        assert tags["eval/return_mean"] == pytest.approx((weights * means).sum() / 8)
        for task in (Task("Graft/Dodge-v0"), Task("Graft/Gather-v0", {"slip": 0.2})):
            assert tags[f"eval/return_normalized/{task}"] == pytest.approx(
                envs.bounds(task).normalise(tags[f"eval/return_mean/{task}"])
            )
    assert result.final_means == {task: values[-1][f"eval/return_mean/{task}"] for task in NAMES}
    last = [v for _, v in records if "rollout/return_mean" in v][-1]
    assert {f"rollout/return_mean/{task}" for task in NAMES} < last.keys()
    json.dumps(records)
