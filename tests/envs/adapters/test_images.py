"""Boxes that are boards or pictures: which side counts channels, names, and values against indexing by hand."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from graft.envs import GraftError
from graft.envs.adapters.images import channels_first
from graft.envs.adapters.spaces import observation_codec

Box = gym.spaces.Box
RGB = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        ((5, 10, 10), True),
        ((10, 10, 5), False),
        ((111, 8, 8), True),  # chess has more planes than a side has squares
        ((8, 8, 111), False),
        ((3, 210, 160), True),
        ((210, 160, 3), False),
        ((12, 210, 160), True),
        ((6, 7, 2), False),
        ((2, 6, 7), True),
        ((1, 3, 3), True),
        ((3, 3, 1), False),
        ((10, 10, 10), None),
        ((5, 10, 20), None),
        ((4, 5, 3), None),
        ((8, 9, 8), None),
    ],
)
def test_sides_decide_or_nobody_can(shape: tuple[int, ...], first: bool | None) -> None:
    assert channels_first(shape) is first


@pytest.mark.parametrize(("shape", "said"), [((5, 10, 10), None), ((5, 10, 20), "first"), ((10, 20, 5), "last")])
def test_planes_are_what_the_environment_painted(shape: tuple[int, ...], said: str | None) -> None:
    raw = np.random.default_rng(0).integers(0, 2, (3, *shape), np.uint8)
    codec = observation_codec("Game-v0", Box(0, 1, shape, np.uint8), channels=said)
    shown = codec.encode(raw)
    assert shown.shape[1:] == codec.schema.shape
    assert codec.schema.names == tuple(f"Game.plane_{i}" for i in range(5))
    for channel in range(5):
        np.testing.assert_array_equal(shown[:, channel], raw[..., channel] if said == "last" else raw[:, channel])


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_where_channels_could_be_first_or_last_the_user_is_asked(dtype: type[Any]) -> None:
    space = Box(0, 1, (5, 10, 20), dtype)
    with pytest.raises(GraftError, match=r"'t' have the shape \(5, 10, 20\).*channels: first.*channels: last"):
        observation_codec("t", space)
    both = gym.spaces.Dict({"left": space, "right": Box(0, 1, (2,), np.float32), "up": space})
    with pytest.raises(GraftError, match=r"Part 'left' of what 't' shows cannot be shown.*channels: first"):
        observation_codec("t", both)
    shapes = [
        part.shape for _, part in observation_codec("t", both, channels={"left": "first", "up": "last"}).schema.parts
    ]
    assert shapes == [(5, 10, 20), (2,), (20, 5, 10)]
    with pytest.raises(GraftError, match=r"Unknown picture in channels of t 'righ'; allowed: left, up"):
        observation_codec("t", both, channels={"righ": "first"})
    with pytest.raises(GraftError, match="channels: last is for pictures of three sides"):
        observation_codec("t", Box(0, 1, (5,), np.float32), channels="last")


def test_minatars_boards_have_their_channels_last() -> None:
    schema = observation_codec("MinAtar/Seaquest-v1", Box(0, 1, (10, 10, 10), np.bool_)).schema
    raw = np.zeros((1, 10, 10, 10), np.bool_)
    raw[0, 2, 3, 7] = True
    codec = observation_codec("MinAtar/Seaquest-v1", Box(0, 1, (10, 10, 10), np.bool_))
    assert codec.encode(raw)[0, 7, 2, 3] == 1
    assert schema.names[7] == "MinAtar/Seaquest.plane_7"


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((20, 20), ("grey",)),
        ((20, 20, 3), RGB),
        ((3, 20, 20), RGB),
        ((20, 20, 4), ("frame_0", "frame_1", "frame_2", "frame_3")),
        ((2, 20, 20), ("G.channel_0", "G.channel_1")),
        ((4, 20, 20, 1), ("frame_0", "frame_1", "frame_2", "frame_3")),
        ((2, 20, 20, 3), tuple(f"frame_{i}:{colour}" for i in range(2) for colour in RGB)),
        ((2, 3, 20, 20), tuple(f"frame_{i}:{colour}" for i in range(2) for colour in RGB)),
    ],
)
def test_names_of_pictures(shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    codec = observation_codec("G-v0", Box(0, 255, shape, np.uint8))
    assert (codec.schema.kind, codec.schema.names) == ("pixels", names)
    raw = np.random.default_rng(1).integers(0, 256, (2, *shape), np.uint8)
    shown = codec.encode(raw)
    by_hand = {2: lambda c: raw, 3: lambda c: raw[..., c] if shape[0] == 20 else raw[:, c]}
    if len(shape) < 4:
        for c in range(len(names)):
            np.testing.assert_array_equal(shown[:, c], by_hand[len(shape)](c))
    else:
        count = len(names) // shape[0]
        for k in range(len(names)):
            frame = raw[:, k // count]
            np.testing.assert_array_equal(shown[:, k], frame[..., k % count] if shape[1] == 20 else frame[:, k % count])


@pytest.mark.parametrize(
    ("space", "given", "names"),
    [
        (Box(0, 1, (2, 9, 9), np.uint8), ("wall", "me"), ("wall", "me")),
        (Box(0, 255, (40, 40, 2), np.uint8), ("depth", "heat"), ("depth", "heat")),
        (Box(0, 255, (2, 40, 40, 2), np.uint8), ("a", "b"), ("frame_0:a", "frame_0:b", "frame_1:a", "frame_1:b")),
        (Box(0, 2, (9, 9), np.uint8), ("thing",), ("thing=0", "thing=1", "thing=2")),
        (Box(0, 2, (9, 9), np.uint8), ("none", "wall", "me"), ("none", "wall", "me")),
        (Box(-1.0, 1.0, (3, 2), np.float32), ("x", "v"), tuple(f"frame_{i}:{n}" for i in range(3) for n in "xv")),
    ],
)
def test_names_of_an_author_are_used(space: Box, given: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert observation_codec("t", space, given).schema.names == names


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_codes_are_a_plane_for_each_value(dtype: type[Any]) -> None:
    low = 0 if dtype is np.uint8 else -1
    codec = observation_codec("Board-v3", Box(low, low + 3, (6, 7), dtype))
    raw = np.random.default_rng(2).integers(low, low + 4, (5, 6, 7)).astype(dtype)
    shown = codec.encode(raw)
    assert codec.schema.names == tuple(f"Board.cell={value}" for value in range(low, low + 4))
    assert (codec.schema.kind, codec.schema.shape, shown.dtype) == ("planes", (4, 6, 7), np.uint8)
    np.testing.assert_array_equal(shown.argmax(1) + low, raw)
    assert (shown.sum(1) == 1).all()


def test_codes_of_several_channels() -> None:
    codec = observation_codec("Board", Box(0, 2, (6, 6, 2), np.int16))
    raw = np.random.default_rng(2).integers(0, 3, (5, 6, 6, 2)).astype(np.int16)
    assert codec.schema.names[:4] == ("Board.cell_0=0", "Board.cell_0=1", "Board.cell_0=2", "Board.cell_1=0")
    np.testing.assert_array_equal(codec.encode(raw).reshape(5, 2, 3, 6, 6).argmax(2), raw.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-2.0, 6.0)])
@pytest.mark.parametrize("side", [8, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pictures_of_reals_are_scaled_by_their_bounds(low: float, high: float, side: int, dtype: type[Any]) -> None:
    codec = observation_codec("t", Box(low, high, (side, side, 3), dtype))
    raw = np.random.default_rng(3).uniform(low, high, (2, side, side, 3)).astype(dtype)
    shown, most = codec.encode(raw), 255.0 if side == 40 else 1.0
    assert codec.schema.kind == ("pixels" if side == 40 else "planes")
    assert codec.schema.names == (RGB if side == 40 else ("t.plane_0", "t.plane_1", "t.plane_2"))
    kept = side == 8 and low >= -1 and high <= 1
    expected = raw if kept else (raw - low) / (high - low) * most
    np.testing.assert_allclose(shown, expected.transpose(0, 3, 1, 2), atol=1e-4 * most)
    assert all(codec.schema.space().contains(one) for one in shown)


@pytest.mark.parametrize(
    "space",
    [
        Box(-np.inf, np.inf, (3, 8, 8), np.float32),  # no bounds to scale by
        Box(-1e6, 1e6, (3, 8, 8), np.float32),
        Box(-1.0, 1.0, (4, 3, 2), np.float32),  # no board
        Box(0, 10**6, (8, 8), np.int64),
        Box(0.0, 1.0, (10, 5), np.float32),
        Box(0, 9, (), np.int32),
        Box(0, 255, (2, 2, 2, 2, 2), np.uint8),
    ],
)
def test_everything_else_is_a_vector(space: Box) -> None:
    codec = observation_codec("t", space)
    raw = np.stack([space.sample(), space.sample()])
    assert codec.schema.kind == "vector"
    np.testing.assert_array_equal(codec.encode(raw), raw.reshape(2, -1).astype(np.float32))
