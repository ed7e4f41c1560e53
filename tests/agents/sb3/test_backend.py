"""The whole of `train`: what it asks for and calls, bounds of actions, and errors."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from support import trainings
from support.tiny_tasks import EVALUATION, MATCH, REACH, TASK, small_network, small_ppo, weights
from support.trainings import recorded

from graft import envs
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training import periodic_evaluation
from graft.agents.training.backend import Evaluation, Hooks, TrainJob, Unstable
from graft.envs import factory
from graft.envs.core.task import Task
from graft.errors import GraftError

pytestmark = pytest.mark.usefixtures("tiny_tasks")

trained = partial(trainings.trained, "sb3")


def test_workers_are_asked_for_by_both_batches(monkeypatch):
    asked = []

    def spy(*args, **kwargs):
        asked.append(kwargs["workers"])
        return envs.make(*args, **kwargs)

    monkeypatch.setattr(periodic_evaluation, "make", spy)
    network = small_network(envs.schemas(TASK))
    train(TrainJob(network, TASK, small_ppo(), 1, 0, lambda *_: None, EVALUATION, device="cpu", workers=3))
    assert asked == [3, 3]


def test_updates_are_counted():
    """Of three rollouts, two epochs each."""
    assert recorded(trained().records, "train/n_updates") == {128: 2, 256: 4, 384: 6}


def test_the_schedule_hears_the_share_of_the_budget_before_each_rollout():
    seen = []
    run = trained(hooks=Hooks(schedule=lambda network, progress: seen.append((network, progress))))
    assert [progress for _, progress in seen] == [0, 128 / 300, 256 / 300]
    assert all(network is run.network for network, _ in seen)


def test_the_first_evaluation_is_of_the_network_as_it_came():
    """It plays the best action from the start, and training has not touched it yet."""
    network = small_network(MATCH)
    with torch.no_grad():
        for layer, scale in ((network.encoder.blocks[0][1], 2.0), (network.encoder.blocks[1][1], 2.0)):
            layer.weight.zero_()
            layer.weight[: layer.weight.shape[1]].fill_diagonal_(scale)
        network.policy.hidden[0].weight.zero_()
        network.policy.hidden[0].weight.fill_diagonal_(2.0)
        network.policy.out.weight.zero_()
        network.policy.out.weight.fill_diagonal_(20.0)
    run = trained(network, budget=1)
    assert recorded(run.records, "eval/return_mean")[0] == 8


@pytest.mark.parametrize("task", [REACH, Task("Pendulum-v1")], ids=str)
def test_box_actions_stay_within_the_bounds(task, monkeypatch):
    taken = []
    original = BatchVecEnv.step_batch

    def watched(self, actions):
        step, self.env.step = self.env.step, lambda played: taken.append(played) or step(played)
        try:
            return original(self, actions)
        finally:
            self.env.step = step

    monkeypatch.setattr(BatchVecEnv, "step_batch", watched)
    network = small_network(envs.schemas(task))
    with torch.no_grad():
        network.policy.log_std.fill_(2.0)
    before = weights(network)
    trained(network, task, budget=128, evaluation=Evaluation(every=1000, episodes=1, num_envs=1))
    actions, bounds = np.concatenate(taken), network.schemas.action
    assert actions.shape == (128, len(bounds.names))
    np.testing.assert_allclose(actions.min(0), bounds.low)
    np.testing.assert_allclose(actions.max(0), bounds.high)
    after = weights(network)
    assert [name for name in after if torch.equal(after[name], before[name])] == []
    assert all(tensor.isfinite().all() for tensor in after.values())


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("minibatch", [32, 128])
@pytest.mark.parametrize("budget", [128, 256])
def test_a_loss_that_is_not_finite_is_unstable(epochs, minibatch, budget):
    broken = Task("tiny/Match-v0", {"reward": math.nan})
    with pytest.raises(Unstable, match="smaller learning rate"):
        trained(task=broken, budget=budget, epochs=epochs, minibatch=minibatch)


def test_a_wild_learning_rate_is_unstable():
    with pytest.raises(Unstable, match="smaller learning rate"):
        trained(task=REACH, learning_rate=1e30)


def test_environments_are_closed_even_after_a_failure(monkeypatch):
    broken = Task("tiny/Match-v0", {"reward": math.nan})
    for task in (TASK, broken):
        envs.schemas(task)  # opens and closes a batch the first time
    closed = []
    monkeypatch.setattr("support.tiny_tasks.ScriptedEnv.close_extras", lambda self, **_: closed.append(self.num_envs))
    trained(budget=1)
    assert sorted(closed) == [8, 8]
    with pytest.raises(Unstable):
        trained(task=broken, num_envs=4)
    assert sorted(closed[2:]) == [4, 8]


def test_training_and_evaluation_play_different_environments(monkeypatch):
    made = []
    original = factory.make
    monkeypatch.setattr(
        "graft.agents.training.periodic_evaluation.make",
        lambda task, n, seed, **kw: made.append(range(seed, seed + n)) or original(task, n, seed, **kw),
    )
    trained(budget=1, seed=40, num_envs=4)
    assert made == [range(40, 44), range(44, 52)]


def test_unknown_tasks_and_algorithms_get_the_nearest():
    with pytest.raises(GraftError, match="Did you mean 'tiny/Match-v0'"):
        trained(small_network(MATCH), Task("tiny/Mach-v0"))
    with pytest.raises(GraftError, match=r"Unknown algorithm 'pp'.*Did you mean 'ppo'"):
        ALGORITHMS["pp"]


def test_one_state_is_too_few_to_learn_from():
    with pytest.raises(GraftError, match="at least 2"):
        trained(num_envs=1, num_steps=1)
