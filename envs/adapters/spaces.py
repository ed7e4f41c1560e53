"""Codecs: a library's observation and action spaces as schemas, and the conversion of its arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from graft.envs.core.schema import ActionSchema, ObservationKind, ObservationSchema, joined, uint8_schema
from graft.envs.core.task import BatchOptions, TaskVectorEnv, check_autoreset
from graft.errors import GraftError

Array = NDArray[Any]
CHANNELS = (1, 3, 4)  # numbers of channels that make a three-dimensional box of bytes an image


class ObservationCodec(NamedTuple):
    """A schema, and the function from a library's batch (N, *raw) to a new array (N, *schema.shape)."""

    schema: ObservationSchema
    encode: Callable[[Array], Array]


class ActionCodec(NamedTuple):
    """A schema, and the function from actions of that schema, (N,) or (N, n), to what the library takes."""

    schema: ActionSchema
    decode: Callable[[Array], Array]


def index_names(task: str, stem: str, count: int) -> tuple[str, ...]:
    """``("Maze.obs_0", "Maze.obs_1", ...)``: names where a library knows none.

    They carry the task's name, without its version, because feature 3 of one game is not feature 3 of another.
    """
    game = re.sub(r"-v\d+$", "", task.removeprefix("envpool/").rpartition(":")[2])
    return tuple(f"{game}.{stem}_{i}" for i in range(count))


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


def _bounds(values: Array) -> tuple[float, ...]:
    """Flat bounds as float32 sees them: its largest number means unbounded, and -0.0 is 0.0."""
    with np.errstate(over="ignore"):
        cast = np.asarray(values).astype(np.float32).astype(np.float64).ravel() + 0.0
    largest = float(np.finfo(np.float32).max)
    return tuple(math.copysign(math.inf, v) if abs(v) >= largest else float(v) for v in cast)


def _named(names: tuple[str, ...] | None, task: str, stem: str, count: int) -> tuple[str, ...]:
    return names if names is not None and len(names) == count else index_names(task, stem, count)


def _vector(task: str, low: Array, high: Array, names: tuple[str, ...] | None) -> ObservationSchema:
    count = int(np.size(low))
    found = _named(names, task, "obs", count)
    return ObservationSchema("vector", found, ((),) * count, (count,), "float32", _bounds(low), _bounds(high))


def _flatten(raw: Array) -> Array:
    return raw.reshape(len(raw), -1).astype(np.float32)


def _image(task: str, space: gym.spaces.Box) -> ObservationCodec | None:
    """The codec of a box of bytes or flags in the shape of an image, or None for any other box."""
    if space.dtype not in (np.uint8, np.bool_) or len(space.shape) not in (2, 3):
        return None
    order: tuple[int, ...] | None
    shape: tuple[int, ...]
    if len(space.shape) == 2:
        order, shape = None, (1, *space.shape)
    elif space.shape[2] in CHANNELS or bool(np.all(space.high == 1)):
        order, shape = (0, 3, 1, 2), (space.shape[2], *space.shape[:2])
    elif space.shape[0] in CHANNELS:
        order, shape = (0, 1, 2, 3), space.shape
    else:
        return None
    high = float(space.high.max())
    kind: ObservationKind = "planes" if high == 1 else "pixels"

    def encode(raw: Array) -> Array:
        batch = raw[:, None] if order is None else raw.transpose(order)
        return np.array(batch, np.uint8, order="C")

    count = shape[0]
    colours = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}
    if kind == "planes":
        names = index_names(task, "plane", count)
    elif order in (None, (0, 3, 1, 2)):
        names = colours[count]
    else:
        names = tuple(f"frame_{i}" for i in range(count))
    return ObservationCodec(uint8_schema(kind, names, shape, high if kind == "planes" else 255), encode)


def observation_codec(task: str, space: gym.Space[Any], names: tuple[str, ...] | None = None) -> ObservationCodec:
    """The codec of observations of ``space``.

    Args:
        space: a one-dimensional Box or a Box of reals becomes a float32 vector (n,); a Box of bytes in the form of an
            image becomes pixels (C, H, W), or planes where its highest value is 1; Discrete becomes one-hot float32,
            MultiDiscrete several of them, MultiBinary zeros and ones. Dict and Tuple, nested or not, become `parts`;
            their batches are dictionaries and tuples of arrays (N, ...).
        names: of the features of a vector, used where there are as many.
    Raises:
        GraftError: any other space.
    """
    if isinstance(space, gym.spaces.Discrete):
        start, count = int(space.start), int(space.n)
        one_hot = np.eye(count, dtype=np.float32)
        schema = _vector(task, np.zeros(count), np.ones(count), names)
        return ObservationCodec(schema, lambda raw: one_hot[np.asarray(raw).reshape(-1) - start])
    if isinstance(space, gym.spaces.MultiDiscrete):
        sizes, starts = space.nvec.ravel(), space.start.ravel()
        rows = [np.eye(int(size), dtype=np.float32) for size in sizes]
        schema = _vector(task, np.zeros(int(sizes.sum())), np.ones(int(sizes.sum())), names)

        def encode(raw: Array) -> Array:
            flat = raw.reshape(len(raw), -1) - starts
            return np.concatenate([row[flat[:, i]] for i, row in enumerate(rows)], 1)

        return ObservationCodec(schema, encode)
    if isinstance(space, gym.spaces.MultiBinary):
        flags = np.zeros(space.shape)
        return ObservationCodec(_vector(task, flags, flags + 1, names), _flatten)
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return parts_codec(task, space, {})
    if isinstance(space, gym.spaces.Box):
        image = _image(task, space)
        if image is not None:
            return image
        if len(space.shape) == 1 or np.issubdtype(space.dtype, np.floating):
            return ObservationCodec(_vector(task, space.low, space.high, names), _flatten)
    raise GraftError(
        f"Observations of '{task}' are {space}; allowed: a Box of reals, a uint8 image Box with 1, 3 or 4 channels, "
        f"Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these, so wrap it in one of them and register "
        f"the wrapped environment."
    )


