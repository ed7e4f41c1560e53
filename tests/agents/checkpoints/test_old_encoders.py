"""Checkpoints whose encoders had other default options play what they played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint, sealed
from graft.agents.checkpoints.old_encoders import KEY
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas, joined, uint8_schema
from graft.envs.core.task import Task
from graft.experiments.contracts.basics import assert_same, observations

BOARD = uint8_schema("planes", ("a", "b"), (2, 7, 7), 1)
NUMBERS = ObservationSchema("vector", ("x",), ((),), (1,), "float32", (-1.0,), (1.0,))
BOTH = joined({"board": BOARD, "state": NUMBERS})
WAS: dict[str, Any] = {"channels": [32, 32], "strides": [1, 2]}


def of_before(folder: Path, seen: ObservationSchema, was: NetworkConfig, given: dict[str, Any]) -> PolicyNetwork:
    """Saves a network of all the options that it has, under those that a config gave when they were the defaults."""
    network = PolicyNetwork(Schemas(seen, ActionSchema("discrete", ("l", "r"))), was, 0)
    Checkpoint.of(network, Task("Board-v0")).save(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[KEY]
    manifest["network"] |= given
    (folder / MANIFEST).write_bytes(sealed(manifest)[1])
    return network


@pytest.mark.parametrize(
    ("seen", "was", "given"),
    [
        (BOARD, NetworkConfig("grid_cnn", WAS), {"encoder": None, "options": {}}),
        (BOARD, NetworkConfig("grid_cnn", {**WAS, "features": 8}), {"options": {"features": 8}}),
        (BOARD, NetworkConfig("grid_cnn", {**WAS, "channels": [4, 8]}), {"options": {"channels": [4, 8]}}),
        (BOARD, NetworkConfig("mlp"), {}),
        (BOTH, NetworkConfig("branches", {"encoders": {"board": {"options": WAS}}}), {"encoder": None, "options": {}}),
        (NUMBERS, NetworkConfig(), {}),
    ],
    ids=["default", "features", "channels", "mlp", "parts", "vector"],
)
def test_it_plays_what_it_played(tmp_path: Path, seen: ObservationSchema, was: NetworkConfig, given: Any) -> None:
    network = of_before(tmp_path / "c", seen, was, given).eval()
    loaded = Checkpoint.load(tmp_path / "c")
    again = loaded.build().eval()
    assert_same(again.state_dict(), network.state_dict())
    obs = observations(seen, 3) if seen is not BOTH else torch.rand(3, *BOTH.shape)
    assert torch.equal(again(obs).action, network(obs).action)
    assert loaded.save(tmp_path / "d") == Checkpoint.load(tmp_path / "d").id
    assert_same(Checkpoint.load(tmp_path / "d").build().state_dict(), network.state_dict())
