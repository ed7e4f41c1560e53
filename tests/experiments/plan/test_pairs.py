"""The stage graph: what shares a stage, what changes a hash, and which seeds stages get."""

from __future__ import annotations

import itertools

import pytest
from support.tiny_experiment import TINY, write_config

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.stage import NOT_KEPT
from graft.experiments.stages.preflight import preflight


def graph_of(tmp_path, *overrides, **changes):
    return expand(load_config(str(write_config(tmp_path, **changes)), overrides))


def test_a_source_is_evaluated_twenty_times_at_most(tmp_path):
    stages = graph_of(tmp_path, "pretrain.steps=100000", "evaluation.every=1000").stages.values()
    assert {stage.kind: stage.evaluation.every for stage in stages} == {"pretrain": 5000, "transfer": 1000}
    stages = graph_of(tmp_path, "pretrain.steps=10000", "evaluation.every=1000").stages.values()
    assert {stage.evaluation.every for stage in stages} == {1000}


def test_sources_are_pretrained_once_per_seed(tmp_path):
    graph = graph_of(tmp_path, targets=["Graft/Hunt-v0", "Graft/Dodge-v0"], seeds=3)
    kinds = [stage.kind for stage in graph.stages.values()]
    assert kinds.count("pretrain") == 3
    assert kinds.count("transfer") == 2 * 4 * 3  # targets x (two controls, two methods) x seeds
    assert kinds[:3] == ["pretrain"] * 3, "sources come before what needs them"


def test_what_is_recalled_bears_the_targets_names_and_must_look_like_it(tmp_path):
    target = {"id": "Graft/Dodge-v0", "schema": {"observation": {"is_self": "me"}}, "recall": {"id": "Graft/Dodge-v0"}}
    graph = graph_of(tmp_path, targets=[target], methods=["finetune"], seeds=1)
    recalled = [entry.task for stage in graph.stages.values() for entry in stage.recall]
    assert [task.kwargs for task in recalled] == [{"schema": {"observation": {"is_self": "me"}}}]
    with pytest.raises(GraftError, match=r"recall of Dodge\(.*: Maze\(.* shows or takes something else"):
        graph_of(tmp_path, targets=[target | {"recall": {"id": "Graft/Maze-v0"}}])


def test_controls_do_not_depend_on_the_source(tmp_path):
    graph = graph_of(tmp_path, sources=["Graft/Dodge-v0", "Graft/Hunt-v0"], targets=["Graft/Gather-v0"])
    by_source = {(c.source, c.method.__class__.__name__) for c in graph.comparisons}
    assert (None, "Scratch") in by_source
    assert len(graph.comparisons) == 2 + 2 * 2  # controls once, each method once per source
    assert all(c.scratch == graph.comparisons[0].stages for c in graph.comparisons)


@pytest.mark.parametrize(
    "override",
    [
        "transfer.steps=512",
        "algorithm.gamma=0.5",
        "evaluation.every=64",
        "network.head=[4]",
        "targets.0.kwargs.slip=0.2",
    ],
)
def test_whatever_changes_a_result_changes_the_hash(tmp_path, override):
    scratch = [graph_of(tmp_path, *o).comparisons[0].stages for o in ((), (override,))]
    assert not set(scratch[0]) & set(scratch[1])


def test_the_source_is_part_of_the_hash(tmp_path):
    before, after = (graph_of(tmp_path, f"pretrain.steps={n}").comparisons for n in (256, 512))
    assert before[0].stages == after[0].stages, "scratch does not see the source"
    assert not set(before[2].stages) & set(after[2].stages)


def test_a_name_is_not_part_of_the_hash(tmp_path):
    assert graph_of(tmp_path).stages.keys() == graph_of(tmp_path, "name=other").stages.keys()


def test_how_long_an_evaluation_waits_is_not_part_of_the_hash(tmp_path):
    waits = graph_of(tmp_path, "evaluation.max_steps=40000")
    assert graph_of(tmp_path).stages.keys() == waits.stages.keys()
    assert {stage.evaluation.max_steps for stage in waits.stages.values()} == {40_000}


def test_methods_meet_the_same_levels_and_seeds_are_apart(tmp_path):
    graph = graph_of(tmp_path, seeds=20)
    by_seed = {}
    for stage in graph.stages.values():
        by_seed.setdefault((stage.kind, str(stage.task), stage.seed), set()).add(stage.random_seeds())
    assert all(len(found) == 1 for found in by_seed.values())
    training = sorted(next(iter(found))[1] for found in by_seed.values())
    assert min(b - a for a, b in itertools.pairwise(training)) > 64, "batches of different stages must not overlap"


