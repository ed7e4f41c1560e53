"""Codecs: a library's observation and action spaces as schemas, and the conversion of its arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from graft.envs.adapters.images import Channels, image_codec
from graft.envs.adapters.names import frame_names, game_name, index_names, value_names
from graft.envs.core.naming import CHANNELS
from graft.envs.core.schema import ActionSchema, ObservationSchema, joined
from graft.envs.core.task import BatchOptions, TaskVectorEnv, check_autoreset
from graft.errors import GraftError, unknown

Array = NDArray[Any]


class ObservationCodec(NamedTuple):
    """A schema, and the function from a library's batch (N, *raw) to a new array (N, *schema.shape)."""

    schema: ObservationSchema
    encode: Callable[[Array], Array]


class ActionCodec(NamedTuple):
    """A schema, and the function from actions of that schema, (N,) or (N, n), to what the library takes."""

    schema: ActionSchema
    decode: Callable[[Array], Array]


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


def metadata_of(env: Any) -> dict[str, Any]:
    """The metadata of other people's environment, or of its class; empty where it has none, or something else."""
    found = getattr(env, "metadata", None)
    return dict(found) if isinstance(found, Mapping) else {}


def _bounds(values: Array) -> tuple[float, ...]:
    """Flat bounds as float32 sees them: its largest number means unbounded, and -0.0 is 0.0."""
    with np.errstate(over="ignore"):
        cast = np.asarray(values).astype(np.float32).astype(np.float64).ravel() + 0.0
    largest = float(np.finfo(np.float32).max)
    return tuple(math.copysign(math.inf, v) if abs(v) >= largest else float(v) for v in cast)


def _named(names: tuple[str, ...] | None, task: str, stem: str, count: int, start: int = 0) -> tuple[str, ...]:
    return names if names is not None and len(names) == count else index_names(task, stem, count, start)


def _vector(
    task: str, space: gym.spaces.Box | gym.spaces.MultiBinary, given: tuple[str, ...] | None
) -> ObservationCodec:
    """Numbers as they are, one after the other; ``given`` may name those of one frame of a stack (frames, n)."""
    if isinstance(space, gym.spaces.Box):
        low, high = space.low, space.high
    else:
        low, high = np.zeros(space.shape), np.ones(space.shape)
    count, frames = int(np.size(low)), space.shape[0] if len(space.shape) == 2 else 1
    if given is not None and len(given) * frames == count and frames > 1:
        given = frame_names(given, frames)
    names = _named(given, task, "obs", count)
    schema = ObservationSchema("vector", names, ((),) * count, (count,), "float32", _bounds(low), _bounds(high))
    return ObservationCodec(schema, lambda raw: raw.reshape(len(raw), -1).astype(np.float32))


def _one_hots(entries: tuple[str, ...], starts: Any, sizes: Any, given: tuple[str, ...] | None) -> ObservationCodec:
    """Categories (N, entries) or (N,) as ones among zeros, (N, sum of the sizes)."""
    starts, sizes = np.asarray(starts, np.int64).ravel(), np.asarray(sizes, np.int64).ravel()
    values = [range(first, first + size) for first, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
    names, width = value_names(entries, values, given), int(sizes.sum())
    schema = ObservationSchema("vector", names, ((),) * width, (width,), "float32", (0.0,) * width, (1.0,) * width)
    places = np.cumsum(sizes) - sizes - starts

    def encode(raw: Array) -> Array:
        ones = np.asarray(raw).reshape(len(raw), -1).astype(np.int64) + places
        found = np.zeros((len(raw), width), np.float32)
        np.put_along_axis(found, ones, 1.0, 1)
        return found

    return ObservationCodec(schema, encode)


def observation_codec(task: str, space: gym.Space[Any], names: Any = None, channels: Any = None) -> ObservationCodec:
    """The codec of observations of ``space``.

    Args:
        space: Discrete becomes one-hot float32, MultiDiscrete several of them, MultiBinary zeros and ones. A Box that
            is a board or a picture becomes planes or pixels (C, H, W), see `image_codec`; any other a float32 vector
            (n,). Dict and Tuple, nested or not, become `parts`; their batches are dictionaries and tuples of arrays
            (N, ...).
        names: of features, of channels, of values or of what holds these; used where there are as many. Of parts,
            part -> names.
        channels: ``first`` or ``last`` of the sides of a picture, where the user says so. Of parts, also part -> one of
            these.
    Raises:
        GraftError: any other space, a picture whose channels could come first or last, ``channels`` of what has none.
    """
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return parts_codec(task, space, names if isinstance(names, Mapping) else {}, channels)
    if channels is not None and not _has_channels(space):
        raise GraftError(
            f"schema of {task}: {CHANNELS}: {channels} is for pictures of three sides or a stack of these, and "
            f"observations are {space}; leave it out."
        )
    if isinstance(space, gym.spaces.Box) and (image := image_codec(task, space, names, channels)) is not None:
        return ObservationCodec(*image)
    if isinstance(space, gym.spaces.Discrete):
        return _one_hots((f"{game_name(task)}.obs",), space.start, space.n, names)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return _one_hots(index_names(task, "obs", space.nvec.size), space.start, space.nvec, names)
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        return _vector(task, space, names)
    raise GraftError(
        f"Observations of '{task}' are {space}; allowed: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple "
        f"of these, so wrap it in one of them and register the wrapped environment."
    )


def _leaves(space: gym.Space[Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], gym.Space[Any]]]:
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        for key, inner in space.items() if isinstance(space, gym.spaces.Dict) else enumerate(space):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, space


