"""Every method of the registry trains with RLlib, from its source to its checkpoint, or is refused with a reason."""

from __future__ import annotations

import pytest
from handmade import takes

import envs
from agents.checkpoint import Checkpoint
from envs.errors import GraftError
from envs.task import Task
from experiments.config import load_config
from experiments.graph import expand
from experiments.stage import run_stage
from experiments.store import Store
from transfer.method import METHODS

pytestmark = pytest.mark.usefixtures("one_ray")

TINY = """
name: tiny
backend: rllib
sources: Graft/Gather-v0
targets: {id: Graft/Gather-v0, kwargs: {slip: 0.3}}
methods: finetune
seeds: 1
pretrain: {steps: 256}
transfer: {steps: 256}
network: {options: {channels: [4, 6], features: 16}, head: [8]}
algorithm: {name: ppo, num_envs: 8, num_steps: 16, minibatch: 64, epochs: 1}
evaluation: {every: 1000, episodes: 8, num_envs: 8}
recall: 4
"""

QUICK = ("ewc",)
"""Methods that are tried in every run of the tests; the others are slow."""

OPTIONS = {"packnet": {"retrain": 128}, "rma": {"teaching": 128}}


def entries():
    names = [name for name, method in METHODS.items() if method.uses_source and name != "chain"]
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("name", entries())
def test_a_method_trains_and_leaves_a_checkpoint(name, tmp_path):
    if not takes(name, envs.schemas(Task("Graft/Gather-v0"))):
        pytest.skip(f"{name} can't learn from this task")
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    config = load_config(str(path))
    method = {name: OPTIONS.get(name, {})}
    graph = expand(config.model_copy(update={"methods": [method]}))
    store = Store(tmp_path / "out")
    for stage in graph.stages.values():
        run_stage(stage, store, lambda *_: None)
        assert store.record(stage.id)["status"] == "done"
    for comparison in graph.comparisons:
        checkpoint = Checkpoint.load(store.folder(comparison.stages[0]) / "checkpoint")
        assert all(tensor.isfinite().all() for tensor in checkpoint.build().state_dict().values())


def test_what_needs_one_learner_is_refused_on_two(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    refused = []
    for name, method in METHODS.items():
        if method.uses_source and name != "chain":
            config = load_config(str(path), ["resources.num_learners=2"]).model_copy(update={"methods": [{name: {}}]})
            try:
                expand(config)
            except GraftError as error:
                refused.append((name, str(error)))
    assert [name for name, reason in refused if "differs between learners" in reason] == ["redo"]
