"""``graft import``: output, the checkpoint it writes, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.importing.agent import sha256_of
from graft.experiments import import_agent

NAMES = "kind: categorical\npolicy: actor\nlibrary: own\n"


@pytest.fixture
def agent(tmp_path):
    """A state dict for CartPole with its names."""
    torch.manual_seed(0)
    actor = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    torch.save({f"actor.{k}": v for k, v in actor.state_dict().items()}, tmp_path / "agent.pt")
    (tmp_path / "names.yaml").write_text(NAMES)
    return tmp_path / "agent.pt"


def words(agent, *more):
    folder = agent.parent
    common = [str(agent), "--task", "gymnasium:CartPole-v1", "--names", str(folder / "names.yaml"), "--out"]
    return [*common, str(folder / "out"), "--observations", "200", "--episodes", "8", *more]


def test_the_checkpoint_plays_and_knows_where_it_is_from(agent, capsys):
    assert import_agent.main(words(agent, "--licence", "MIT", "--origin", "a friend")) == 0
    out = capsys.readouterr().out
    assert "200 of 200 recorded observations have the same action" in out
    assert "actor.0.weight" in out
    assert "Not from the file: value: the file has no value of a state; fresh." in out
    found = Checkpoint.load(agent.parent / "out")
    assert found.lineage == (sha256_of(agent),)
    assert found.schemas.observation.names[0] == "cart_position"
    assert found.record["licence"] == "MIT"
    about = found.record["import"]
    assert (about["library"], about["origin"], about["format"]) == ("own", "a friend", "state_dict")
    assert about["parity"] == {"observations": 200, "equal": 200, "worst": 0.0, "tolerance": 1e-5}
    assert found.record["evaluation"]["episodes"] == 8
    weights = torch.load(agent, weights_only=True)
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    hidden = np.tanh(obs @ weights["actor.0.weight"].numpy().T + weights["actor.0.bias"].numpy())
    logits = hidden @ weights["actor.2.weight"].numpy().T + weights["actor.2.bias"].numpy()
    assert (found.build().act(obs, None, deterministic=True).numpy() == logits.argmax(1)).all()


def test_what_exists_is_kept(agent, capsys):
    (agent.parent / "out").mkdir()
    assert import_agent.main(words(agent)) == 2
    assert "give --force" in capsys.readouterr().err
    assert import_agent.main(words(agent, "--force")) == 2
    assert "no checkpoint, so it is not replaced" in capsys.readouterr().err
    assert list((agent.parent / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--activation", "tanj"], "Did you mean 'tanh'"),
        (["--format", "onx"], "Did you mean 'onnx'"),
        (["--normalise", "nowhere.json"], "There is no file nowhere.json"),
        (["--observations", "0"], "at least 1"),
    ],
)
def test_mistakes_are_sentences(agent, more, match, capsys):
    assert import_agent.main(words(agent, *more)) == 2
    assert match in capsys.readouterr().err
    assert not (agent.parent / "out").exists()


def test_a_network_that_plays_otherwise_is_not_written(agent, capsys, monkeypatch):
    from graft.experiments.importing import run

    monkeypatch.setattr(run, "compare", lambda *_: run.Parity(200, 150, 0.3))
    assert import_agent.main(words(agent)) == 2
    assert "plays otherwise than the file's on 50 of 200" in capsys.readouterr().err
    assert not (agent.parent / "out").exists()
