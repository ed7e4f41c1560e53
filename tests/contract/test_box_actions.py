"""Box actions of any bounds, with every backend: what an environment is given, and that learning does not differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support import pull_env
from support.tiny_tasks import assert_same, small_network, weights
from support.trainings import trained

from graft import envs
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.backend import Evaluation, TrainJob
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.experiments.config.backends import BACKENDS, backend

INF = math.inf
SPARSE = Evaluation(every=10_000, episodes=8, num_envs=8)


@pytest.fixture(params=list(BACKENDS))
def by(request, monkeypatch):
    """The backend's name."""
    pull_env.register(monkeypatch)
    envs.schemas.cache_clear()
    if request.param == "rllib":
        request.getfixturevalue("one_ray")
    return request.param


def pull(low, high, unit=1.0):
    return Task("Pull-v0", {"low": list(low), "high": list(high), "unit": unit})


def test_actions_without_bounds_are_those_of_the_gaussian(by):
    """Open on both sides, and on one, where the other is not passed."""
    task = pull((-INF, 0.0), (INF, INF))
    network = small_network(envs.schemas(task))
    before = network.policy.out.weight.clone()
    run = trained(by, network, task, budget=256, evaluation=SPARSE)
    taken = np.array(pull_env.Pull.taken)
    assert not torch.equal(before, network.policy.out.weight)
    assert taken[:, 0].std() == pytest.approx(1.0, abs=0.1)  # a fresh network's deviation
    assert taken[:, 1].min() == 0.0
    assert (taken[:, 1] == 0.0).mean() == pytest.approx(0.5, abs=0.08)
    assert np.isfinite(run.result.final_returns).all()


@pytest.mark.parametrize("reach", [pytest.param(2.0, marks=pytest.mark.slow), 1024.0])
def test_it_learns_alike_on_any_bounds(by, reach):
    """To the bit, where the bounds are powers of two, whose products are not rounded."""
    one = trained(by, None, pull((-1.0, -1.0), (1.0, 1.0)), budget=256, evaluation=SPARSE)
    taken = [*pull_env.Pull.taken]
    pull_env.Pull.taken.clear()
    other = trained(by, None, pull((-reach, -reach), (reach, reach), reach), budget=256, evaluation=SPARSE)
    assert_same(weights(one.network), weights(other.network))
    assert one.result.final_returns == other.result.final_returns
    np.testing.assert_array_equal(np.array(taken) * reach, np.array(pull_env.Pull.taken))


def test_actions_reach_both_bounds_of_a_lopsided_box(by):
    trained(by, None, pull((0.0, -0.01), (1000.0, 0.03)), budget=256, evaluation=SPARSE)
    taken = np.array(pull_env.Pull.taken)
    assert taken.min(0) == pytest.approx([0.0, -0.01])
    assert taken.max(0) == pytest.approx([1000.0, 0.03])
    assert taken.mean(0) == pytest.approx([500.0, 0.01], rel=0.2)


def test_bounds_that_float32_rounds_up_are_not_passed(by):
    """0.1 as float32 is above 0.1; the environment asserts that its actions are in its space."""
    task = pull((-0.1, -0.1), (0.1, 0.1))
    trained(by, None, Task(task.id, {**task.kwargs, "dtype": "float64"}), budget=128, evaluation=SPARSE)
    taken = np.array(pull_env.Pull.taken)
    assert taken.dtype == np.float64
    assert taken.min() == -0.1
    assert taken.max() == 0.1


@pytest.mark.parametrize("low", [-INF, 0.0])
def test_sac_names_the_action_that_has_no_bounds(by, low):
    module = backend(by)
    with pytest.raises(
        GraftError, match=r"'sac' needs actions with finite bounds, and 'Pull.action_1' has none; use .*ppo"
    ):
        module.ALGORITHMS["sac"]().check(envs.schemas(pull((-1.0, low), (1.0, INF))))


def test_sac_trains_beside_an_action_that_can_have_one_value_only(by):
    task = pull((-1.0, 0.5), (1.0, 0.5))
    module = backend(by)
    options = {"num_envs": 2, "train_freq": 2, "gradient_steps": 2, "batch": 16, "learning_starts": 16, "buffer": 64}
    network = PolicyNetwork(envs.schemas(task), NetworkConfig("mlp", head=(16,), distribution="squashed"), 0)
    before = network.policy.out.weight.clone()
    algorithm = module.ALGORITHMS["sac"](**options)
    module.train(TrainJob(network, task, algorithm, 48, 0, lambda *_: None, SPARSE, device="cpu"))
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
    assert not torch.equal(before, network.policy.out.weight)
    taken = np.array(pull_env.Pull.taken)
    assert (taken[:, 1] == 0.5).all()
    assert taken[:, 0].std() > 0.1
