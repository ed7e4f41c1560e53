"""The keyword ``reward_weights`` of a task whose rewards are arrays: their weighted sum is the reward."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from graft.errors import GraftError

WEIGHTS = "reward_weights"


def split_weights(
    task_id: str, kwargs: Mapping[str, Any], takes: Iterable[str] = ()
) -> tuple[tuple[float, ...] | None, dict[str, Any]]:
    """The weights among a task's keywords, and the other keywords.

    ``takes`` are keywords of the environment's constructor, which go before. Raises GraftError for anything but a list
    of finite numbers.
    """
    rest = dict(kwargs)
    if WEIGHTS not in rest or WEIGHTS in takes:
        return None, rest
    given = rest.pop(WEIGHTS)
    listed = isinstance(given, list | tuple) and len(given) > 0
    if not listed or not all(
        isinstance(w, int | float) and not isinstance(w, bool) and math.isfinite(w) for w in given
    ):
        raise GraftError(
            f"{WEIGHTS}={given!r} of {task_id} is not allowed; give a list of numbers, one for each entry of the "
            f"environment's rewards, such as [1, -0.1]."
        )
    return tuple(map(float, given)), rest
