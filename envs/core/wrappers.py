"""The keyword ``wrappers`` of a task: Gymnasium wrappers around each of its environments, the innermost first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from graft.errors import GraftError

WRAPPERS = "wrappers"


class Named(NamedTuple):
    """A wrapper by name, with its arguments."""

    name: str
    arguments: Mapping[str, Any]


def parse_wrappers(given: Any, task: str) -> tuple[Named, ...]:
    """Names and arguments of ``name``, ``{name: {argument: value}}`` or a list of these; raises GraftError."""
    found = []
    for entry in given if isinstance(given, list | tuple) else [given]:
        named = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(named, Mapping) or len(named) != 1:
            raise _refusal(entry, task)
        name, arguments = next(iter(named.items()))
        if not isinstance(name, str) or not isinstance({} if arguments is None else arguments, Mapping):
            raise _refusal(entry, task)
        found.append(Named(name, arguments or {}))
    return tuple(found)


def _refusal(entry: Any, task: str) -> GraftError:
    return GraftError(
        f"{WRAPPERS} of {task}: {entry!r} is not allowed; give names, or name: {{argument: value}}, such as "
        f"[{{FrameStackObservation: {{stack_size: 4}}}}]."
    )
