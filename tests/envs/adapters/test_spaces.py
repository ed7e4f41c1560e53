"""Third-party spaces as schemas: images, vectors, numbers and actions, and what is refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from graft.envs import GraftError
from graft.envs.adapters.spaces import action_codec, observation_codec

Box = gym.spaces.Box


def test_image_becomes_channels_first_pixels() -> None:
    codec = observation_codec("t", Box(0, 255, (6, 5, 3), np.uint8))
    image = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
    assert (codec.schema.kind, codec.schema.shape, codec.schema.names) == (
        "pixels",
        (3, 6, 5),
        ("red", "green", "blue"),
    )
    assert codec.encode(image)[1, 2, 3, 4] == image[1, 3, 4, 2]
    assert not np.shares_memory(codec.encode(image), image)


@pytest.mark.parametrize(
    ("shape", "high", "kind", "shown"),
    [
        ((8, 9, 1), 255, "pixels", (1, 8, 9)),
        ((8, 9, 4), 255, "pixels", (4, 8, 9)),
        ((8, 9), 255, "pixels", (1, 8, 9)),
        ((4, 84, 84), 255, "pixels", (4, 84, 84)),  # a stack of frames, channels first already
        ((10, 10, 6), 1, "planes", (6, 10, 10)),
    ],
)
def test_byte_boxes(shape: tuple[int, ...], high: int, kind: str, shown: tuple[int, ...]) -> None:
    space = Box(0, high, shape, np.uint8)
    codec = observation_codec("t", space)
    assert (codec.schema.kind, codec.schema.shape) == (kind, shown)
    batch = np.stack([space.sample(), space.sample()])
    out = codec.encode(batch)
    assert all(codec.schema.space().contains(o) for o in out)
    assert out.sum() == batch.sum()
    assert not np.shares_memory(out, batch)


def test_matrix_of_reals_becomes_a_vector_with_index_names() -> None:
    space = Box(np.array([[-0.0, 1.0], [2.0, -np.inf]]), np.array([[1.0, 2.0], [1e300, np.inf]]), dtype=np.float64)
    codec = observation_codec("t", space, names=("one",))
    assert codec.schema.names == ("t.obs_0", "t.obs_1", "t.obs_2", "t.obs_3")
    assert codec.schema.low == (0.0, 1.0, 2.0, -np.inf)
    assert str(codec.schema.low[0]) == "0.0"
    assert codec.schema.high == (1.0, 2.0, np.inf, np.inf)
    assert codec.encode(np.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_index_names_belong_to_a_game_whatever_its_version_and_library() -> None:
    ids = ("Maze-v0", "Maze-v12", "envpool/Maze-v1", "package:Maze-v0")
    assert {observation_codec(i, Box(0.0, 1.0, (2,))).schema.names for i in ids} == {("Maze.obs_0", "Maze.obs_1")}


def test_discrete_observation_becomes_one_hot() -> None:
    codec = observation_codec("t", gym.spaces.Discrete(3, start=-1))
    assert codec.encode(np.array([-1, 1])).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert codec.schema.names == ("t.obs=-1", "t.obs=0", "t.obs=1")


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_categories_are_named_by_entry_and_value(dtype: type[Any]) -> None:
    space = gym.spaces.MultiDiscrete(np.array([[2, 3]]), start=np.array([[5, 0]]), dtype=dtype)
    codec = observation_codec("Game-v1", space)
    names = ("Game.obs_0=5", "Game.obs_0=6", "Game.obs_1=0", "Game.obs_1=1", "Game.obs_1=2")
    assert codec.schema.names == names
    for raw in (space.sample() for _ in range(20)):
        ones = {name for name, value in zip(names, codec.encode(raw[None])[0], strict=True) if value}
        assert ones == {f"Game.obs_0={raw[0, 0]}", f"Game.obs_1={raw[0, 1]}"}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (("gear", "door"), ("gear=1", "gear=2", "door=0", "door=1")),
        (("low", "high", "shut", "open"), ("low", "high", "shut", "open")),
        (("gear",), ("t.obs_0=1", "t.obs_0=2", "t.obs_1=0", "t.obs_1=1")),
    ],
)
def test_names_of_entries_or_of_all_their_values(given: tuple[str, ...], names: tuple[str, ...]) -> None:
    space = gym.spaces.MultiDiscrete([2, 2], start=[1, 0])
    assert observation_codec("t", space, given).schema.names == names


def test_many_categories_take_no_more_memory_than_what_is_shown() -> None:
    codec = observation_codec("t", gym.spaces.Discrete(20_000))
    tracemalloc.start()
    shown = codec.encode(np.array([19_999, 0]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.argwhere(shown).tolist() == [[0, 19_999], [1, 0]]
    assert peak < 10 * shown.nbytes


def test_actions_are_named_as_the_library_counts_them() -> None:
    assert action_codec("t", gym.spaces.Discrete(2, start=3)).schema.names == ("t.action_3", "t.action_4")
    choices = action_codec("t", gym.spaces.MultiDiscrete([2, 1], start=[1, -1])).schema
    assert choices.names == ("t.action_0=1", "t.action_0=2", "t.action_1=-1")


def test_integer_vector_becomes_float32() -> None:
    out = observation_codec("t", Box(0, 9, (2,), np.int64)).encode(np.array([[3, 4]]))
    assert out.dtype == np.float32
    assert out.tolist() == [[3.0, 4.0]]


def test_box_actions_are_flat_outside_and_shaped_inside() -> None:
    codec = action_codec("t", Box(-1.0, np.array([[1.0, 2.0], [3.0, 4.0]]), dtype=np.float64))
    assert codec.schema.high == (1.0, 2.0, 3.0, 4.0)
    assert codec.schema.names == ("t.action_0", "t.action_1", "t.action_2", "t.action_3")
    assert codec.decode(np.array([[1, 2, 3, 4]], np.float32)).tolist() == [[[1.0, 2.0], [3.0, 4.0]]]


@pytest.mark.parametrize("space", [gym.spaces.Text(3), Box(0, 3, (2,), np.int64)])
def test_other_actions_are_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(GraftError, match=r"Actions of 't' are .*; allowed: Discrete, MultiDiscrete, MultiBinary"):
        action_codec("t", space)
