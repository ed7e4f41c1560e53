"""``graft pretrain``: the sources of an experiment, without its transfers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny_experiment import one_method, write_config

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.errors import GraftError
from graft.experiments import pretrain, run


def test_sources_are_trained_saved_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out, saved = one_method(tmp_path), tmp_path / "out", tmp_path / "saved"
    words = [str(config), "--out", str(out), "--jobs", "1"]
    assert pretrain.main([*words, "--save", str(saved)]) == 0
    assert f"checkpoint: {saved}" in capsys.readouterr().out
    (stage,) = (out / "stages").iterdir()
    before = json.loads((stage / "stage.json").read_text())
    assert Checkpoint.load(saved).id == before["checkpoint"]
    with pytest.raises(GraftError, match="is there already"):
        pretrain.main.__wrapped__([*words, "--save", str(saved)])
    assert run.main(words) == 0
    assert json.loads((stage / "stage.json").read_text()) == before


@pytest.mark.parametrize(
    ("changes", "words", "wrong"),
    [
        ({"sources": None, "targets": None, "sequence": ["Graft/Dodge-v0", "Graft/Gather-v0"]}, [], "is a sequence"),
        ({"sources": "foundation", "network": None, "targets": ["Graft/Dodge-v0"]}, [], "are trained already"),
        ({"algorithm": {"name": "sac"}}, [], "needs box actions"),
        ({}, ["--save", "x"], "--save is for one training, and tiny has 2"),
    ],
)
def test_what_cannot_be_pretrained_is_said(
    tmp_path: Path, changes: dict[str, object], words: list[str], wrong: str
) -> None:
    config = write_config(tmp_path, **changes)
    with pytest.raises(GraftError, match=wrong):
        pretrain.main.__wrapped__([str(config), "--out", str(tmp_path / "out"), *words])
