"""The config that a checkpoint gives back: it is of the same stage, and training it gives the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_experiment import one_method, write_config

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.pretrained import checkpoint_folder
from graft.errors import GraftError
from graft.experiments import inspect
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.sequence import expand_sequence
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.lineage import Member, family
from graft.experiments.store.records import Store
from graft.experiments.store.training_config import config_text

SMALL = {"name": "ppo", "num_envs": 8}
EXPERIMENTS = {
    "methods": {
        "methods": ["ewc", {"lora": {"rank": 2}}, {"finetune": {"heads": "by_name"}}, "progressive", "packnet"],
        "targets": ["Graft/Gather-v0", {"id": "Graft/Dodge-v0", "kwargs": {"slip": 0.3, "view": "planes"}}],
    },
    "chain": {"methods": {"chain": ["ewc", {"replay": {"strength": 2}}]}},
    "rma": {
        "sources": {"id": "CartPole-v1", "kwargs": {"show": ["state", "dynamics", "history"]}},
        "targets": "CartPole-v1",
        "methods": "rma",
        "network": None,
    },
    "dqn": {"sources": "CartPole-v1", "targets": "Acrobot-v1", "algorithm": "dqn", "network": None},
    "sac": {
        "sources": "Pendulum-v1",
        "targets": "Pendulum-v1",
        "algorithm": {"name": "sac", "critic": [32]},
        "network": {"options": {"widths": [32, 16]}, "head": []},
    },
    "rllib": {"backend": "rllib", "algorithm": SMALL, "resources": {"num_env_runners": 2, "num_learners": 1}},
}


def member(stage, parents):
    record = {"stage": stage.to_json(), "git": {"commit": "abc"}, "versions": {"torch": "2"}}
    lineage = [f"{id(parent):064x}" for parent in parents]
    return Member(f"{id(stage):064x}", Path("somewhere"), {"record": record, "lineage": lineage})


def ancestors(stage, graph):
    """The stages that it descends from, the nearest first."""
    parent = graph.stages.get(stage.source)
    return [] if parent is None else [parent, *ancestors(parent, graph)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_stage_of_an_experiment_has_a_config_of_its_own(tmp_path, name):
    graph = expand(load_config(str(write_config(tmp_path, **{"seeds": 2, **EXPERIMENTS[name]}))))
    tried = 0
    for stage in graph.stages.values():
        line = ancestors(stage, graph)
        members = [*(member(one, ancestors(one, graph)) for one in reversed(line)), member(stage, line)]
        if stage.kind == "consolidate":
            with pytest.raises(GraftError, match="is a consolidation; only its run's folder"):
                config_text(members)
            continue
        again = tmp_path / "again.yaml"
        again.write_text(config_text(members))
        assert stage.id in expand(load_config(str(again))).stages
        if stage.kind == "transfer":
            assert f"#   graft run again.yaml, which makes it in runs/again/stages/{stage.id}\n" in again.read_text()
        tried += 1
    assert tried >= 4


def trained(config, out):
    """The transfer of an experiment with one method, trained with its source only."""
    graph, store = expand(load_config(str(config))), Store(out)
    needed = [s for s in graph.stages.values() if s.kind == "pretrain" or s.source is not None]
    for stage in needed:
        run_stage(stage, store, lambda *_: None)
    return needed[-1]


def test_the_same_weights_come_out(tmp_path, capsys):
    made = trained(one_method(tmp_path, seeds=[3]), tmp_path / "out")
    capsys.readouterr()
    assert inspect.main([str(tmp_path / "out" / "stages" / made.id), "--config"]) == 0
    again = tmp_path / "again.yaml"
    again.write_text(capsys.readouterr().out)
    assert trained(again, tmp_path / "again").id == made.id
    one, other = (Checkpoint.load(tmp_path / out / "stages" / made.id / "checkpoint") for out in ("out", "again"))
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())

    alone = tmp_path / "alone"
    one.save(alone)
    capsys.readouterr()
    assert inspect.main([str(alone), "--config"]) == 2
    assert "was not found; --search DIR says where to look" in capsys.readouterr().err
    assert inspect.main([str(alone), "--config", "--search", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.partition("name:")[2] == again.read_text().partition("name:")[2]


def test_the_foundation_is_a_source_by_its_name(tmp_path):
    changes = {"sources": "foundation", "targets": "Graft/Hunt-v0", "network": None}
    graph = expand(load_config(str(write_config(tmp_path, **changes))))
    stage = next(s for s in graph.stages.values() if s.source is not None)
    assert "sources:\n  checkpoint: foundation\n" in config_text([member(stage, [])])
    text = config_text(family(checkpoint_folder("foundation")))
    assert "  graft pretrain again.yaml --save again\n" in text
    assert "20000000" in text


def test_what_no_config_gives_is_said(tmp_path):
    config = write_config(tmp_path, sources=None, targets=None, sequence=["Graft/Gather-v0", "Graft/Hunt-v0"])
    graph = expand_sequence(load_config(str(config)))
    first = next(s for s in graph.stages.values() if s.position is not None and s.kind != "consolidate")
    with pytest.raises(GraftError, match="is of a sequence; only its run's folder"):
        config_text([member(first, [])])
    with pytest.raises(GraftError, match="Checkpoint 1 was imported, so there is no config"):
        config_text([Member("1", manifest={"record": {"import": {"sha256": "2"}}})])
    stage = next(iter(expand(load_config(str(write_config(tmp_path)))).stages.values()))
    record = {"stage": {**stage.to_json(), "own_parts": {"mine": "1234"}}}
    with pytest.raises(GraftError, match="makes the checkpoint again: own_parts would differ"):
        config_text([Member("1", manifest={"record": record})])


FOREIGN = {
    "stranger:Game-v0": {"id": "stranger:Game-v0", "kwargs": {}},
    "unity:/bin/false": {"id": "unity:/bin/false", "kwargs": {}},
    "stranger.Wrapper": {"id": "CartPole-v1", "kwargs": {"wrappers": ["stranger.Wrapper"]}},
    "pydoc.pipepager": {"id": "CartPole-v1", "kwargs": {"wrappers": [{"pydoc.pipepager": {"cmd": "false"}}]}},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_nothing_that_a_checkpoint_names_is_imported_or_started(tmp_path, monkeypatch, name):
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    graph = expand(load_config(str(write_config(tmp_path))))
    stage = next(s for s in graph.stages.values() if s.kind == "pretrain")
    record = {"stage": {**stage.to_json(), "task": FOREIGN[name]}}
    text = config_text([Member("1", manifest={"record": record})])
    assert f"# Not checked, as that would run what it names: {name}. Look at it before you do.\n" in text
    assert f"sources:\n  id: {FOREIGN[name]['id']}\n" in text
    # Nor what the checkpoint names that it was transferred from.
    transfer = next(s for s in graph.stages.values() if s.source is not None)
    source = f"{1:064x}"
    made = Member("2", manifest={"record": {"stage": {**transfer.to_json(), "source": source}}})
    for manifest in ({"task": FOREIGN[name], "network": {}}, {"task": {}, "network": {"encoder": name}}):
        text = config_text([Member(source, tmp_path, manifest), made])
        assert f"as that would run what it names: {name}. " in text


def test_a_task_that_is_a_folder_is_refused(tmp_path):
    stage = next(iter(expand(load_config(str(write_config(tmp_path)))).stages.values()))
    for task in ({"checkpoint": "elsewhere"}, {"id": "CartPole-v1", "kwargs": {}, "checkpoint": "elsewhere"}):
        record = {"stage": {**stage.to_json(), "task": task}}
        with pytest.raises(GraftError, match=r"says of its training cannot be read \(task"):
            config_text([Member("1", manifest={"record": record})])
