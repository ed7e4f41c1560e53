"""Whether a row of Graft's, decoded by its names and bounds, holds what a library's environment showed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from graft.envs.adapters.masks import has_mask, rest_of, without_mask
from graft.envs.adapters.minigrid.adapter import encode
from graft.envs.core.action_masks import MASK
from graft.envs.core.schema import ObservationSchema

Array = NDArray[Any]


class Masked(NamedTuple):
    """An observation without its mask, and the mask: what is allowed, or None where nothing is to be chosen, so that
    the mask says nothing.
    """

    observation: Any
    mask: Any


def seen(raw: Any, info: Any, idle: bool) -> Masked:
    """What a masked environment showed, whose mask is a part of it or in its info.

    Args:
        idle: nothing is to be chosen: the episode has ended, or it is another agent's turn.
    """
    if isinstance(raw, Mapping) and MASK in raw:
        space = gym.spaces.Dict(dict.fromkeys(raw, gym.spaces.Discrete(1)))  # which is asked for its keys
        return Masked(copied(without_mask(raw, space)), None if idle else np.array(raw[MASK]))
    return Masked(copied(raw), None if idle else copied(info[MASK]))


def copied(raw: Any) -> Any:
    """An observation that the environment can't change any more."""
    if isinstance(raw, Mapping):
        return {key: copied(part) for key, part in raw.items()}
    if isinstance(raw, tuple):
        return tuple(map(copied, raw))
    return np.array(raw) if isinstance(raw, np.ndarray) else raw


def shown_space(space: Any, schema: ObservationSchema) -> Any:
    """A library's space of observations, without the mask where ``schema`` has flags for it."""
    return rest_of(space) if schema.kind == "masked" and has_mask(space) else space


def shows(schema: ObservationSchema, space: Any, row: Array, raw: Any, world: bool = False) -> bool:
    """Whether ``row``, an observation of Graft's under ``schema``, holds the numbers of ``raw``, one of ``space``.

    It goes by the names and bounds of the schema. Of MiniGrid's worlds (``world``) the picture is looked at.
    Where actions are masked, ``raw`` is `Masked`.
    """
    if isinstance(raw, Masked):
        row, forbidden = np.split(row, [len(row) - len(schema.flags)])
        if raw.mask is not None and not np.array_equal(forbidden, 1 - np.hstack([*map(np.ravel, raw.mask)])):
            return False
        return shows(schema.plain, space, row, raw.observation, world)
    if world and isinstance(raw, Mapping):
        picture = np.asarray(raw["image"])
        if schema.kind == "planes":
            planes = encode(picture[None])[0]
            return np.array_equal(row[: len(planes)], planes)
        space, raw = space["image"], picture
    leaves = list(_leaves(space, raw))
    parts = [part for _, part in schema.parts] or [schema]
    sizes = np.cumsum([int(np.prod(part.shape)) for part in parts])
    pieces = np.split(np.ravel(row), sizes[:-1])
    return len(leaves) == len(parts) and all(
        _leaf_shows(part, leaf, piece.reshape(part.shape), value)
        for part, (leaf, value), piece in zip(parts, leaves, pieces, strict=True)
    )


def _leaves(space: Any, raw: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        for key, inner in space.items() if isinstance(space, gym.spaces.Dict) else enumerate(space):
            yield from _leaves(inner, raw[key])
    else:
        yield space, raw


def _leaf_shows(schema: ObservationSchema, space: Any, shown: Array, raw: Any) -> bool:
    values = np.asarray(raw)
    names = [name.rpartition("=") for name in schema.names]
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        on = [int(value) for (_, _, value), one in zip(names, shown, strict=True) if one]
        return on == values.ravel().tolist() and set(np.unique(shown)) <= {0.0, 1.0}
    if isinstance(space, gym.spaces.Box):
        values = np.clip(values, space.low, space.high)
    if schema.kind == "vector":
        loose = np.asarray(raw, np.float32).ravel()  # where bounds are those of usual play
        return any(np.allclose(shown, v.astype(np.float32).ravel(), rtol=1e-6, atol=0) for v in (values, loose))
    if names[0][0]:  # a plane for each value of each channel
        entries = len(dict.fromkeys(entry for entry, _, _ in names))
        planes = shown.reshape(entries, -1, *shown.shape[1:])
        if not (planes.sum(1) == 1).all():
            return False
        shown = np.take([int(value) for _, _, value in names[: planes.shape[1]]], planes.argmax(1))
    elif space.dtype.kind == "f":
        low, high = float(space.low.min()), float(space.high.max())
        as_bounds = shown / schema.high[0] * (high - low) + low
        return _same_picture(shown, values) or _same_picture(as_bounds, values)
    return _same_picture(shown, values)


def _same_picture(shown: Array, values: Array) -> bool:
    """Whether planes (C, H, W) are an array of two to four sides, whose channels may come first or last."""
    stacked = values if values.ndim == 4 else values.reshape(1, *values.shape)
    if values.ndim == 2:
        stacked = values.reshape(1, 1, *values.shape)
    sides = [stacked, np.moveaxis(stacked, -1, 1)]
    return any(
        np.prod(side.shape[:2]) == shown.shape[0]
        and side.shape[2:] == shown.shape[1:]
        and np.allclose(shown, side.reshape(shown.shape), rtol=1e-4, atol=1e-3)
        for side in sides
    )
