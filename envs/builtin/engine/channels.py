"""The keyword `channels`: planes of things by name, planes of their attributes (deadly, solid ...), or both."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.envs.builtin.engine.compile import standalone
from graft.envs.builtin.engine.entities import MARK
from graft.envs.core.observation_wrapper import ObservationWrapper
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.task import TaskVectorEnv
from graft.errors import GraftError, unknown

KEYWORD = "channels"
NAMES, ATTRIBUTES, BOTH = CHOICES = ("names", "attributes", "both")
PREFIX = MARK  # begins the names of channels that stand for an attribute


class Channels:
    """How planes (C, H, W) are shown by ``choice``.

    A channel ``is_deadly`` is the maximum over all planes with the attribute ``deadly``, and has that attribute alone.
    Planes without attributes, or with those of another plane, keep a channel of their own, so that nothing is lost (the
    words of a mission); under ``both`` all planes do.

    Args:
        schema: of the planes. choice: ``names``, ``attributes`` or ``both``. task: id, for messages.
    Attributes:
        schema: of what is shown. plain: whether that is the planes themselves.
    Raises:
        GraftError: an unknown choice, observations that are no planes, or planes of which none has attributes.
    """

    def __init__(self, schema: ObservationSchema, choice: Any, task: str) -> None:
        if choice not in CHOICES:
            raise unknown(f"channels of {task}", str(choice), CHOICES)
        self.schema, self.plain = schema, choice == NAMES
        if self.plain:
            return
        words = dict.fromkeys(word for own in schema.attributes for word in own)
        if schema.kind != "planes" or not words:
            shown = "planes without attributes" if schema.kind == "planes" else f"{schema.kind}, not planes"
            raise GraftError(
                f"channels={choice} of {task} is not possible: it shows {shown}; give channels: {NAMES}"
                f"{', or attributes in its schema' if schema.kind == 'planes' else ''}."
            )
        alike = Counter(schema.attributes)
        kept = [i for i, own in enumerate(schema.attributes) if choice == BOTH or not own or alike[own] > 1]
        sources = {schema.names[i]: [i] for i in kept}
        meanings = {schema.names[i]: schema.attributes[i] for i in kept}
        for word in words:
            sources[f"{PREFIX}{word}"] = [i for i, own in enumerate(schema.attributes) if word in own]
            meanings[f"{PREFIX}{word}"] = (word,)
        self.schema = replace(
            schema,
            names=tuple(sources),
            attributes=tuple(meanings.values()),
            shape=(len(sources), *schema.shape[1:]),
            low=tuple(max(schema.low[i] for i in planes) for planes in sources.values()),
            high=tuple(max(schema.high[i] for i in planes) for planes in sources.values()),
        )
        self._planes = np.array([i for planes in sources.values() for i in planes])
        self._ends = np.cumsum([len(planes) for planes in sources.values()])

    def show(self, planes: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the channels (N, K, H, W) of ``planes`` (N, C, H, W)."""
        flat, seen = (array.reshape(*array.shape[:2], math.prod(array.shape[2:])) for array in (planes, out))
        _gather(flat, self._planes, self._ends, seen)


@standalone
def _gather(planes: Any, members: Any, ends: Any, out: Any) -> None:
    """Channel k of ``out`` (N, K, cells) is the maximum over ``members`` from the last end to ``ends[k]``."""
    for i in range(planes.shape[0]):
        first = 0
        for k in range(ends.size):
            plane = members[first]  # read once: to the compiler, what is written could be `members`
            for x in range(planes.shape[2]):
                out[i, k, x] = planes[i, plane, x]
            for m in range(first + 1, ends[k]):
                plane = members[m]
                for x in range(planes.shape[2]):
                    out[i, k, x] = max(out[i, k, x], planes[i, plane, x])
            first = ends[k]


class ChannelsObservation(ObservationWrapper):
    """A batch of planes shown by their attributes; raises GraftError as `Channels`."""

    def __init__(self, env: TaskVectorEnv, choice: Any, task: str) -> None:
        self._env = env  # first of all: gymnasium closes what is thrown away, even half made
        self._channels = Channels(env.observation_schema, choice, task)
        super().__init__(env, self._channels.schema)

    def _shown(self, obs: Any) -> Any:
        if self._channels.plain:
            return obs
        seen = np.empty((len(obs), *self.observation_schema.shape), self.observation_schema.dtype)
        self._channels.show(np.ascontiguousarray(obs), seen)
        return seen
