"""Checkpoints that were saved when categories had names by their place: what is loaded has the names of today."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from support.tiny_tasks import assert_same

from graft import envs
from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint, sealed
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.envs import ActionSchema, GraftError, ObservationSchema, Task
from graft.envs.core.naming import with_names
from graft.envs.core.schema import Schemas
from graft.transfer.method import parse_method

OLD = ("Coins.obs_0", "Coins.obs_1", "Coins.obs_2", "Coins.obs_3", "Coins.obs_4")
NAMES = ("Coins.obs_0=1", "Coins.obs_0=2", "Coins.obs_1=0", "Coins.obs_1=1", "Coins.obs_1=2")


class Coins(gym.Env[Any, Any]):
    """Two categories; ``size`` of the first, whose values count from 1."""

    def __init__(self, size: int = 2, start: int = 1) -> None:
        self.observation_space = gym.spaces.MultiDiscrete([size, 3], start=[start, 0])
        self.action_space = gym.spaces.Discrete(2, start=4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def coins() -> Iterator[None]:
    gym.register("Coins-v0", entry_point=Coins)
    envs.schemas.cache_clear()
    yield
    gym.registry.pop("Coins-v0", None)


def old_names(schemas: Schemas) -> Schemas:
    action = replace(schemas.action, names=("Coins.action_0", "Coins.action_1"))
    return Schemas(with_names(schemas.observation, OLD), action)


def save_as_before(checkpoint: Checkpoint, folder: Path) -> None:
    """Save, and take away what says that names are those of today."""
    checkpoint.save(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["names"]
    (folder / MANIFEST).write_bytes(sealed(manifest)[1])


def network(schemas: Schemas) -> PolicyNetwork:
    return PolicyNetwork(schemas, NetworkConfig("mlp", {"widths": [8], "normalise": True}), 0)


def test_names_are_translated_with_those_of_the_stems(tmp_path: Path) -> None:
    task = Task("Coins-v0")
    old = network(old_names(envs.schemas(task)))
    save_as_before(Checkpoint.of(old, task), tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert loaded.schemas == envs.schemas(task)
    assert loaded.schemas.observation.names == NAMES
    assert loaded.schemas.action.names == ("Coins.action_4", "Coins.action_5")
    assert loaded.stems is not None
    assert {stem.names for stem in loaded.stems} == {NAMES}
    assert_same(dict(loaded.tensors), dict(old.state_dict()))


def test_a_carried_policy_knows_the_same_values_in_a_larger_space(tmp_path: Path) -> None:
    small, large = Task("Coins-v0"), Task("Coins-v0", {"size": 5, "start": 0})
    before = network(old_names(envs.schemas(small)))
    save_as_before(Checkpoint.of(before, small), tmp_path / "c")
    method = parse_method({"finetune": {"heads": "by_name", "new_channels": "zero"}})
    source = Checkpoint.load(tmp_path / "c")
    moved, report = method.build(source, envs.schemas(large), source.network, 1)
    assert set(report.lost) == {"Coins.obs_0=0", "Coins.obs_0=3", "Coins.obs_0=4"}
    rows = [envs.make(task, 1, 0)._encode for task in (small, large)]  # type: ignore[attr-defined]
    for first in (1, 2):
        for second in range(3):
            shown = [torch.as_tensor(encode(np.array([[first, second]]))) for encode in rows]
            torch.testing.assert_close(moved(shown[1]).action, before.eval()(shown[0]).action)


def test_columns_of_a_progressive_network_are_translated(tmp_path: Path) -> None:
    task = Task("Coins-v0")
    schemas = old_names(envs.schemas(task))
    column = NetworkConfig("mlp", {"widths": [8]})
    both = ProgressiveNetwork.beside(PolicyNetwork(schemas, column, 0), schemas, column, 1)
    save_as_before(Checkpoint.of(both, task), tmp_path / "c")
    built = Checkpoint.load(tmp_path / "c").build()
    assert isinstance(built, ProgressiveNetwork)
    assert {own.schemas.observation.names for own in built.columns} == {NAMES}


def test_what_cannot_be_translated_stays_and_is_said(tmp_path: Path) -> None:
    task = Task("Coins-v0")
    save_as_before(Checkpoint.of(network(old_names(envs.schemas(task))), task), tmp_path / "c")
    gym.registry["Coins-v0"].entry_point = "no_such_package:Coins"
    envs.schemas.cache_clear()
    with pytest.warns(UserWarning, match="categories or channels of Coins by their place.*cannot be made"):
        loaded = Checkpoint.load(tmp_path / "c")
    assert loaded.schemas.observation.names == OLD


def test_planes_that_were_read_from_the_wrong_side_are_not_carried(tmp_path: Path) -> None:
    class Board(Coins):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Box(0, 1, (5, 10, 10), np.uint8)

    gym.register("Board-v0", entry_point=Board)
    try:
        names = tuple(f"Board.plane_{i}" for i in range(10))
        wrong = ObservationSchema("planes", names, ((),) * 10, (10, 5, 10), "uint8", (0.0,) * 10, (1.0,) * 10)
        actions = ActionSchema("discrete", ("Board.action_4", "Board.action_5"))
        before = PolicyNetwork(Schemas(wrong, actions), NetworkConfig("grid_cnn"), 0)
        save_as_before(Checkpoint.of(before, Task("Board-v0")), tmp_path / "c")
        with pytest.raises(GraftError, match=r"learned Board with planes of shape \(10, 5, 10\).*are \(5, 10, 10\)"):
            Checkpoint.load(tmp_path / "c")
    finally:
        del gym.registry["Board-v0"]


def test_the_names_of_today_need_no_environment(tmp_path: Path) -> None:
    task = Task("Coins-v0")
    Checkpoint.of(network(envs.schemas(task)), task).save(tmp_path / "c")
    gym.registry["Coins-v0"].entry_point = "no_such_package:Coins"
    envs.schemas.cache_clear()
    assert Checkpoint.load(tmp_path / "c").schemas.observation.names == NAMES
