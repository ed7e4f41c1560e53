"""Observations that are dictionaries or tuples: every part is checked, then packed into one array."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from graft.envs.adapters.spaces import ObservationCodec, observation_codec, parts_of
from graft.envs.core.schema import joined
from graft.envs.supervision.observation_check import ObservationCheck
from graft.envs.supervision.restarts import EnvFailure


class PartsCheck(ObservationCheck):
    """Checks the parts of an observation and packs them one after the other; ``codec`` is of batches of the result.

    Types, shapes, whole numbers and categories are checked before a part is packed; reals afterwards, at once.

    Args:
        names: part -> names of its features, where its author gave them. strict: as of `ObservationCheck`.
        channels: of pictures, as of `observation_codec`.
    Raises:
        GraftError: a part that can't be shown.
    """

    packs = True

    def __init__(
        self,
        task: str,
        space: gym.Space[Any],
        strict: bool,
        names: Mapping[str, tuple[str, ...]],
        channels: Any = None,
    ) -> None:
        parts = parts_of(task, space, names, channels)
        schema = joined({name: part.codec.schema for name, part in parts.items()})
        cells = [place.stop - place.start for place in schema.places]
        entries = tuple(name for name, count in zip(schema.names, cells, strict=True) for _ in range(count))
        super().__init__(schema.space(), strict=False, names=entries)
        self.codec = ObservationCodec(schema, np.copy)
        self._parts, start, spans = [], 0, []
        for name, (path, inner, codec) in parts.items():
            plain = codec.schema.kind == "vector" and isinstance(inner, gym.spaces.Box | gym.spaces.MultiBinary)
            features = tuple(f"{name}/{feature}" for feature in codec.schema.names) if plain else ()
            check = ObservationCheck(inner, strict, name, features, self.clips)
            place = slice(start, start + math.prod(codec.schema.shape))
            start = place.stop
            # Of categories that are planes, bounds say nothing about what is packed.
            later = check.dtype.kind == "f" and math.prod(codec.schema.shape) == math.prod(check.shape)
            self._parts.append((path, check, check.fitting if later else check.read, plain, codec.encode, place))
            if later:
                self.low[place], self.high[place] = (codec.encode(end[None]).ravel() for end in (check.low, check.high))
                spans.append(place)
        self.spans, self.checks = _merged(spans), bool(spans)

    def fitting(self, shown: Any) -> Any:
        row = np.empty(self.shape, self.dtype)
        with np.errstate(over="ignore"):  # what becomes infinite is found later
            for path, check, read, plain, encode, place in self._parts:
                part = shown
                try:
                    for key in path:
                        part = part[key]
                except (KeyError, IndexError, TypeError):
                    raise EnvFailure("outside", f"part '{check.part}' of the observation is missing") from None
                values = read(part)
                row[place] = values.reshape(-1) if plain else encode(values[None]).reshape(-1)
        return row


def _merged(spans: Sequence[slice]) -> tuple[slice, ...]:
    """Ascending slices, those that touch as one."""
    found: list[slice] = []
    for span in spans:
        if found and found[-1].stop == span.start:
            found[-1] = slice(found[-1].start, span.stop)
        else:
            found.append(span)
    return tuple(found)


class PartCheck(ObservationCheck):
    """Checks one part of observations that are dictionaries, which alone is shown."""

    packs = True

    def __init__(self, space: gym.spaces.Dict, part: str, strict: bool) -> None:
        super().__init__(space[part], strict, part)

    def fitting(self, shown: Any) -> Any:
        return super().fitting(part_of(shown, self.part))


def part_of(shown: Any, part: str) -> Any:
    """The part of a dictionary; raises EnvFailure where it is missing."""
    try:
        return shown[part]
    except (KeyError, IndexError, TypeError):
        raise EnvFailure("outside", f"part '{part}' of the observation is missing") from None


def check_and_codec(
    task: str,
    space: gym.Space[Any],
    strict: bool,
    names: tuple[str, ...] | None = None,
    parts: Mapping[str, tuple[str, ...]] | None = None,
    channels: Any = None,
) -> tuple[ObservationCheck, ObservationCodec]:
    """The check of single observations and the codec of their batches.

    ``names`` are of the features of one array, ``parts`` those of a Dict or Tuple, ``channels`` of pictures as of
    `observation_codec`; raises GraftError for other spaces.
    """
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        packed = PartsCheck(task, space, strict, parts or {}, channels)
        return packed, packed.codec
    codec = observation_codec(task, space, names, channels)
    vector = isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary) and codec.schema.kind == "vector"
    return ObservationCheck(space, strict, names=codec.schema.names if vector else ()), codec
