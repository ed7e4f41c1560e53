"""SAC keeps what its actor can: transfers with carried heads, and PackNet's pruning, trained for minutes."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from graft import envs
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig
from graft.agents.sb3 import ALGORITHMS, architecture_for, train
from graft.agents.training.backend import Evaluation, TrainJob
from graft.envs.core.task import Task
from graft.transfer.method import TaskPosition, parse_method
from graft.transfer.session import TransferSession
from graft.transfer.task_heads import heads_of, serving

PENDULUM, SEEDS = Task("Pendulum-v1"), 5
RANDOM, BEST = -1200.0, -140.0
"""Returns of an untrained network and of a trained one on Pendulum: scores 0 and 1."""
CHEETAH = Task("HalfCheetah-v5")
HEAVIER = Task("HalfCheetah-v5", {"mass": 1.5})


def learned(session, task, algorithm, budget, seed, every, episodes=20):
    """Mean returns of the evaluations, the first one before training."""
    returns = []

    def record(_, values):
        if "eval/return_mean" in values:
            returns.append(values["eval/return_mean"])

    plan = Evaluation(every, episodes, episodes)
    rest = {"hooks": session.hooks(), "device": "cpu", "critics": session.critics}
    train(TrainJob(session.network, task, algorithm, budget, seed, record, plan, **rest))
    return returns


def start(method, source, task, algorithm, config, seed):
    architecture = architecture_for(algorithm, config)
    return TransferSession.begin(method and parse_method(method), source, envs.schemas(task), architecture, seed)


def score(value):
    return (value - RANDOM) / (BEST - RANDOM)


@lru_cache
def pendulum(seed: int) -> Checkpoint:
    algorithm = ALGORITHMS["sac"]()
    session = start(None, None, PENDULUM, algorithm, NetworkConfig(), seed)
    returns = learned(session, PENDULUM, algorithm, 8000, seed, 8000)
    assert score(returns[-1]) > 0.8
    return session.checkpoint(PENDULUM)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_same_task_with_carried_heads_never_falls_below_80_percent_of_its_start(seed):
    algorithm = ALGORITHMS["sac"]()
    session = start({"finetune": {"heads": "by_name"}}, pendulum(seed), PENDULUM, algorithm, NetworkConfig(), seed)
    returns = learned(session, PENDULUM, algorithm, 6000, seed + 100, 500)
    assert min(map(score, returns)) >= 0.8 * score(returns[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_packnet_loses_less_than_a_tenth_and_then_not_a_bit(seed):
    algorithm, source = ALGORITHMS["sac"](), pendulum(seed)
    method = parse_method({"packnet": {"retrain": 4000}})
    before = learned(TransferSession.of(method, source), PENDULUM, algorithm, 1, seed, 1)[0]
    session = TransferSession.of(method, source)
    session.consolidate(lambda *_: None, TaskPosition(0, 2))
    after = learned(session, PENDULUM, algorithm, method.retraining, seed + 200, 4000)[-1]
    assert score(after) > 0.9 * score(before)
    heads, schemas = heads_of(session.network), envs.schemas(PENDULUM)
    first = serving(session.view(0), heads, schemas)
    second = start({"packnet": {}}, session.checkpoint(PENDULUM), PENDULUM, algorithm, NetworkConfig(), seed)
    learned(second, PENDULUM, algorithm, 2000, seed + 300, 2000)
    again = serving(second.view(0), heads, schemas)
    obs = torch.randn(512, 3, generator=torch.Generator().manual_seed(1))
    for one, other in zip(first(obs)[:2], again(obs)[:2], strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_heavier_half_cheetah_never_falls_below_80_percent_of_its_start_where_fresh_critics_destroy_it(seed):
    """Returns are about 0 without training, so they are scores themselves. Not every seed passes: single evaluations
    fall as far on the robot that did not change, as docs/results.md says.
    """
    algorithm = ALGORITHMS["sac"](critic=(128,))
    config = NetworkConfig(options={"widths": [128, 128]})
    session = start(None, None, CHEETAH, algorithm, config, seed)
    assert learned(session, CHEETAH, algorithm, 50_000, seed, 50_000, 8)[-1] > 500
    source, method = session.checkpoint(CHEETAH), {"finetune": {"heads": "by_name"}}
    carried, fresh = (start(method, source, HEAVIER, algorithm, config, seed) for _ in range(2))
    fresh.critics = {}
    first, *kept = learned(carried, HEAVIER, algorithm, 6000, seed + 100, 1000, 8)
    assert min(kept) >= 0.8 * first
    assert learned(fresh, HEAVIER, algorithm, 6000, seed + 100, 1000, 8)[-1] < 0.3 * first
