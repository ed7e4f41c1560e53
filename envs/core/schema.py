"""Schemas: names, attributes, shapes and bounds of what a task shows and accepts; transfer goes by the names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from graft.envs.core.options import sentence
from graft.errors import GraftError

S = TypeVar("S")

ObservationKind = Literal["planes", "pixels", "vector", "parts", "masked"]
ActionKind = Literal["discrete", "multi", "box"]

SEEN, FORBIDDEN = "observation", "forbidden"  # the parts of a masked observation


def _finite(bounds: tuple[float, ...]) -> list[float | None]:
    return [b if math.isfinite(b) else None for b in bounds]


def _bounds(values: list[float | None], infinite: float) -> tuple[float, ...]:
    return tuple(infinite if v is None else float(v) for v in values)


def _checked(adapter: TypeAdapter[S], data: Mapping[str, Any]) -> S:
    try:
        return adapter.validate_python(_with_bounds(data))
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))
        own = detail.get("ctx", {}).get("error")  # of what is checked when a schema is made
        raise own if isinstance(own, GraftError) else GraftError(sentence(f"schema: {where}", detail)) from error


def _with_bounds(data: Mapping[str, Any]) -> dict[str, Any]:
    """A schema's JSON, and that of its parts, with infinite bounds for null."""
    parts = {"parts": [(name, _with_bounds(part)) for name, part in data["parts"]]} if "parts" in data else {}
    bounds = {"low": _bounds(data["low"], -math.inf), "high": _bounds(data["high"], math.inf)}
    return {**data, **bounds, **parts}


@dataclass(frozen=True)
class ObservationSchema:
    """What one observation holds.

    Attributes:
        kind: ``planes`` (C, H, W) with one named plane per channel; ``pixels`` (C, H, W) in [0, 255];
            ``vector`` (n,) with one named feature per entry; ``parts``: several of these, flattened one after the
            other into one vector (`joined`); ``masked``: one of all these, flattened, and then which actions are
            forbidden (`masked`), which is no feature: networks split it off.
        names: one per channel or feature, unique; of parts, ``<part>/<name>``.
        attributes: what each channel *means*, in words shared between games ("deadly", "solid", "pickup",
            "mobile", "self", ...), sorted; empty where nothing is known.
        shape: of one observation, channels first.
        dtype: numpy name of the observation's dtype.
        low, high: bounds per channel or feature; infinite where unbounded.
        parts: name -> schema of each part, in their order; empty for the other kinds.
    """

    kind: ObservationKind
    names: tuple[str, ...]
    attributes: tuple[tuple[str, ...], ...]
    shape: tuple[int, ...]
    dtype: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    parts: tuple[tuple[str, ObservationSchema], ...] = ()

    def __post_init__(self) -> None:
        channels = sum(len(part.names) for _, part in self.parts) if self.parts else self.shape[0]
        sizes = {len(self.names), len(self.attributes), len(self.low), len(self.high), channels}
        if len(sizes) != 1:
            raise GraftError(
                f"An observation of shape {self.shape} needs one name, attribute set and bound per channel, "
                f"got {len(self.names)} names, {len(self.attributes)} attribute sets and {len(self.low)} bounds."
            )
        if len(set(self.names)) != len(self.names):
            raise GraftError(f"Observation names must be unique, got {', '.join(self.names)}.")

    def space(self) -> gym.spaces.Box:
        if self.parts:
            boxes = [part.space() for _, part in self.parts]
            low, high = (np.concatenate([getattr(b, end).ravel() for b in boxes]) for end in ("low", "high"))
            return gym.spaces.Box(low.astype(self.dtype), high.astype(self.dtype), dtype=np.dtype(self.dtype).type)
        per_channel = (-1,) + (1,) * (len(self.shape) - 1)
        ends = (np.reshape(end, per_channel) for end in (self.low, self.high))
        low, high = (np.broadcast_to(end, self.shape).astype(self.dtype) for end in ends)
        return gym.spaces.Box(low, high, self.shape, np.dtype(self.dtype).type)

    @property
    def places(self) -> list[slice]:
        """Of each name, where its numbers are along an observation's first dimension."""
        cells = [count for _, part in self.parts for count in part._cells] or [1] * len(self.names)
        ends = np.cumsum(cells).tolist()
        return [slice(end - count, end) for end, count in zip(ends, cells, strict=True)]

    @property
    def _cells(self) -> list[int]:
        """Of each name, how many numbers it has."""
        within = [count for _, part in self.parts for count in part._cells]
        return within or [math.prod(self.shape[1:])] * len(self.names)

    @property
    def plain(self) -> ObservationSchema:
        """Without the flags of forbidden actions: what an encoder reads."""
        return self.parts[0][1] if self.kind == "masked" else self

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the flags of forbidden actions at its end, ``forbidden/<action>``; none unless it is masked."""
        return self.parts[1][1].names if self.kind == "masked" else ()

    def extended(self, names: tuple[str, ...], attribute: str) -> ObservationSchema:
        """With more channels or features from 0 to 1, ``names``, at the end."""
        count, (channels, *size) = len(names), self.shape
        return replace(
            self,
            names=self.names + names,
            attributes=self.attributes + ((attribute,),) * count,
            shape=(channels + count, *size),
            low=self.low + (0.0,) * count,
            high=self.high + (1.0,) * count,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; infinite bounds become null, ``parts`` stand only where there are some."""
        data = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "parts"}
        data |= {"low": _finite(self.low), "high": _finite(self.high)}
        return data | {"parts": [[name, part.to_json()] for name, part in self.parts]} if self.parts else data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ObservationSchema:
        """Of `to_json`; raises GraftError, KeyError, TypeError or ValueError for anything else."""
        return _checked(_OBSERVATION, data)