def _part_name(path: tuple[Any, ...]) -> str:
    """What a leaf of nested dictionaries and tuples is called: its keys, as in ``body/gear``."""
    return "/".join(str(key).replace(".", "_") for key in path)


def _has_channels(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Box) and len(space.shape) in (3, 4)


def _channels_of_parts(task: str, leaves: Mapping[Any, gym.Space[Any]], given: Any) -> dict[str, Channels]:
    """Part -> where its channels are, as ``given`` says: a word is for every picture."""
    pictures = [_part_name(path) for path, space in leaves.items() if _has_channels(space)]
    if not isinstance(given, Mapping):
        return dict.fromkeys(pictures, given) if given is not None else {}
    for name in given:
        if name not in pictures:
            raise unknown(f"picture in {CHANNELS} of {task}", str(name), pictures)
    return dict(given)


class Part(NamedTuple):
    """A leaf of a Dict or a Tuple: its keys from the outside in, its space and its codec."""

    path: tuple[Any, ...]
    space: gym.Space[Any]
    codec: ObservationCodec


def parts_of(
    task: str, space: gym.Space[Any], names: Mapping[str, tuple[str, ...]], channels: Any = None
) -> dict[str, Part]:
    """The parts of a Dict or a Tuple by name; ``names`` and ``channels`` are by part. Raises as `parts_codec`."""
    leaves, parts = dict(_leaves(space)), dict[str, Part]()
    asked = _channels_of_parts(task, leaves, channels)
    for path, inner in leaves.items():
        name = _part_name(path)
        if name in parts:
            raise GraftError(f"'{task}' shows two parts that are called '{name}' here; give one another key.")
        try:
            parts[name] = Part(path, inner, observation_codec(task, inner, names.get(name), asked.get(name)))
        except GraftError as error:
            raise GraftError(f"Part '{name}' of what '{task}' shows cannot be shown. {error}") from error
    return parts


def parts_codec(
    task: str, space: gym.Space[Any], names: Mapping[str, tuple[str, ...]], channels: Any = None
) -> ObservationCodec:
    """The codec of a Dict or a Tuple, ``names`` by part; raises GraftError for a part that can't be shown."""
    parts = parts_of(task, space, names, channels)
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

    MultiDiscrete and MultiBinary are several choices at once, (N, M) indices from 0; ``names`` may be those of the
    choices or of all their values, and are used where there are as many. Without, values are named as the library
    counts them, so that its first number may change. Raises GraftError for any other space.
    """
    if isinstance(space, gym.spaces.Discrete):
        start = int(space.start)
        discrete = ActionSchema("discrete", _named(names, task, "action", int(space.n), start))
        return ActionCodec(discrete, lambda actions: actions.astype(np.int64) + start)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        named = _named(names, task, "action", math.prod(space.shape))
        return ActionCodec(ActionSchema("box", named, _bounds(space.low), _bounds(space.high)), partial(_reals, space))
    if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return _choices(task, space, names)
    raise GraftError(
        f"Actions of '{task}' are {space}; allowed: Discrete, MultiDiscrete, MultiBinary or a Box of reals, so wrap it "
        f"in one of these and register the wrapped environment."
    )


def _reals(space: gym.spaces.Box, actions: Array) -> Array:
    """Actions (N, n) as (N, *shape) of the space's dtype; bounds that float32 has rounded are the space's own."""
    found = actions.astype(space.dtype).reshape(-1, *space.shape)
    for bound in (space.low, space.high):
        with np.errstate(over="ignore"):
            rounded = bound.astype(np.float32).astype(space.dtype)
        if not np.array_equal(rounded, bound):
            found = np.where(found == rounded, bound, found)
    return found


def _choices(
    task: str, space: gym.spaces.MultiDiscrete | gym.spaces.MultiBinary, names: tuple[str, ...] | None
) -> ActionCodec:
    shape, dtype = space.shape, space.dtype
    if isinstance(space, gym.spaces.MultiDiscrete):
        sizes, starts = tuple(map(int, space.nvec.ravel())), space.start.ravel()
    else:
        sizes, starts = (2,) * math.prod(shape), np.zeros(math.prod(shape), np.int64)
    values = [range(int(start), int(start) + size) for start, size in zip(starts, sizes, strict=True)]
    named = value_names(index_names(task, "action", len(sizes)), values, names)
    schema = ActionSchema("multi", named, sizes=sizes)
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
