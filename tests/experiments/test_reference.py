"""``graft reference``: scores of random play and of the best of several trainings, whose policy is kept."""

from __future__ import annotations

import re

import pytest

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.sb3 import ALGORITHMS
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.experiments import reference
from graft.experiments.benchmarks import reference as measuring


def test_the_best_of_two_trainings_is_kept(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "best"
    monkeypatch.setattr(measuring, "EXPERT", ALGORITHMS["ppo"](num_envs=8))
    words = ["CartPole-v1", "--steps", "1", "--seeds", "2", "--episodes", "16", "--save", str(folder)]
    assert reference.main([*words, "--network", "{head: [16]}"]) == 0
    said = capsys.readouterr().out
    scores = [float(score) for score in re.findall(r"PPO, seed \d: ([\d.]+) ±", said)]
    assert len(scores) == 2
    assert scores[0] != scores[1]
    kept = Checkpoint.load(folder)
    assert kept.network.head == (16,)
    again = measuring.policy_episodes(kept.build(), Task("CartPole-v1"), 16).returns.mean()
    assert again == pytest.approx(max(scores), abs=1e-3)


def test_only_built_in_games_can_be_planned_in():
    with pytest.raises(GraftError, match=r"'CartPole-v1' cannot be planned in; give a built-in game"):
        reference.main.__wrapped__(["CartPole-v1", "--steps", "1", "--seeds", "1", "--episodes", "2", "--plan", "2"])


@pytest.mark.parametrize(("network", "wrong"), [("mlp", "it is a mapping"), ("{encodr: mlp}", "encoder")])
def test_a_network_that_is_none_is_said(network, wrong):
    with pytest.raises(GraftError, match=wrong):
        reference.main.__wrapped__(["CartPole-v1", "--network", network])
