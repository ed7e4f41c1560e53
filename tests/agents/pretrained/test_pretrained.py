"""Checkpoints that come with Graft: whole, made as the packaged config says, and playing games that they never saw."""

from __future__ import annotations

import os

import numpy as np
import pytest

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.pretrained import FOLDER, checkpoint_folder, pretrained
from graft.envs import GraftError
from graft.envs.core.task import Task
from graft.envs.factory import bounds, schemas
from graft.experiments.benchmarks.reference import policy_episodes
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.transfer.method import parse_method
from graft.transfer.session import TransferSession


@pytest.mark.parametrize("name", pretrained())
def test_it_was_made_by_the_config_of_its_name(name: str) -> None:
    checkpoint = Checkpoint.load(name)
    (stage,) = [stage for stage in expand(load_config(name)).stages.values() if stage.kind == "pretrain"]
    made = checkpoint.record["stage"]
    assert checkpoint.task == stage.task
    assert checkpoint.record["env_steps"] >= stage.budget
    for key in ("algorithm", "network", "seed", "budget"):
        assert made[key] == stage.to_json()[key]
    assert (FOLDER / name / "README.md").is_file()


@pytest.mark.parametrize("game", ["Hunt", "Platform"])
def test_the_foundation_plays_games_that_it_never_saw(game: str) -> None:
    task, checkpoint = Task(f"Graft/{game}-v0"), Checkpoint.load("foundation")
    method = parse_method({"finetune": {"heads": "by_name"}})
    network = TransferSession.begin(method, checkpoint, schemas(task), checkpoint.network, 0).network
    scale, returns = bounds(task), policy_episodes(network, task, 64).returns
    assert scale is not None
    assert scale.normalise(float(np.mean(returns))) > 0.1


def test_a_folder_of_ones_own_comes_first(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder("foundation") == FOLDER / "foundation"
    os.mkdir("foundation")
    assert checkpoint_folder("foundation").samefile("foundation")
    with pytest.raises(GraftError, match=r"comes with Graft: foundation\. Did you mean 'foundation'\?"):
        Checkpoint.load("fondation")
