"""The whole of `train`: metrics, evaluations, tasks to solve, and errors."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from handmade import (
    EVALUATION,
    MATCH,
    REACH,
    TASK,
    assert_same,
    small_network,
    small_ppo,
    weights,
)

import envs
from agents.backend import Evaluation, Hooks, Unstable
from agents.sb3 import ALGORITHMS, backend, train
from agents.sb3.vec_env import BatchVecEnv
from envs.errors import GraftError
from envs.task import Task

pytestmark = pytest.mark.usefixtures("handmade_tasks")


def trained(network=None, task=TASK, budget=300, seed=0, hooks=None, evaluation=EVALUATION, **options):
    """The network, what `train` returned, and what it recorded as (env_steps, values)."""
    network = network or small_network(envs.schemas(task))
    records: list[tuple[int, dict[str, float]]] = []
    result = train(
        network,
        task,
        small_ppo(**options),
        budget,
        seed,
        lambda env_steps, values: records.append((env_steps, dict(values))),
        evaluation,
        hooks,
        "cpu",
    )
    return SimpleNamespace(network=network, result=result, records=records)


def recorded(records, tag: str) -> dict[int, float]:
    """Env steps -> value; every env step at most once."""
    found = [(env_steps, values[tag]) for env_steps, values in records if tag in values]
    assert len(dict(found)) == len(found), f"{tag} came twice at the same env step"
    return dict(found)


def test_workers_are_asked_for_by_both_batches(monkeypatch):
    asked = []

    def spy(*args, **kwargs):
        asked.append(kwargs["workers"])
        return envs.make(*args, **kwargs)

    monkeypatch.setattr(backend, "make", spy)
    network = small_network(envs.schemas(TASK))
    train(network, TASK, small_ppo(), 1, 0, lambda *_: None, EVALUATION, None, "cpu", workers=3)
    assert asked == [3, 3]


def test_same_seed_same_weights_bit_for_bit():
    first, again, other = (trained(seed=seed) for seed in (5, 5, 6))
    assert_same(weights(first.network), weights(again.network))
    assert first.result.final_returns == again.result.final_returns
    assert not torch.equal(first.network.policy.out.weight, other.network.policy.out.weight)


def test_how_often_it_is_evaluated_does_not_change_the_training():
    rare, often = (trained(evaluation=Evaluation(every=e, episodes=8, num_envs=8)) for e in (10_000, 1))
    assert_same(weights(rare.network), weights(often.network))


def test_metrics_and_their_env_steps():
    run = trained()
    # Rollouts of 128 env steps end at 128, 256 and 384, the first at or above the budget of 300. Evaluations: at the
    # start, at 256 (the first rollout's start at or above 200), and at the end.
    assert list(recorded(run.records, "eval/return_mean")) == [0, 256, 384]
    assert recorded(run.records, "eval/length_mean") == {0: 8, 256: 8, 384: 8}
    assert list(recorded(run.records, "rollout/return_mean")) == [128, 256, 384]
    assert recorded(run.records, "rollout/length_mean") == {128: 8, 256: 8, 384: 8}
    assert all(0 <= r <= 8 for r in recorded(run.records, "rollout/return_mean").values())
    assert list(recorded(run.records, "time/env_steps_per_s")) == [128, 256, 384]
    assert all(speed > 0 for speed in recorded(run.records, "time/env_steps_per_s").values())
    for tag in ("loss", "entropy_loss", "value_loss", "policy_gradient_loss", "approx_kl", "explained_variance"):
        values = recorded(run.records, f"train/{tag}")
        assert list(values) == [128, 256, 384]
        assert all(map(math.isfinite, values.values()))
    assert recorded(run.records, "train/n_updates") == {128: 2, 256: 4, 384: 6}
    tags = {tag for _, values in run.records for tag in values}
    assert {tag.split("/")[0] for tag in tags} == {"eval", "rollout", "train", "time"}
    assert [steps for steps, _ in run.records] == sorted(steps for steps, _ in run.records)


def test_the_result_says_what_was_done():
    run = trained()
    assert run.result.env_steps == 384
    assert run.result.seconds > 0
    assert len(run.result.final_returns) == 8
    assert np.mean(run.result.final_returns) == pytest.approx(recorded(run.records, "eval/return_mean")[384])


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


def test_a_tiny_task_is_solved():
    run = trained(budget=4000, learning_rate=0.01, epochs=4, evaluation=Evaluation(every=10_000))
    scores = recorded(run.records, "eval/return_mean")
    assert scores[0] < 8 * 0.5
    assert min(scores[4096], np.mean(run.result.final_returns)) > 8 * 0.9


def test_a_tiny_box_task_improves():
    """The best is 2 * E[max(|x| - 0.5, 0)^2] = 2 * 0.5^3 / 3 below zero per step, 5 steps; doing nothing is 10 / 3."""
    run = trained(task=REACH, budget=8000, learning_rate=0.01, epochs=8, evaluation=Evaluation(every=10_000))
    scores = recorded(run.records, "eval/return_mean")
    assert scores[0] < -10 / 3
    assert -10 / 3 < -2.0 < scores[8064] < -5 / 12 + 0.2


@pytest.mark.parametrize("task", [REACH, Task("Pendulum-v1")], ids=str)
def test_box_actions_stay_within_the_bounds(task, monkeypatch):
    taken = []
    original = BatchVecEnv.step_async
    monkeypatch.setattr(BatchVecEnv, "step_async", lambda self, a: taken.append(a) or original(self, a))
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
    broken = Task("handmade/Match-v0", {"reward": math.nan})
    with pytest.raises(Unstable, match="smaller learning rate"):
        trained(task=broken, budget=budget, epochs=epochs, minibatch=minibatch)


def test_a_wild_learning_rate_is_unstable():
    with pytest.raises(Unstable, match="smaller learning rate"):
        trained(task=REACH, learning_rate=1e30)


def test_environments_are_closed_even_after_a_failure(monkeypatch):
    broken = Task("handmade/Match-v0", {"reward": math.nan})
    for task in (TASK, broken):
        envs.schemas(task)  # opens and closes a batch the first time
    closed = []
    monkeypatch.setattr("handmade.ScriptedEnv.close_extras", lambda self, **_: closed.append(self.num_envs))
    trained(budget=1)
    assert sorted(closed) == [8, 8]
    with pytest.raises(Unstable):
        trained(task=broken, num_envs=4)
    assert sorted(closed[2:]) == [4, 8]


def test_training_and_evaluation_play_different_environments(monkeypatch):
    made = []
    original = envs.factory.make
    monkeypatch.setattr(
        "agents.sb3.backend.make",
        lambda task, n, seed, **kw: made.append(range(seed, seed + n)) or original(task, n, seed, **kw),
    )
    trained(budget=1, seed=40, num_envs=4)
    assert made == [range(40, 44), range(44, 52)]


def test_unknown_tasks_and_algorithms_get_the_nearest():
    with pytest.raises(GraftError, match="Did you mean 'handmade/Match-v0'"):
        trained(small_network(MATCH), Task("handmade/Mach-v0"))
    with pytest.raises(GraftError, match=r"Unknown algorithm 'pp'.*Did you mean 'ppo'"):
        ALGORITHMS["pp"]


def test_one_state_is_too_few_to_learn_from():
    with pytest.raises(GraftError, match="at least 2"):
        trained(num_envs=1, num_steps=1)
