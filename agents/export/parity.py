"""Whether an exported model does what the network does: the same actions and the same numbers, on recorded states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.agents.export.ports import Arrays, Interface
from graft.agents.export.recording import CHUNK, Recording
from graft.agents.networks.policy_network import split_choices
from graft.envs.core.schema import ActionSchema
from graft.errors import GraftError

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Arrays]
"""Inputs by name, (N, *shape) -> outputs by name."""

TOLERANCE = 1e-5
"""Largest difference of two numbers, times the larger of 1 and the largest of them; float32 rounds to 6e-8."""

SINGLE = 16  # states that are also run one by one
FORBIDDEN = -1e7  # scores below it are of forbidden actions


class Parity(NamedTuple):
    """How close a model is: states, where they are from, the largest difference of an action or a number (as a share
    of the tolerance's scale), and in how many states two actions were equally good within it."""

    states: int
    source: str
    largest_difference: float
    near_ties: int

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "tolerance": TOLERANCE}


def check(interface: Interface, run: Run, recording: Recording, actions: ActionSchema, what: str) -> Parity:
    """Compare a model with the network; raises GraftError that says where they differ.

    Args:
        run: the exported model.
        what: the model, for messages.
    """
    count = len(recording.observations)
    alone = [slice(i, i + 1) for i in range(min(SINGLE, count))]
    chunks = [slice(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    largest, ties = 0.0, 0
    for rows in alone + chunks:
        inputs = interface.feed(recording.observations[rows])
        found, expected = run(inputs), interface.run_torch(inputs)
        for port in interface.outputs:
            if not port.sampled and port.dtype == "float32":
                largest = max(largest, _numbers(found[port.name], expected[port.name], port.name, what, rows.start))
        scores = recording.outputs.action[rows]
        off, tied = _actions(interface.decode(found), recording.actions[rows], scores, actions, what, rows.start)
        largest, ties = max(largest, off), ties + (tied if rows in chunks else 0)
    return Parity(count, recording.source, largest, ties)


def _numbers(found: Array, expected: Array, name: str, what: str, start: int) -> float:
    if found.shape != expected.shape:
        raise GraftError(f"{what} gives {name} the shape {found.shape}, and the network {expected.shape}.")
    usual = expected[np.abs(expected) < -FORBIDDEN]
    scale = max(1.0, float(np.abs(usual).max(initial=0)))
    off = np.where(expected < FORBIDDEN, np.where(found < FORBIDDEN, 0, np.inf), np.abs(found - expected)) / scale
    _refuse(off, found, expected, name, what, start)
    return float(off.max(initial=0))


def _actions(
    found: Array, expected: Array, scores: Any, actions: ActionSchema, what: str, start: int
) -> tuple[float, int]:
    """The largest difference of box actions, or the number of states in which two indices are equally good."""
    if found.shape != expected.shape:
        raise GraftError(f"{what} gives actions of shape {found.shape}, and evaluation plays {expected.shape}.")
    if actions.kind == "box":
        off = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
        _refuse(off, found, expected, "action", what, start)
        return float(off.max(initial=0)), 0
    choices = split_choices(scores, actions.sizes)
    mine, theirs = found.reshape(len(found), -1), expected.reshape(len(expected), -1)
    off = np.zeros(mine.shape)
    for index, part in enumerate(choices):
        values, rows = part.numpy(), np.arange(len(found))
        gap = values[rows, theirs[:, index]] - values[rows, mine[:, index]]
        off[:, index] = np.abs(gap) / np.maximum(1.0, np.abs(values[rows, theirs[:, index]]))
    off = np.where(mine == theirs, 0, off)
    _refuse(off, mine, theirs, "action", what, start)
    return float(off.max(initial=0)), int((mine != theirs).any(1).sum())


def _refuse(off: Array, found: Array, expected: Array, name: str, what: str, start: int) -> None:
    """Raise GraftError at the first state where something is off by more than the tolerance, or is no number."""
    wrong = ~(off <= TOLERANCE)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = f"{name}{list(where[1:])}" if len(where) > 1 else name
        raise GraftError(
            f"{what} differs from the network: in state {start + where[0]} {place} is {found[where]:.7g}, and "
            f"evaluation has {expected[where]:.7g}; nothing was written."
        )
