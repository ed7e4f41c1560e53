"""The keyword ``action_masks`` of a task, and masks that environments give as flags of forbidden actions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.envs.core.schema import ActionSchema
from graft.errors import GraftError

KEYWORD = "action_masks"
MASK = "action_mask"  # where environments give it: in infos, or a part of a dictionary of observations


class Shown(NamedTuple):
    """What a masked environment shows: its observation, without the mask; the mask as it was given, or why there is
    none; and whether no action of it counts, as at the end of an episode or in the turn of another agent.
    """

    observation: Any
    mask: Any
    idle: bool


def split_masks(
    task_id: str, kwargs: Mapping[str, Any], takes: Iterable[str] = ()
) -> tuple[bool | None, dict[str, Any]]:
    """Whether a task's masks are to be used, None where its keywords don't say, and the other keywords.

    ``takes`` are keywords of the environment's constructor, which go before. Raises GraftError for no boolean.
    """
    rest = dict(kwargs)
    if KEYWORD not in rest or KEYWORD in takes:
        return None, rest
    wanted = rest.pop(KEYWORD)
    if not isinstance(wanted, bool):
        raise GraftError(f"{KEYWORD}={wanted!r} of {task_id} is not allowed; give true or false.")
    return wanted, rest


def flags_of(mask: Any, actions: ActionSchema) -> NDArray[np.bool_]:
    """Which actions a mask forbids, (A,).

    Args:
        mask: true or 1 for every action that is allowed, (A,); of several choices one after the other, or a list or
            tuple of their masks. None allows all.
    Raises:
        ValueError: another number of values, or others than 0 and 1; the text is a clause: "its action mask ...".
    """
    count = len(actions.names)
    if mask is None:
        return np.zeros(count, np.bool_)
    values = _flat(mask)
    if values.size != count:
        raise ValueError(f"its action mask has {values.size} numbers, and there are {count} actions")
    forbidden: NDArray[np.bool_] = values == 0
    if values.dtype.kind != "b" and not (values.dtype.kind in "iuf" and np.all(forbidden | (values == 1))):
        raise ValueError(f"its action mask holds other values than 0 and 1: {values.tolist()}")
    return forbidden


def forbids_all(forbidden: NDArray[np.bool_], actions: ActionSchema) -> bool:
    """Whether all actions of one of the choices are forbidden, (A,)."""
    if not actions.sizes:
        return bool(forbidden.all())
    return bool(np.logical_and.reduceat(forbidden, np.cumsum((0, *actions.sizes[:-1]))).any())


def _flat(mask: Any) -> NDArray[Any]:
    try:
        return np.asarray(mask).ravel()
    except ValueError:  # of choices of different sizes
        return np.concatenate([_flat(part) for part in mask])


def any_mask(infos: Any) -> bool:
    """Whether one of the infos of several agents holds a mask."""
    found = infos.values() if isinstance(infos, Mapping) else ()
    return any(isinstance(info, Mapping) and MASK in info for info in found)
