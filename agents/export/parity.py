"""Whether an exported model does what the network does: the same actions and the same numbers, on recorded states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.agents.export.ports import Arrays, Interface
from graft.agents.export.recording import Recording
from graft.agents.parity import CHUNK, TOLERANCE, Array, choices, gaps
from graft.envs.core.schema import ActionSchema
from graft.errors import GraftError

Run = Callable[[Mapping[str, Array]], Arrays]
"""Inputs by name, (N, *shape) -> outputs by name."""

SINGLE = 16  # states that are also run one by one
FORBIDDEN = -1e7  # scores below it are of forbidden actions


class Parity(NamedTuple):
    """How close a model is.

    Attributes:
        states, source: how many were compared, and a phrase: where they are from.
        largest_difference: of an action or a number, as a share of the tolerance's scale.
        near_ties: states in which two actions are equally good within the tolerance; a model may play either.
    """

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
    largest = 0.0
    for rows in alone + chunks:
        found = run(interface.feed(recording.observations[rows]))
        scores = recording.scores[rows]
        log_std = None if recording.log_std is None else recording.log_std[rows]
        for name, expected in interface.expected(scores, log_std).items():
            largest = max(largest, _numbers(found[name], expected, name, what, rows.start))
        played = interface.decode(found)
        largest = max(largest, _actions(played, recording.actions[rows], scores, actions, what, rows.start))
    return Parity(count, recording.source, largest, int(tied(recording.scores, actions).sum()))


def expected_scores(actions: ActionSchema, distribution: str | None, scores: Array, log_std: Array | None) -> Arrays:
    """What the outputs of `score_ports` have to be, by name, in float64.

    Args:
        distribution: of the network's configuration.
        scores, log_std: of a `Recording`.
    """
    if log_std is None:
        return {"q_values" if distribution == "greedy" else "logits": scores}
    mean, std = scores.astype(np.float64), np.exp(log_std.astype(np.float64))
    if distribution == "squashed":
        return {"mean": mean, "std": std}
    for column, (low, high) in enumerate(zip(actions.low, actions.high, strict=True)):
        if math.isfinite(low) and math.isfinite(high) and low < high:  # the policy's units are from -1 to 1
            mean[:, column] = low + (mean[:, column] + 1) / 2 * (high - low)
            std[:, column] *= (high - low) / 2
    return {"mean": mean, "std": std}


def tied(scores: Array, actions: ActionSchema) -> NDArray[np.bool_]:
    """Of each state, (N,), whether another action is as good as the best one within the tolerance; no box action is."""
    found = np.zeros(len(scores), np.bool_)
    if actions.kind == "box":
        return found
    for values in choices(scores, actions):
        if values.shape[1] > 1:
            second, best = np.partition(values, (-2, -1), 1)[:, -2:].T
            found |= best - second <= TOLERANCE * np.maximum(1.0, np.abs(best))
    return found


def _numbers(found: Array, expected: Array, name: str, what: str, start: int) -> float:
    if found.shape != expected.shape:
        raise GraftError(f"{what} gives {name} the shape {found.shape}, and the network {expected.shape}.")
    usual = expected[np.abs(expected) < -FORBIDDEN]
    scale = max(1.0, float(np.abs(usual).max(initial=0)))
    off = np.where(expected < FORBIDDEN, np.where(found < FORBIDDEN, 0, np.inf), np.abs(found - expected)) / scale
    _refuse(off, found, expected, name, what, start)
    return float(off.max(initial=0))


def _actions(found: Array, expected: Array, scores: Array, actions: ActionSchema, what: str, start: int) -> float:
    """The largest difference of box actions, or of the scores of two indices that are equally good."""
    if found.shape != expected.shape:
        raise GraftError(f"{what} gives actions of shape {found.shape}, and evaluation plays {expected.shape}.")
    off = gaps(found, expected, scores, actions)
    _refuse(off, found.reshape(off.shape), expected.reshape(off.shape), "action", what, start)
    return float(off.max(initial=0))


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
