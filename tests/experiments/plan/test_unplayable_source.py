"""A checkpoint whose task can't be made on this machine is a source; what would need its task is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.tiny_experiment import write_config

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs import GraftError, Task
from graft.envs.core.naming import rename
from graft.envs.factory import schemas
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.report import transfer as report
from graft.experiments.report.transfer import results
from graft.experiments.stages.preflight import preflight
from graft.experiments.store.records import Store

GONE = Task("farm_games_of_mine:Farm-v0", {"size": 3})
DODGE = Task("Graft/Dodge-v0", {"view": "planes"})
SMALL = NetworkConfig(None, {"channels": [2], "kernels": [3], "strides": [2], "pools": [1], "features": 8}, (4,))


@pytest.fixture
def source(tmp_path):
    """A checkpoint of a task that looks like Dodge, whose player is called farmer, and whose package is not here."""
    named = rename(schemas(DODGE), {"observation": {"player": "farmer"}}, "Dodge")
    Checkpoint.of(PolicyNetwork(named, SMALL, 0), GONE).save(tmp_path / "farm")
    return {"checkpoint": str(tmp_path / "farm"), "name": "farm"}


def config_of(tmp_path, source, **changes):
    return load_config(str(write_config(tmp_path, sources=[source], network=None, **changes)))


def test_it_is_transferred_and_kept_is_not_measured(tmp_path, source):
    target = {**DODGE.to_json(), "schema": {"observation": {"player": "farmer"}}}
    config = config_of(tmp_path, source, targets=[target])
    graph = expand(config)
    assert {stage.kind for stage in graph.stages.values()} == {"transfer"}
    assert not any(stage.recall for stage in graph.stages.values())
    carried = [found for _, found in preflight(graph) if found is not None]
    assert len(carried) == 2
    assert all(found.lost == () for found in carried)
    data = results(config, graph, Store(tmp_path), [], {}, {})
    (line,) = (line for line in report.notes(data) if line.startswith("kept is not measured from farm: "))
    assert f"{GONE} can't be made here: Module 'farm_games_of_mine' of task" in line


def test_a_target_takes_its_names(tmp_path, source):
    target = {"id": DODGE.id, "kwargs": {**DODGE.kwargs, "slip": 0.5}, "schema": {"as": "source"}}
    task = config_of(tmp_path, source, targets=[target]).targets[0].task
    assert schemas(task) == Checkpoint.load(source["checkpoint"]).schemas
    assert "farmer" in schemas(task).observation.names
    other = {"id": "CartPole-v1", "schema": {"as": "source"}}
    with pytest.raises(GraftError, match=r"as: .* is not possible, as CartPole-v1 shows vector 4"):
        schemas(config_of(tmp_path, source, targets=[other]).targets[0].task)


def test_a_method_that_plays_the_source_again_says_what_it_lacks(tmp_path, source):
    with pytest.raises(GraftError, match=r"ewc.* has to play .*Farm.* again, which farm learned, and it can't be made"):
        expand(config_of(tmp_path, source, methods=["ewc"]))


def test_with_its_task_kept_is_measured(tmp_path, source):
    loaded = Checkpoint.load(source["checkpoint"])
    replace(loaded, task=DODGE, schemas=schemas(DODGE)).save(tmp_path / "dodge")
    graph = expand(config_of(tmp_path, {"checkpoint": str(tmp_path / "dodge")}, targets=[DODGE.to_json()]))
    assert graph.unplayable == {}
    assert any(stage.recall for stage in graph.stages.values())
