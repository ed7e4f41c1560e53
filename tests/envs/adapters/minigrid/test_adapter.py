"""MiniGrid's symbolic view as planes, against views written by hand and MiniGrid's own tables."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from graft import envs
from graft.envs import Task
from graft.envs.adapters.minigrid import adapter as minigrid
from graft.envs.builtin.engine.channels import Channels

INSTALL = "pip install 'graft-rl[games]'"


def plane(schema: envs.ObservationSchema, obs: Any, name: str) -> list[list[int]]:
    """Cells (row, column) that are set in a plane of one observation (C, H, W)."""
    cells: list[list[int]] = np.argwhere(obs[schema.names.index(name)]).tolist()
    return cells


def test_encoding_by_hand() -> None:
    image = np.zeros((1, 7, 7, 3), np.uint8)  # by column, row: all unseen
    image[0, 2, 5] = (4, 4, 2)  # a yellow locked door
    image[0, 3, 6] = (1, 0, 0)  # an empty cell
    image[0, 6, 0] = (5, 0, 0)  # a red key
    planes = minigrid.encode(image)
    schema, _ = minigrid.minigrid_codecs("t", *spaces())
    shown = {name: plane(schema.schema, planes[0], name) for name in schema.schema.names}
    unseen = shown.pop("object:unseen")
    assert len(unseen) == 46
    assert {name: cells for name, cells in shown.items() if cells} == {
        "object:empty": [[6, 3]],
        "object:door": [[5, 2]],
        "object:key": [[0, 6]],
        "colour:red": [[0, 6]],
        "colour:yellow": [[5, 2]],
        "state:locked": [[5, 2]],
    }
    assert (planes.shape, planes.dtype) == ((1, 20, 7, 7), np.uint8)


def test_codes_that_minigrid_lacks_set_nothing() -> None:
    assert minigrid.encode(np.full((2, 7, 7, 3), 255, np.uint8)).sum() == 0


def spaces() -> tuple[Any, Any]:
    return gym.spaces.Box(0, 255, (7, 7, 3), np.uint8), gym.spaces.Discrete(7)


def test_names_and_codes_are_minigrids_own() -> None:
    constants = pytest.importorskip("minigrid.core.constants", reason=INSTALL)
    actions = pytest.importorskip("minigrid.core.actions", reason=INSTALL)
    assert {name: code for code, name in enumerate(minigrid.OBJECTS)} == constants.OBJECT_TO_IDX
    assert {name: code for code, name in enumerate(minigrid.COLOURS)} == constants.COLOR_TO_IDX
    assert {name: code for code, name in enumerate(minigrid.STATES)} == constants.STATE_TO_IDX
    assert {name: code for code, name in enumerate(minigrid.ACTIONS)} == dict(actions.Actions.__members__)


def test_attributes_are_in_the_shared_vocabulary() -> None:
    schema = minigrid.minigrid_codecs("t", *spaces())[0].schema
    meaning = dict(zip(schema.names, schema.attributes, strict=True))
    assert meaning["object:wall"] == ("solid",)
    assert meaning["object:lava"] == ("deadly",)
    assert meaning["object:goal"] == ("goal", "reward")
    assert meaning["object:door"] == ("openable", "solid")
    assert meaning["object:key"] == ("pickup", "solid", "tool")
    assert all(list(words) == sorted(words) for words in schema.attributes)
    known = [words for words in schema.attributes if words]
    assert len(set(known)) == len(known)


def test_planes_by_attributes_lose_nothing() -> None:
    """A red key is something to take, a tool and red; what has no attributes stays."""
    schema = minigrid.minigrid_codecs("t", *spaces())[0].schema
    channels = Channels(schema, "attributes", "t")
    planes = np.zeros((1, *schema.shape), np.uint8)
    for name in ("object:key", "colour:red"):
        planes[0, schema.names.index(name), 2, 3] = 1
    seen = np.empty((1, *channels.schema.shape), np.uint8)
    channels.show(planes, seen)
    names = [channels.schema.names[k] for k in np.flatnonzero(seen[0, :, 2, 3])]
    assert sorted(names) == ["is_colour", "is_pickup", "is_red", "is_solid", "is_tool"]
    assert {"object:unseen", "object:empty", "object:floor"} <= set(channels.schema.names)


def test_bounds() -> None:
    door_key, dynamic = (
        envs.bounds(Task(f"envpool/{i}")) for i in ("MiniGrid-DoorKey-6x6-v0", "MiniGrid-Dynamic-Obstacles-8x8-v0")
    )
    assert door_key is not None
    assert dynamic is not None
    assert (door_key.random, door_key.expert) == (0.0, 1.0)
    assert "0.018" in door_key.how
    assert dynamic.normalise(-1.0) == 0.0
    local = envs.bounds(Task("minigrid:BabyAI-GoToLocal-v0"))
    assert local is not None
    assert (local.random, local.expert) == (0.17, 1.0)
    assert envs.bounds(Task("envpool/BabyAI-BossLevel-v0")) is None
    assert envs.bounds(Task("envpool/MountainCarContinuous-v0")) is None
