"""Random nested spaces: what a codec shows, decoded by its names alone, is what was given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from graft.envs.adapters.spaces import observation_codec
from graft.envs.core.schema import ObservationSchema

Box = gym.spaces.Box
DTYPES = (np.uint8, np.bool_, np.int8, np.int32, np.int64, np.float32, np.float64)


def random_box(dice: np.random.Generator) -> gym.spaces.Box:
    shape = tuple(dice.integers(1, 7, dice.integers(0, 5)).tolist())
    if len(shape) == 3 and dice.random() < 0.2:
        shape = (36, 40, 3)
    dtype = DTYPES[int(dice.integers(len(DTYPES)))]
    if dtype is np.bool_:
        return Box(0, 1, shape, dtype)
    if np.issubdtype(dtype, np.floating):
        low = float(dice.choice([0.0, -1.0, -7.5, -np.inf]))
        return Box(low, float(dice.choice([1.0, 255.0, np.inf])), shape, dtype)
    low, high = sorted(dice.choice([0, 1, 3, 40, 127] if dtype is np.int8 else [0, 1, 3, 40, 255], 2, replace=False))
    return Box(-low if dtype is not np.uint8 else low, high, shape, dtype)


def random_space(dice: np.random.Generator, depth: int = 2) -> gym.Space[Any]:
    kind = int(dice.integers(6 if depth else 4))
    if kind == 0:
        return gym.spaces.Discrete(int(dice.integers(1, 9)), start=int(dice.integers(-4, 5)))
    if kind == 1:
        sizes = dice.integers(1, 5, tuple(dice.integers(1, 3, dice.integers(1, 3))))
        return gym.spaces.MultiDiscrete(sizes, start=dice.integers(-3, 4, sizes.shape))
    if kind == 2:
        return gym.spaces.MultiBinary(tuple(dice.integers(1, 4, dice.integers(1, 3)).tolist()))
    if kind == 3:
        return random_box(dice)
    inner = [random_space(dice, depth - 1) for _ in range(int(dice.integers(1, 4)))]
    if kind == 4:
        return gym.spaces.Tuple(inner)
    return gym.spaces.Dict({f"part{i}": one for i, one in enumerate(inner)})


def leaves(space: gym.Space[Any], value: Any) -> Iterator[tuple[gym.Space[Any], Any]]:
    if isinstance(space, gym.spaces.Dict):
        for key, inner in space.items():
            yield from leaves(inner, value[key])
    elif isinstance(space, gym.spaces.Tuple):
        for inner, own in zip(space, value, strict=True):
            yield from leaves(inner, own)
    else:
        yield space, value


def decoded(schema: ObservationSchema, space: gym.Space[Any], shown: Any, side: str) -> Any:
    """What a leaf was, from the numbers that are shown of it."""
    values = [name.rpartition("=") for name in schema.names]
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        on = [(entry, int(value)) for (entry, _, value), one in zip(values, shown, strict=True) if one]
        assert len({entry for entry, _ in on}) == len(on)
        return np.reshape([value for _, value in on], space.shape)
    if schema.kind == "vector":
        return np.reshape(shown, space.shape)
    if schema.names[0].rpartition("=")[0]:
        codes = np.array([int(value) for _, _, value in values])
        entries = len(dict.fromkeys(entry for entry, _, _ in values))
        ones = np.reshape(shown, (entries, -1, *schema.shape[1:]))
        assert (ones.sum(1) == 1).all()
        shown = np.take(codes[: ones.shape[1]], ones.argmax(1))
    elif not np.issubdtype(space.dtype, np.integer) and space.dtype != np.bool_ and schema.high[0] in (1.0, 255.0):
        low, high = float(space.low.min()), float(space.high.max())
        if not (schema.kind == "planes" and low >= -1 and high <= 1):
            shown = shown / schema.high[0] * (high - low) + low
    assert space.shape is not None
    frames = space.shape[0] if len(space.shape) == 4 else 1
    apart = np.reshape(shown, (frames, -1, *schema.shape[1:]))
    arranged = apart if side == "first" else np.moveaxis(apart, 1, 3)
    return np.reshape(arranged, space.shape)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_shown_is_what_was_given(seed: int) -> None:
    dice, parts = np.random.default_rng(seed), 0
    for number in range(150):
        side = ("first", "last")[number % 2]
        space = random_space(dice)
        while not isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
            space = random_space(dice)
        space.seed(number)
        codec = observation_codec("Any-v0", space, channels=side)
        value = space.sample()
        shown = codec.encode(batch_of_one(value))[0]
        assert codec.schema.space().contains(shown)
        pieces = np.split(shown, np.cumsum([np.prod(part.shape, dtype=int) for _, part in codec.schema.parts])[:-1])
        for (inner, given), (_, part), piece in zip(leaves(space, value), codec.schema.parts, pieces, strict=True):
            found = decoded(part, inner, np.reshape(piece, part.shape), side)
            np.testing.assert_allclose(found, np.asarray(given, np.float64), rtol=1e-5, atol=1e-3)
            parts += 1
    assert parts > 300


def batch_of_one(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: batch_of_one(part) for key, part in value.items()}
    return tuple(map(batch_of_one, value)) if isinstance(value, tuple) else np.asarray(value)[None]
