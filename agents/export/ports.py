"""Inputs and outputs of an exported policy: names, shapes and bounds, and how recorded observations become inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from graft.agents.parity import Array
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas

Arrays = dict[str, Array]

OBS, MASKS = "obs", "action_masks"

FLAT = "all numbers of the observation, one after the other"


class Port(NamedTuple):
    """One input or output of a model.

    Attributes:
        name, shape, dtype: of the tensor; the shape is without the batch axis, which comes first and has any length.
        names: of the entries along the first dimension of ``shape``; empty where they have none.
        low, high: bounds by name; None is unbounded.
        meaning: a sentence.
        sampled: whether it differs from run to run.
        parts: of a flat input, what lies where: a name, ``offset``, shape and what else a port has, as JSON values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    names: tuple[str, ...] = ()
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    meaning: str = ""
    sampled: bool = False
    parts: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the first entry of ``shape`` is the word batch."""
        data = {key: value for key, value in self._asdict().items() if value not in ((), "", False)}
        return data | {"shape": ["batch", *self.shape]}


@dataclass(frozen=True)
class Interface:
    """A module with named inputs and outputs, and what they mean for recorded observations.

    Attributes:
        module: takes the inputs in order, each (N, *shape), and returns the outputs as a tuple.
        feed: observations (N, *obs_shape) of the task -> inputs by name.
        decode: outputs by name -> actions as the task takes them, (N,) or (N, A): what the consumer plays.
        expected: the network's scores (N, A) and, of box actions, logarithms of standard deviations (N, A) -> what
            further outputs have to be, by name; computed without ``module``.
        constants: outputs without a batch axis, which are no ports.
        sampling: a sentence: how a consumer draws actions instead of taking the most likely one.
        notes: sentences about what the consumer does with the model.
    """

    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    feed: Callable[[Array], Arrays]
    decode: Callable[[Mapping[str, Array]], Array]
    expected: Callable[[Array, Array | None], Arrays] = lambda scores, log_std: {}
    constants: Mapping[str, Array] = field(default_factory=dict)
    sampling: str = ""
    notes: tuple[str, ...] = ()


def leaves(observation: ObservationSchema) -> dict[str, ObservationSchema]:
    """What an observation consists of, by the names of inputs: ``obs``, or ``obs_<part>`` of each part; no flags."""
    seen = observation.plain
    return {f"{OBS}_{name}": part for name, part in seen.parts} if seen.parts else {OBS: seen}


def split_leaves(observation: ObservationSchema, obs: Array) -> Arrays:
    """Observations (N, *shape) as the arrays of `leaves`, each of its own shape and dtype."""
    parts = leaves(observation)
    flat, found, start = obs.reshape(len(obs), -1), {}, 0
    for name, part in parts.items():
        size = math.prod(part.shape)
        found[name] = flat[:, start : start + size].reshape(-1, *part.shape).astype(part.dtype)
        start += size
    return found


def allowed_actions(schemas: Schemas, obs: Array) -> Array:
    """The masks of observations, (N, A) float32: 1 is allowed, 0 forbidden."""
    forbidden = schemas.forbidden(obs)
    if forbidden is None:
        return np.ones((len(obs), len(schemas.action.names)), np.float32)
    masks: Array = 1 - forbidden.astype(np.float32)
    return masks


def leaf_ports(observation: ObservationSchema) -> tuple[Port, ...]:
    """A port for each leaf, in the dtype that the task shows."""
    return tuple(
        Port(name, part.shape, part.dtype, part.names, _bounds(part.low), _bounds(part.high), _meaning(part))
        for name, part in leaves(observation).items()
    )


def mask_port(actions: ActionSchema) -> Port:
    """The port of action masks."""
    size = len(actions.names)
    meaning = "1 where an action is allowed, 0 where it is forbidden"
    return Port(MASKS, (size,), "float32", actions.names, (0.0,) * size, (1.0,) * size, meaning)


def action_port(name: str, actions: ActionSchema) -> Port:
    """The port of the action that is played."""
    if actions.kind == "box":
        low, high = _bounds(actions.low), _bounds(actions.high)
        meaning = "the mean action in the environment's numbers, within its bounds"
        return Port(name, (len(actions.names),), "float32", actions.names, low, high, meaning)
    if actions.kind == "multi":
        meaning = f"an index for each choice, from 0; the choices have {', '.join(map(str, actions.sizes))} values"
        return Port(name, (len(actions.sizes),), "int64", meaning=meaning)
    return Port(name, (), "int64", meaning="index of the action among the names of the contract's actions, from 0")


def _meaning(part: ObservationSchema) -> str:
    if part.kind == "pixels":
        return "a picture, channels first, from 0 to 255"
    return "planes by row and column, channels first" if part.kind == "planes" else "numbers as the task shows them"


def _bounds(values: tuple[float, ...]) -> tuple[float | None, ...]:
    return tuple(v if math.isfinite(v) else None for v in values)