def uint8_schema(
    kind: ObservationKind,
    names: tuple[str, ...],
    shape: tuple[int, ...],
    high: float,
    attributes: tuple[tuple[str, ...], ...] | None = None,
) -> ObservationSchema:
    """Channels of bytes from 0 to ``high``; without attributes where none are given."""
    count = len(names)
    return ObservationSchema(
        kind, names, attributes or ((),) * count, shape, "uint8", (0.0,) * count, (float(high),) * count
    )


def joined(parts: Mapping[str, ObservationSchema]) -> ObservationSchema:
    """The schema of several parts, bytes where all are bytes, else float32; raises GraftError for none, or nested."""
    if not parts or any(part.parts for part in parts.values()):
        raise GraftError("An observation of parts needs one or more of them, none of which has parts itself.")
    schemas = list(parts.values())
    return ObservationSchema(
        kind="parts",
        names=tuple(f"{name}/{channel}" for name, part in parts.items() for channel in part.names),
        attributes=tuple(words for part in schemas for words in part.attributes),
        shape=(sum(math.prod(part.shape) for part in schemas),),
        dtype="uint8" if all(part.dtype == "uint8" for part in schemas) else "float32",
        low=tuple(bound for part in schemas for bound in part.low),
        high=tuple(bound for part in schemas for bound in part.high),
        parts=tuple(parts.items()),
    )


def masked(observation: ObservationSchema, flags: Sequence[str]) -> ObservationSchema:
    """The schema of observations that are followed by ``flags``, a number for each: 1 where an action is forbidden.

    So 0 is allowed, and what lays observations out by name and fills up with zeros forbids nothing. ``flags`` are of
    `flag_names`; those of ``observation`` itself, where it is masked, are replaced.
    """
    plain, count, dtype = observation.plain, len(flags), observation.dtype
    own = ObservationSchema("vector", tuple(flags), ((),) * count, (count,), dtype, (0.0,) * count, (1.0,) * count)
    return ObservationSchema(
        kind="masked",
        names=plain.names + own.names,
        attributes=plain.attributes + own.attributes,
        shape=(math.prod(plain.shape) + count,),
        dtype=dtype,
        low=plain.low + own.low,
        high=plain.high + own.high,
        parts=((SEEN, plain), (FORBIDDEN, own)),
    )


def flag_names(actions: ActionSchema) -> tuple[str, ...]:
    """The flags of all actions, ``forbidden/<action>``."""
    return tuple(f"{FORBIDDEN}/{name}" for name in actions.names)


@dataclass(frozen=True)
class ActionSchema:
    """What one action is: ``discrete`` (an index into ``names``), ``multi`` (several such indices at once), or ``box``
    (one bounded real per name).

    ``low`` and ``high`` are per name for ``box`` and else empty. ``sizes`` of ``multi`` are the numbers of choices of
    each index, whose names follow each other; it is empty for the others.
    """

    kind: ActionKind
    names: tuple[str, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise GraftError(f"Action names must be unique, got {', '.join(self.names)}.")
        if self.kind == "box" and not len(self.low) == len(self.high) == len(self.names):
            raise GraftError(f"A box of {len(self.names)} actions needs as many bounds, got {len(self.low)}.")
        if self.kind != "box" and (self.low or self.high):
            raise GraftError(f"Actions that are {self.kind} have no bounds, got {len(self.low) + len(self.high)}.")
        if self.kind == "multi" and (sum(self.sizes) != len(self.names) or min(self.sizes, default=0) < 1):
            raise GraftError(f"Choices {self.sizes} need a name each, got {len(self.names)} names.")

    def space(self) -> gym.Space[Any]:
        if self.kind == "discrete":
            return gym.spaces.Discrete(len(self.names))
        if self.kind == "multi":
            return gym.spaces.MultiDiscrete(list(self.sizes))
        return gym.spaces.Box(np.array(self.low, np.float32), np.array(self.high, np.float32))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; infinite bounds become null, ``sizes`` stand only where there are some."""
        data = asdict(self) | {"low": _finite(self.low), "high": _finite(self.high)}
        return data if self.sizes else {key: value for key, value in data.items() if key != "sizes"}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ActionSchema:
        """As `ObservationSchema.from_json`."""
        return _checked(_ACTION, data)


_OBSERVATION, _ACTION = TypeAdapter(ObservationSchema), TypeAdapter(ActionSchema)


@lru_cache(maxsize=64)
def _flag_places(flags: tuple[str, ...], actions: ActionSchema) -> NDArray[np.int64]:
    """See `Schemas.flag_places`; asked for in every step, and chess has thousands of actions."""
    places = {name: place for place, name in enumerate(flags)}
    return np.array([places.get(name, -1) for name in flag_names(actions)], np.int64)


class Schemas(NamedTuple):
    """Both schemas of a task: what a network is built from."""

    observation: ObservationSchema
    action: ActionSchema

    @property
    def flag_places(self) -> list[int]:
        """Of each action, where its flag is among those of the observation; -1 where it has none and is allowed."""
        places: list[int] = _flag_places(self.observation.flags, self.action).tolist()
        return places

    def forbidden(self, obs: Any) -> Any:
        """Which actions observations (..., *shape) forbid, (..., A) booleans; None where they are not masked."""
        if not (count := len(self.observation.flags)):
            return None
        allowed = np.zeros((*obs.shape[:-1], 1), np.bool_)
        places = _flag_places(self.observation.flags, self.action)
        return np.concatenate([obs[..., -count:] > 0, allowed], -1)[..., places]
