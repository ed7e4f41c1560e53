"""What every backend keeps to, and that every method trains with RLlib as its own tests show for the other one."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from support.tiny_experiment import one_method
from support.tiny_tasks import REACH, TASK, small_network, takes
from support.trainings import recorded, trained

from graft import envs
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.training import periodic_evaluation
from graft.agents.training.backend import Evaluation, Hooks
from graft.agents.training.evaluate import evaluate
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.experiments.config.backends import BACKENDS
from graft.experiments.config.experiment import load_config
from graft.experiments.contracts import algorithms
from graft.experiments.plan.pairs import expand
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store
from graft.transfer.method import METHODS

pytestmark = pytest.mark.usefixtures("tiny_tasks")

LOSSES = ("loss", "value_loss", "policy_gradient_loss", "explained_variance")
OWN = {"sb3": ("entropy_loss", "approx_kl"), "rllib": ("entropy",)}
"""What a backend records beside these."""

QUICK = ("ewc",)
"""Methods that are tried in every run of the tests; the others are slow."""

OPTIONS = {"packnet": {"retrain": 128}, "rma": {"teaching": 0.4, "updates": 20}}

DRAWN = {"length": {"uniform": [1, 2]}}
INFORMED = {
    "sources": {"id": "CartPole-v1", "kwargs": {"show": ["state", "dynamics", "history"], **DRAWN}},
    "targets": {"id": "CartPole-v1", "kwargs": {"show": ["state", "history"], "length": 3}},
    "network": None,
}
"""For methods that watch how their source is learned."""


@pytest.fixture(params=list(BACKENDS))
def by(request):
    """The backend's name."""
    if request.param == "rllib":
        request.getfixturevalue("one_ray")
    return request.param


def test_same_seed_same_weights_bit_for_bit(by):
    algorithms.same_seed_same_weights(partial(trained, by), None)


def test_how_often_it_is_evaluated_does_not_change_the_training(by):
    algorithms.evaluations_do_not_change_the_training(partial(trained, by), None)


@pytest.mark.parametrize(
    "contract", [algorithms.a_methods_gradients_are_used, algorithms.what_is_frozen_stays], ids=lambda c: c.__name__
)
def test_what_a_method_asks_for_is_done(by, contract):
    contract(partial(trained, by), lambda: small_network(envs.schemas(TASK)))


def test_evaluations_have_the_same_seeds_whatever_is_trained(by, monkeypatch):
    """Of levels and of actions; they follow from the number of the evaluation."""
    seen = []

    def watched(network, env, episodes, generator, deterministic, max_steps, seed, number):
        seen.append((seed, number, generator.initial_seed()))
        return evaluate(network, env, episodes, generator, deterministic, max_steps, seed, number)

    monkeypatch.setattr(periodic_evaluation, "evaluate", watched)
    plan = Evaluation(every=1, episodes=8, num_envs=8)
    for rate in (1e-3, 1e-2):
        trained(by, seed=5, evaluation=plan, learning_rate=rate)
    assert seen == [(5 + 8, number, 5) for number in range(4)] * 2


def test_metrics_their_env_steps_and_the_result(by):
    run = trained(by, hooks=Hooks(report=lambda _: {"x/y": 1.0}))
    # Rollouts of 128 env steps end at 128, 256 and 384, the first at or above the budget of 300. Evaluations: at the
    # start, at 256 (the first rollout's start at or above 200), and at the end.
    assert list(recorded(run.records, "eval/return_mean")) == [0, 256, 384]
    assert recorded(run.records, "eval/length_mean") == {0: 8, 256: 8, 384: 8}
    assert recorded(run.records, "x/y") == {0: 1, 256: 1, 384: 1}
    assert list(recorded(run.records, "rollout/return_mean")) == [128, 256, 384]
    assert all(0 <= r <= 8 for r in recorded(run.records, "rollout/return_mean").values())
    assert recorded(run.records, "rollout/length_mean") == {128: 8, 256: 8, 384: 8}
    assert list(recorded(run.records, "time/env_steps_per_s")) == [128, 256, 384]
    assert all(speed > 0 for speed in recorded(run.records, "time/env_steps_per_s").values())
    for tag in LOSSES + OWN[by]:
        values = recorded(run.records, f"train/{tag}")
        assert list(values) == [128, 256, 384]
        assert all(map(math.isfinite, values.values()))
    tags = {tag for _, values in run.records for tag in values}
    assert {tag.split("/")[0] for tag in tags} == {"eval", "rollout", "train", "time", "x"}
    assert [steps for steps, _ in run.records] == sorted(steps for steps, _ in run.records)
    assert run.result.env_steps == 384
    assert run.result.seconds > 0
    assert len(run.result.final_returns) == 8
    assert np.mean(run.result.final_returns) == pytest.approx(recorded(run.records, "eval/return_mean")[384])


def test_a_tiny_task_is_solved(by):
    options = {"num_envs": 32, "learning_rate": 0.01, "minibatch": 64, "epochs": 4}
    run = trained(by, budget=4000, evaluation=Evaluation(every=10_000), **options)
    scores = recorded(run.records, "eval/return_mean")
    assert scores[0] < 8 * 0.5
    assert min(scores[4096], np.mean(run.result.final_returns)) > 8 * 0.9


def test_a_tiny_box_task_improves(by):
    """The best is 2 * E[max(|x| - 0.5, 0)^2] = 2 * 0.5^3 / 3 below zero per step, 5 steps; doing nothing is 10 / 3."""
    options = {"num_envs": 32, "learning_rate": 0.01, "minibatch": 128, "epochs": 8}
    run = trained(by, task=REACH, budget=8000, evaluation=Evaluation(every=10_000), **options)
    scores = recorded(run.records, "eval/return_mean")
    assert scores[0] < -10 / 3
    assert -10 / 3 < -2.0 < scores[8192] < -5 / 12 + 0.2


def entries():
    names = [name for name, method in METHODS.items() if method.uses_source and name != "chain"]
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("name", entries())
def test_a_method_trains_with_rllib_and_leaves_a_checkpoint(name, tmp_path, one_ray):
    tasks = {} if takes(name, envs.schemas(Task("Graft/Gather-v0"))) else INFORMED
    config = load_config(str(one_method(tmp_path, backend="rllib", methods=[{name: OPTIONS.get(name, {})}], **tasks)))
    graph = expand(config)
    store = Store(tmp_path / "out")
    for stage in graph.stages.values():
        run_stage(stage, store, lambda *_: None)
        assert store.record(stage.id)["status"] == "done"
    for comparison in graph.comparisons:
        checkpoint = Checkpoint.load(store.folder(comparison.stages[0]) / "checkpoint")
        assert all(tensor.isfinite().all() for tensor in checkpoint.build().state_dict().values())


def test_what_needs_one_learner_is_refused_on_two(tmp_path):
    config = load_config(str(one_method(tmp_path, backend="rllib")), ["resources.num_learners=2"])
    refused = []
    for name, method in METHODS.items():
        if method.uses_source and name != "chain":
            try:
                expand(config.model_copy(update={"methods": [{name: {}}]}))
            except GraftError as error:
                refused.append((name, str(error)))
    assert [name for name, reason in refused if "differs between learners" in reason] == ["redo"]
