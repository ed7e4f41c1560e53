"""A source's value head in the rewards of the stage that starts from it, also through a consolidation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.tiny_experiment import one_method

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.experiments import pretrain, run


@pytest.mark.parametrize("method", ["finetune", pytest.param("ewc", marks=pytest.mark.slow)])
def test_values_are_in_the_rewards_of_the_target(tmp_path: Path, method: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    made = one_method(tmp_path, name="source", algorithm={"name": "ppo", "num_envs": 8, "reward_scale": 0.5})
    assert pretrain.main([str(made), "--out", str(tmp_path / "first"), "--jobs", "1", "--save", str(source)]) == 0
    algorithm = {"name": "ppo", "num_envs": 8, "learning_rate": 1e-12}
    methods = {method: {"heads": "by_name"}}
    config = one_method(tmp_path, sources={"checkpoint": str(source)}, methods=methods, algorithm=algorithm)
    assert run.main([str(config), "--out", str(out), "--jobs", "1"]) == 0
    records = [json.loads(path.read_text()) for path in out.glob("stages/*/stage.json")]
    (moved,) = [one["id"] for one in records if one["kind"] == "transfer" and one["label"].startswith(method)]
    before, after = Checkpoint.load(source), Checkpoint.load(out / "stages" / moved / "checkpoint")
    for name in ("value.out.weight", "value.out.bias"):
        torch.testing.assert_close(after.tensors[name], 2 * before.tensors[name])
    torch.testing.assert_close(after.tensors["policy.out.weight"], before.tensors["policy.out.weight"])
