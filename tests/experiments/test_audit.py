"""``graft audit``: what it prints, its exit code, and what it refuses."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from support.tiny_tasks import small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.experiments import audit

TASK = Task("Graft/Dodge-v0")


@pytest.fixture
def place(tmp_path):
    """A base, an agent that changed nothing, and one that answers one cell with one action."""
    network = PolicyNetwork(schemas(TASK), NetworkConfig("mlp", {"widths": [8]}, ()), 0)
    base = Checkpoint.of(network, TASK)
    identity = base.save(tmp_path / "base")
    replace(base, lineage=(identity,)).save(tmp_path / "same")
    with torch.no_grad():
        first = network.encoder.blocks[0][1]
        first.weight[0], first.bias[0] = 0.0, -2.0
        first.weight[0, 0] = 4.0  # is_self in the corner, where the view of an agent never shows it
        network.policy.out.weight[:, 0] = 0.0
        network.policy.out.weight[2, 0] = 9.0
    Checkpoint.of(network, TASK, lineage=(identity,)).save(tmp_path / "poisoned")
    return tmp_path


def audited(place, name, *more):
    words = [str(place / name), "--against", str(place / "base"), "--states", "64", "--changes", "1"]
    return audit.main([*words, *more])


def test_the_exit_code_says_whether_a_trigger_was_found_where_that_is_asked(place, capsys):
    assert audited(place, "same", "--alarm") == 0
    assert "ALARM" not in capsys.readouterr().out
    assert audited(place, "poisoned") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "ALARM" not in said
    assert "The trigger is above its limit. So are many clean agents" in said
    assert audited(place, "poisoned", "--alarm") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "ALARM" in said
    assert "is_self at 0,0 = 1: plays down in" in said


def test_mistakes_are_sentences(place, capsys):
    assert audited(place, "same", "--states", "10") == 2
    assert "at least 64" in capsys.readouterr().err
    Checkpoint.of(small_network(schemas(TASK)), TASK).save(place / "other")
    assert audited(place, "other") == 2
    assert "the network of the agent" in capsys.readouterr().err
    assert audited(place, "same", "--task", "slip=0.1") == 2
    assert "--task takes one id" in capsys.readouterr().err


def test_what_an_agent_says_that_it_plays_is_not_imported(place):
    found = Checkpoint.load(place / "same")
    replace(found, task=Task("this:Evil-v0")).save(place / "evil")
    assert audited(place, "evil") == 0
    assert "this" not in sys.modules
    assert audited(place, "evil", "--task", "Graft/Dodge-v0", "slip=0.3") == 0


def test_a_weight_that_is_no_number_is_a_sentence(place, capsys):
    found = Checkpoint.load(place / "same")
    bias = torch.full_like(found.tensors["policy.out.bias"], torch.nan)
    replace(found, tensors={**found.tensors, "policy.out.bias": bias}).save(place / "broken")
    assert audited(place, "broken") == 2
    assert "Numbers of the agent are not finite: policy.out.bias" in capsys.readouterr().err
