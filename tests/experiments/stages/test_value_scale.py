"""A source's value head in the rewards of the stage that starts from it, also through a consolidation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny_experiment import one_method
from support.tiny_tasks import MATCH, TASK, small_config, small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.errors import GraftError
from graft.experiments import pretrain, run
from graft.experiments.stages.run_stage import with_values_scaled


@pytest.mark.parametrize(("recorded", "factor"), [(0.5, 2.0), (1, 1.0), (None, 1.0)])
@pytest.mark.parametrize(("distribution", "head"), [(None, "value"), ("greedy", "policy")])
def test_a_source_is_scaled_to_the_rewards_of_its_target(recorded, factor, distribution, head) -> None:
    algorithm = {} if recorded is None else {"reward_scale": recorded}
    network = PolicyNetwork(MATCH, replace(small_config(MATCH.observation.kind), distribution=distribution), 0)
    source = Checkpoint.of(network, TASK, record={"stage": {"algorithm": algorithm}})
    scaled = with_values_scaled(source, 1.0)
    for name, tensor in source.tensors.items():
        torch.testing.assert_close(scaled.tensors[name], tensor * (factor if name.startswith(f"{head}.out.") else 1))


@pytest.mark.parametrize("record", [{"stage": {"algorithm": {"reward_scale": wrong}}} for wrong in (0, "x", None)])
def test_a_scale_that_is_no_number_is_said(record) -> None:
    source = Checkpoint.of(small_network(MATCH), TASK, record=record)
    with pytest.raises(GraftError, match="is a number above 0"):
        with_values_scaled(source, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["finetune", "ewc"])
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
