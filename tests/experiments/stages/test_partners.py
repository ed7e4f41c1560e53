"""Experiments in which all teams of a squad learn: what is asked for, and what is left of those beside."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support.tiny_experiment import write_config

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.envs.core.faults import Faults, TooManyFaults
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.config.teams import Squad
from graft.experiments.plan.pairs import expand
from graft.experiments.stages import run_stage as stages
from graft.experiments.stages.preflight import preflight
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import FAULT_CHECKPOINT, Store

SOURCE = {
    "id": "Graft/Pursuit-v0",
    "kwargs": {"team": "hunters", "max_steps": 20},
    "policy_mapping": {"hunters": "hunter", "prey": "prey"},
}
TARGET = {
    "id": "Graft/TeamGather-v0",
    "kwargs": {"team": "reds", "max_steps": 20},
    "policy_mapping": {"reds": "gatherer", "blues": "rival"},
    "share_encoder": True,
}
SQUADS = {"backend": "rllib", "sources": SOURCE, "targets": TARGET, "methods": "frozen", "seeds": 1}


def graph_of(tmp_path, **changes):
    return expand(load_config(str(write_config(tmp_path, **{**SQUADS, **changes}))))


def test_a_stage_is_another_one_when_others_learn_beside_it(tmp_path):
    ids = [
        set(graph_of(tmp_path, targets={**TARGET, **changes}).stages)
        for changes in (
            {},
            {"share_encoder": False},
            {"policy_mapping": {"reds": "gatherer", "blues": "gatherer"}, "share_encoder": False},
            {"policy_mapping": None, "share_encoder": False},
        )
    ]
    common = set.intersection(*ids)
    assert len(common) == 1  # the source
    assert all(len(some - common) == 3 for some in ids)
    assert len(set.union(*ids)) == 1 + 4 * 3


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"backend": "sb3"}, r"sb3 trains one policy at a time; use backend: rllib"),
        ({"targets": {**TARGET, "kwargs": {}}}, r"name the team.*allowed: blues, reds"),
        ({"targets": {**TARGET, "kwargs": {"team": "red"}}}, r"team.*'red'.*reds"),
        ({"targets": {**TARGET, "policy_mapping": {"reds": "a"}}}, r"Nobody plays blues"),
        ({"targets": {**TARGET, "policy_mapping": {"reds": "a", "blue": "b"}}}, r"'blue'.*blues"),
        ({"targets": {**TARGET, "policy_mapping": {"reds": "default_policy", "blues": "b"}}}, r"RLlib's own name"),
        (
            {"targets": {**TARGET, "policy_mapping": {"reds": "a", "blues": "__all__"}}},
            r"'__all__' is RLlib's own",
        ),
        ({"algorithm": "appo"}, r"APPO\w* trains one policy at a time; for squads, use ppo"),
        ({"targets": {**TARGET, "policy_mapping": None}}, r"share_encoder is for policies that learn together"),
        ({"targets": {**TARGET, "id": "Graft/Gather-v0", "kwargs": {"team": "reds"}}}, r"not for squads|keyword"),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_reason(tmp_path, changes, match):
    with pytest.raises(GraftError, match=match):
        graph_of(tmp_path, **changes)


@pytest.mark.parametrize(
    ("method", "match"),
    [("progressive", r"kind 'progressive' has no encoder"), ("redo", r"redo rewrites units of the encoder")],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_trained(tmp_path, method, match):
    with pytest.raises(GraftError, match=match):
        preflight(graph_of(tmp_path, methods=method))
    preflight(graph_of(tmp_path, methods=method, targets={**TARGET, "share_encoder": False}))


def test_an_encoder_is_shared_by_those_who_see_the_same(tmp_path):
    source = {**SOURCE, "share_encoder": True}
    assert len(graph_of(tmp_path, sources=source).stages) == 4
    zoo = {
        "id": "pettingzoo:mpe2.simple_tag_v3",
        "kwargs": {"team": "agent"},
        "policy_mapping": {"agent": "a", "adversary": "b"},
        "share_encoder": True,
    }
    pytest.importorskip("mpe2")
    with pytest.raises(GraftError, match="b sees something else than a"):
        graph_of(tmp_path, sources=zoo, targets={**zoo, "share_encoder": False})


def test_a_sequence_trains_one_policy(tmp_path):
    with pytest.raises(GraftError, match="a sequence trains one policy"):
        load_config(str(write_config(tmp_path, sources=None, targets=None, sequence=[SOURCE, TARGET])))


def test_others_are_those_of_other_policies():
    squad = Squad({"reds": "a", "blues": "b"})
    assert squad.partners(Task("x", {"team": "reds"})) == {"b": Task("x", {"team": "blues"})}
    assert not Squad({"reds": "a", "blues": "a"}).partners(Task("x", {"team": "reds"}))


def test_names_of_a_team_stay_with_those_who_see_the_same(tmp_path):
    pytest.importorskip("mpe2")
    plays, names = {"agent": "a", "adversary": "b"}, [f"feature_{i}" for i in range(16)]
    zoo = {"id": "pettingzoo:mpe2.simple_tag_v3", "policy_mapping": plays}
    hunters = {**zoo, "kwargs": {"team": "adversary"}, "schema": {"observation": names}}
    prey = {**zoo, "kwargs": {"team": "agent"}, "schema": {"observation": names[:14]}}
    graph = graph_of(tmp_path, sources=hunters, targets=prey, network=None)
    preflight(graph)  # the names are what the two have in common
    for stage in graph.stages.values():
        (beside,) = stage.squad.partners(stage.task).values()
        assert "schema" not in beside.kwargs
    coins = Task("Graft/TeamGather-v0", {"team": "reds", "schema": {"observation": {"coin": "gem"}}})
    assert Squad({"reds": "a", "blues": "b"}).partners(coins)["b"].kwargs["schema"] == coins.kwargs["schema"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
def test_partners_of_a_method_with_layers_of_its_own_are_plain_networks(tmp_path):
    store = Store(tmp_path / "out")
    for stage in graph_of(tmp_path, methods="lora").stages.values():
        run_stage(stage, store, lambda *_: None)
    rival = Checkpoint.load(store.folder(stage.id) / "policies" / "rival")
    own = Checkpoint.load(store.folder(stage.id) / "checkpoint")
    shared = [name for name in own.tensors if name.startswith("encoder.")]
    assert shared
    assert all(torch.equal(rival.build().state_dict()[name], own.tensors[name]) for name in shared)
    assert rival.lineage == own.lineage != ()
    assert rival.record["policy"] == "rival"
    assert "evaluation" not in rival.record  # that is of the stage's own


def test_a_checkpoint_of_faults_has_partners(tmp_path, monkeypatch):
    def train(job):
        with torch.no_grad():
            job.partners.networks["prey"].policy.out.bias.fill_(3.0)
        error = TooManyFaults("tide", Faults(), "Too many.")
        error.env_steps = 77
        raise error

    monkeypatch.setattr(stages, "backend", lambda _: SimpleNamespace(train=train))
    store, pretraining = Store(tmp_path / "out"), next(iter(graph_of(tmp_path).stages.values()))
    with pytest.raises(TooManyFaults, match="after 77 env steps"):
        run_stage(pretraining, store, lambda *_: None)
    folder = store.folder(pretraining.id) / FAULT_CHECKPOINT
    assert Checkpoint.load(folder).record["env_steps"] == 77
    assert (Checkpoint.load(folder / "policies" / "prey").tensors["policy.out.bias"] == 3.0).all()


@pytest.mark.usefixtures("one_ray")
def test_partners_are_saved_and_can_be_sources(tmp_path):
    store, kept = Store(tmp_path / "out"), {}
    for stage in graph_of(tmp_path).stages.values():
        run_stage(stage, store, lambda *_: None)
        assert store.record(stage.id)["status"] == "done"
        folder = next((store.folder(stage.id) / "policies").iterdir())
        kept[folder.name] = folder
    assert set(kept) == {"prey", "rival"}
    assert Checkpoint.load(kept["prey"]).task == Task("Graft/Pursuit-v0", {"team": "prey", "max_steps": 20})
    graph = graph_of(
        tmp_path, backend="sb3", sources={"checkpoint": str(kept["prey"])}, network=None,
        targets={"id": "Graft/TeamGather-v0", "kwargs": {"team": "reds", "max_steps": 20}},
    )  # fmt: skip
    transfer = next(stage for stage in graph.stages.values() if stage.source is not None)
    run_stage(transfer, store, lambda *_: None)
    assert Checkpoint.load(store.folder(transfer.id) / "checkpoint").lineage == (Checkpoint.load(kept["prey"]).id,)