def _leaves(space: gym.Space[Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], gym.Space[Any]]]:
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        for key, inner in space.items() if isinstance(space, gym.spaces.Dict) else enumerate(space):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, space


class Part(NamedTuple):
    """A leaf of a Dict or a Tuple: its keys from the outside in, its space and its codec."""

    path: tuple[Any, ...]
    space: gym.Space[Any]
    codec: ObservationCodec


def parts_of(task: str, space: gym.Space[Any], names: Mapping[str, tuple[str, ...]]) -> dict[str, Part]:
    """The parts of a Dict or a Tuple by name, ``names`` of features by part; raises GraftError as `parts_codec`."""
    parts: dict[str, Part] = {}
    for path, inner in _leaves(space):
        name = "/".join(str(key).replace(".", "_") for key in path)
        if name in parts:
            raise GraftError(f"'{task}' shows two parts that are called '{name}' here; give one another key.")
        try:
            parts[name] = Part(path, inner, observation_codec(task, inner, names.get(name)))
        except GraftError as error:
            raise GraftError(f"Part '{name}' of what '{task}' shows cannot be shown. {error}") from error
    return parts


def parts_codec(task: str, space: gym.Space[Any], names: Mapping[str, tuple[str, ...]]) -> ObservationCodec:
    """The codec of a Dict or a Tuple, ``names`` by part; raises GraftError for a part that can't be shown."""
    parts = parts_of(task, space, names)
    schema = joined({name: part.codec.schema for name, part in parts.items()})

    def encode(raw: Any) -> Array:
        found = []
        for path, _, codec in parts.values():
            part = raw
            for key in path:
                part = part[key]
            found.append(codec.encode(np.asarray(part)))
        return np.concatenate([part.reshape(len(part), -1) for part in found], 1, dtype=schema.dtype)

    return ObservationCodec(schema, encode)


def action_codec(task: str, space: gym.Space[Any], names: tuple[str, ...] | None = None) -> ActionCodec:
    """The codec of actions of ``space``: Discrete as indices from 0, a Box of reals as a flat vector.

    MultiDiscrete and MultiBinary are several choices at once, (N, M) indices from 0. ``names`` are used where there are
    as many. Raises GraftError for any other space.
    """
    if isinstance(space, gym.spaces.Discrete):
        start = int(space.start)
        discrete = ActionSchema("discrete", _named(names, task, "action", int(space.n)))
        return ActionCodec(discrete, lambda actions: actions.astype(np.int64) + start)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        shape, dtype = space.shape, space.dtype
        box = ActionSchema(
            "box", _named(names, task, "action", math.prod(shape)), _bounds(space.low), _bounds(space.high)
        )
        return ActionCodec(box, lambda actions: actions.astype(dtype).reshape(-1, *shape))
    if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return _choices(task, space, names)
    raise GraftError(
        f"Actions of '{task}' are {space}; allowed: Discrete, MultiDiscrete, MultiBinary or a Box of reals, so wrap it "
        f"in one of these and register the wrapped environment."
    )


def _choices(
    task: str, space: gym.spaces.MultiDiscrete | gym.spaces.MultiBinary, names: tuple[str, ...] | None
) -> ActionCodec:
    shape, dtype = space.shape, space.dtype
    if isinstance(space, gym.spaces.MultiDiscrete):
        sizes, starts = tuple(map(int, space.nvec.ravel())), space.start.ravel()
    else:
        sizes, starts = (2,) * math.prod(shape), np.zeros(math.prod(shape), np.int64)
    if names is None or len(names) != sum(sizes):
        stems = index_names(task, "action", len(sizes))
        names = tuple(f"{stem}={i}" for stem, size in zip(stems, sizes, strict=True) for i in range(size))
    schema = ActionSchema("multi", names, sizes=sizes)
    return ActionCodec(schema, lambda actions: (actions + starts).astype(dtype).reshape(-1, *shape))


class AdaptedVectorEnv(TaskVectorEnv):
    """A batch of a library's environments: codecs, seeds and the autoreset convention."""

    def __init__(self, options: BatchOptions, observation: ObservationCodec, action: ActionCodec) -> None:
        self._same_step = check_autoreset(options.autoreset) is AutoresetMode.SAME_STEP
        self.metadata = {"autoreset_mode": options.autoreset, "render_modes": []}
        self._encode, self._decode = observation.encode, action.decode
        self._set_schemas(options.num_envs, observation.schema, action.schema)
        self._first_seed: int | None = options.seed

    def _seeds(self, seed: int | list[int | None] | None) -> list[int | None]:
        """One seed per environment; None goes on with the running random numbers."""
        if seed is None:
            seed = self._first_seed
        self._first_seed = None
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise GraftError(f"{len(seed)} seeds were given for {self.num_envs} environments; give one for each.")
        return list(seed)

    def _chosen(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        """Which environments a reset is for: all, or those of ``options["reset_mask"]`` (N,)."""
        mask = (options or {}).get("reset_mask")
        return np.ones(self.num_envs, np.bool_) if mask is None else np.array(mask, np.bool_)
