"""Transitions of a replay buffer as tensors: the part of a checkpoint that a transfer may go on learning from."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graft.envs.core.schema import Schemas
from graft.errors import GraftError

TRANSITIONS = "transitions"
"""The part of a checkpoint that holds them."""

OBSERVATIONS, NEXT_OBSERVATIONS, ACTIONS = "observations", "next_observations", "actions"
REWARDS, TERMINATED = "rewards", "terminated"

TransitionTensors = dict[str, torch.Tensor]
"""Of N transitions, the oldest first: observations and next_observations (N, *shape), as the task shows them; actions,
(N, A) in [-1, 1] or numbers (N, 1) of discrete ones; rewards (N,), as the task gives them; terminated (N,), 1 where the
episode ended there, a time limit being none.
"""


def check_transitions(held: Mapping[str, torch.Tensor], schemas: Schemas) -> None:
    """Raise GraftError for tensors of a checkpoint that are not the transitions of a task; none at all are."""
    if not held:
        return
    shown, box = schemas.observation.shape, schemas.action.kind == "box"
    done = (len(schemas.action.names),) if box else (1,)
    shapes = {OBSERVATIONS: shown, NEXT_OBSERVATIONS: shown, ACTIONS: done, REWARDS: (), TERMINATED: ()}
    seen, number = getattr(torch, schemas.observation.dtype), torch.float32 if box else torch.int64
    types = {OBSERVATIONS: seen, NEXT_OBSERVATIONS: seen, ACTIONS: number, REWARDS: torch.float32}
    types[TERMINATED] = torch.float32
    fit = held.keys() == shapes.keys() and all(tensor.ndim for tensor in held.values())
    fit = fit and len({len(tensor) for tensor in held.values()}) == 1
    fit = fit and all(tuple(t.shape[1:]) == shapes[name] and t.dtype == types[name] for name, t in held.items())
    if fit and not box:
        fit = bool(((held[ACTIONS] >= 0) & (held[ACTIONS] < len(schemas.action.names))).all())
    if not fit:
        raise GraftError("The transitions that the source's checkpoint keeps are not of its task; train it again.")
