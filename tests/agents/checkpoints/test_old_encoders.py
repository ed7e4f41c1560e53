"""Checkpoints whose encoders had other default options play what they played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graft import envs
from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint, sealed
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.envs.builtin.old_views import DEFAULTS
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
    del manifest[DEFAULTS]
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


def test_earlier_columns_play_what_they_played(tmp_path: Path) -> None:
    was = NetworkConfig("grid_cnn", WAS)
    seen = Schemas(BOARD, ActionSchema("discrete", ("l", "r")))
    network = ProgressiveNetwork.beside(PolicyNetwork(seen, was, 0), seen, was, 1).eval()
    Checkpoint.of(network, Task("Board-v0")).save(tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / MANIFEST).read_text())
    del manifest[DEFAULTS]
    manifest["network"]["options"] = {}
    manifest["network"]["parts"]["earlier"]["network"]["options"] = {}
    (tmp_path / "c" / MANIFEST).write_bytes(sealed(manifest)[1])
    again = Checkpoint.load(tmp_path / "c").build().eval()
    obs = observations(BOARD, 3)
    assert torch.equal(again(obs).action, network(obs).action)


@pytest.mark.parametrize(("of_before", "masks"), [(True, {"action_masks": False}), (False, {})])
def test_a_task_that_showed_no_masks_says_so(tmp_path: Path, of_before: bool, masks: dict[str, bool]) -> None:
    """Taxi's are in its infos; today's agents see them."""
    task = Task("Taxi-v3")
    seen = envs.schemas(Task("Taxi-v3", {"action_masks": False}) if of_before else task)
    Checkpoint.of(PolicyNetwork(seen, NetworkConfig("mlp"), 0), task).save(tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / MANIFEST).read_text())
    if of_before:
        del manifest[DEFAULTS]
    (tmp_path / "c" / MANIFEST).write_bytes(sealed(manifest)[1])
    loaded = Checkpoint.load(tmp_path / "c")
    assert loaded.task == Task("Taxi-v3", masks)
    assert envs.schemas(loaded.task) == loaded.schemas
