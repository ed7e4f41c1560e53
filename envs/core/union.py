"""One observation schema for several tasks: the union of their names; what a task does not show is zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graft.envs.core.observation_wrapper import ObservationWrapper
from graft.envs.core.schema import ObservationSchema, joined, masked
from graft.envs.core.task import TaskVectorEnv
from graft.errors import GraftError


def union(schemas: Sequence[ObservationSchema]) -> ObservationSchema:
    """The schema that holds every name of ``schemas``, in the order in which they first appear.

    A name has all attributes that any of them gives it; its bounds span theirs, and zero where a schema lacks it.
    Raises GraftError for different kinds, dtypes or boards.
    """
    if any(schema.flags for schema in schemas):
        flags = dict.fromkeys(flag for schema in schemas for flag in schema.flags)
        return masked(union([schema.plain for schema in schemas]), tuple(flags))
    first = schemas[0]
    if all(schema.parts for schema in schemas):
        found: dict[str, list[ObservationSchema]] = {}
        for schema in schemas:
            for name, part in schema.parts:
                found.setdefault(name, []).append(part)
        shown = {name: union(parts) for name, parts in found.items()}
        return joined({name: s if len(found[name]) == len(schemas) else _reaching_zero(s) for name, s in shown.items()})
    for other in schemas[1:]:
        mine = (first.kind, first.dtype, first.shape[1:])
        theirs = (other.kind, other.dtype, other.shape[1:])
        if mine != theirs:
            raise GraftError(
                f"These observations have no union: {first.kind} of {first.dtype} and shape {first.shape}, "
                f"and {other.kind} of {other.dtype} and shape {other.shape}; only their names may differ."
            )
    attributes: dict[str, set[str]] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    everywhere = set(first.names).intersection(*(s.names for s in schemas))
    for schema in schemas:
        for i, name in enumerate(schema.names):
            attributes.setdefault(name, set()).update(schema.attributes[i])
            missing = [] if name in everywhere else [0.0]
            low[name] = min([schema.low[i], *missing, *([low[name]] if name in low else [])])
            high[name] = max([schema.high[i], *missing, *([high[name]] if name in high else [])])
    names = tuple(attributes)
    return replace(
        first,
        names=names,
        attributes=tuple(tuple(sorted(attributes[name])) for name in names),
        shape=(len(names), *first.shape[1:]),
        low=tuple(low[name] for name in names),
        high=tuple(high[name] for name in names),
    )


def _reaching_zero(schema: ObservationSchema) -> ObservationSchema:
    low, high = (min(0.0, bound) for bound in schema.low), (max(0.0, bound) for bound in schema.high)
    return replace(schema, low=tuple(low), high=tuple(high))


def holds(schema: ObservationSchema, own: ObservationSchema) -> bool:
    """Whether observations of ``own`` can be laid out as ``schema``, with zeros for what they lack.

    Those with flags of forbidden actions must be equal, as the flags are those of one task's actions.
    """
    if schema.flags or own.flags:
        return schema == own
    try:
        return set(own.names) <= set(schema.names) and union([schema, own]).shape == schema.shape
    except GraftError:
        return False


class UnionObservation(ObservationWrapper):
    """A batch whose observations are laid out as ``schema``, by name, with zeros for names that it lacks.

    Raises GraftError for a name that ``schema`` lacks, or has in another form.
    """

    def __init__(self, env: TaskVectorEnv, schema: ObservationSchema) -> None:
        self._env = env  # first of all: gymnasium closes what is thrown away, even half made
        own = env.observation_schema
        if set(own.names) - set(schema.names) or union([schema, own]).shape != schema.shape:
            raise GraftError(
                f"Observations {', '.join(own.names)} do not fit into {', '.join(schema.names)}; "
                f"give a schema that holds them all."
            )
        places = schema.places
        index = {name: place for place, name in enumerate(schema.names)}
        wanted = [places[index[name]] for name in own.names]
        self._places = np.concatenate([np.arange(place.start, place.stop) for place in wanted])
        super().__init__(env, schema)

    def _shown(self, obs: Any) -> Any:
        wide = np.zeros((len(obs), *self.observation_schema.shape), self.observation_schema.dtype)
        wide[:, self._places] = obs.reshape(len(obs), -1) if self.observation_schema.flags else obs
        return wide