def test_a_checkpoint_is_a_source(tmp_path):
    task = Task("Graft/Dodge-v0")
    small = NetworkConfig(None, {"channels": [2], "kernels": [3], "strides": [2], "pools": [1], "features": 8}, (4,))
    Checkpoint.of(PolicyNetwork(schemas(task), small, 0), task).save(tmp_path / "npc")
    sources = {"checkpoint": str(tmp_path / "npc")}
    with pytest.raises(GraftError, match="leave 'network' out"):
        graph_of(tmp_path, sources=sources)
    graph = graph_of(tmp_path, sources=sources, network=None)
    assert {stage.kind for stage in graph.stages.values()} == {"transfer"}
    assert all(stage.network.to_json() == {**small.to_json(), "encoder": "grid_cnn"} for stage in graph.stages.values())
    assert graph.comparisons[2].source == f"checkpoint {tmp_path / 'npc'}"


@pytest.mark.parametrize("activation", ["own", "relu"])
def test_a_checkpoint_decides_on_the_activation_where_the_config_does_not(tmp_path, activation):
    """Also where the algorithm's networks have another today."""
    task = Task("Graft/Dodge-v0")
    config = NetworkConfig("mlp", {"widths": [8]}, (4,), distribution="greedy", activation=activation)
    Checkpoint.of(PolicyNetwork(schemas(task), config, 0), task).save(tmp_path / "npc")
    for network in (None, {"encoder": "mlp", "options": {"widths": [8]}, "head": [4]}):
        graph = graph_of(
            tmp_path, sources={"checkpoint": str(tmp_path / "npc")}, network=network, algorithm={"name": "dqn"}
        )
        assert {stage.network.activation for stage in graph.stages.values()} == {activation}
        assert {stage.network.to_json().get("activation", "own") for stage in graph.stages.values()} == {activation}


@pytest.mark.parametrize("section", ["algorithm", "evaluation"])
def test_a_mixture_with_too_few_environments_is_refused_before_training(tmp_path, section):
    games = ["Graft/Dodge-v0", "Graft/Gather-v0", "Graft/Hunt-v0"]
    source = {"id": "Graft/Mixture-v0", "kwargs": {"tasks": games}}
    sizes = {"algorithm": {**TINY["algorithm"], "num_envs": 8}, "evaluation": {**TINY["evaluation"], "num_envs": 8}}
    sizes[section]["num_envs"] = 2
    config = load_config(str(write_config(tmp_path, sources=source, targets="Graft/Hunt-v0", **sizes)))
    with pytest.raises(GraftError, match=f"has 3 parts, and num_envs of {section} is 2"):
        preflight(expand(config))


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("Graft/Gather-v0", "Graft/Hunt-v0", ""),  # which shows more
        ("Graft/Hunt-v0", "Graft/Gather-v0", "other inputs"),
        ("Graft/Dodge-v0", "Graft/Dodge-v0", ""),
    ],
)
def test_kept_is_measured_where_the_target_shows_all_that_the_source_does(tmp_path, source, target, reason):
    graph = graph_of(tmp_path, sources=source, targets=target, seeds=1)
    (found,) = {c.not_kept for c in graph.comparisons if c.source}
    assert found == reason
    recalled = {len(graph.stages[c.stages[0]].recall) for c in graph.comparisons if c.source}
    assert recalled == {int(not reason)}


def test_shared_heads_must_take_the_sources_actions(tmp_path):
    named = {"id": "Graft/Dodge-v0", "schema": {"action": {"up": "north"}}}
    methods = [{"finetune": {"heads": "shared", "rename": {"up": "north"}}}, "frozen"]
    graph = graph_of(tmp_path, targets=named, methods=methods, seeds=1)
    assert {c.method.shares_heads: c.not_kept for c in graph.comparisons if c.source} == {
        True: "other actions",
        False: "",
    }
    assert NOT_KEPT.keys() >= {c.not_kept for c in graph.comparisons} - {""}


def test_a_source_is_scored_on_its_own_bounds(tmp_path):
    graph = graph_of(tmp_path, sources={"id": "Graft/Dodge-v0", "bounds": [-2, 8]}, seeds=1)
    kinds = {stage.kind: stage for stage in graph.stages.values()}
    assert kinds["pretrain"].scale[:2] == (-2, 8)
    assert kinds["transfer"].recall[0].scale[:2] == (-2, 8)
    plain = graph_of(tmp_path, seeds=1)
    assert graph.stages.keys() == plain.stages.keys(), "training does not depend on it"
    with pytest.raises(GraftError, match="bounds are the random policy's mean return"):
        graph_of(tmp_path, sources={"id": "Graft/Dodge-v0", "bounds": [8, -2]})
