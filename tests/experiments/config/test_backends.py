"""Who trains an experiment, with what, and what is refused before anything trains."""

from __future__ import annotations

import pytest
from support.tiny_experiment import one_method

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.training.backend import Resources
from graft.errors import GraftError
from graft.experiments.config.backends import PRESETS, parse_resources
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.stages.preflight import preflight
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store


@pytest.fixture
def config(tmp_path):
    by_both = [{"id": "Graft/Gather-v0", "backend": name} for name in ("sb3", "rllib")]
    path = one_method(tmp_path, sources=by_both)
    return lambda *overrides: load_config(str(path), overrides)


def test_resources_are_a_preset_or_changes_to_one():
    assert parse_resources("local") == Resources()
    assert parse_resources({"num_env_runners": 2}) == Resources(num_env_runners=2)
    changed = parse_resources({"preset": "cluster", "num_env_runners": 3})
    assert changed.num_env_runners == 3
    assert changed.num_learners == PRESETS["cluster"]["num_learners"]
    with pytest.raises(GraftError, match=r"'clustr'.*Did you mean 'cluster'"):
        parse_resources("clustr")
    with pytest.raises(GraftError, match=r"'num_runners'.*Did you mean"):
        parse_resources({"num_runners": 2})
    with pytest.raises(GraftError, match="num_learners=-1 is not allowed"):
        parse_resources({"num_learners": -1})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["backend=rlib"], r"backend 'rlib'.*Did you mean 'rllib'"),
        (["backend=rllib", "algorithm.name=dqn"], r"algorithm 'dqn'; allowed: .*ppo"),
        (["resources=cluster"], "trains in one process"),
        (["backend=rllib", "resources.num_learners=2", "methods=redo"], "redo rewrites weights by what it sees"),
        (
            ["backend=rllib", "resources.num_learners=2", "methods=[{chain: {methods: [redo, l2]}}]"],
            "rewrites weights by what it sees",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_trains(config, overrides, words):
    with pytest.raises(GraftError, match=words):
        expand(config(*overrides))


def test_stages_are_named_by_who_trains_them_and_by_the_processes_that_do():
    by = {
        words: set(expand(load_config("mechanics", ["methods=finetune", "seeds=1", *words])).stages)
        for words in [
            (),
            ("resources=one_gpu",),
            ("backend=rllib",),
            ("backend=rllib", "resources=one_gpu"),
            ("backend=rllib", "resources.num_env_runners=2"),
        ]
    }
    sb3, gpu, rllib, rllib_gpu, runners = by.values()
    assert sb3 == gpu, "a GPU does not make another experiment"
    assert rllib == rllib_gpu
    assert not sb3 & rllib
    assert not rllib & runners


@pytest.mark.parametrize("by", ["sb3", pytest.param("rllib", marks=pytest.mark.slow)])
def test_what_one_backend_pretrained_is_transferred_by_the_other(config, tmp_path, by, one_ray):
    graph = expand(config(f"backend={by}"))
    carried = {c.source: report for c, report in preflight(graph) if c.source is not None}
    assert set(carried) == {"Gather by sb3", "Gather by rllib"}
    assert {stage.backend for stage in graph.stages.values() if stage.kind == "transfer"} == {by}
    assert sorted(stage.backend for stage in graph.stages.values() if stage.kind == "pretrain") == ["rllib", "sb3"]
    store = Store(tmp_path / "out")
    for stage in graph.stages.values():
        run_stage(stage, store, lambda *_: None)
        record = store.record(stage.id)
        assert record["status"] == "done"
        assert record["env_steps"] == 256
    for comparison in graph.comparisons:
        if comparison.source is not None and comparison.pretrain:
            before = Checkpoint.load(store.folder(comparison.pretrain[0]) / "checkpoint")
            after = Checkpoint.load(store.folder(comparison.stages[0]) / "checkpoint")
            assert after.lineage == (before.id,)
