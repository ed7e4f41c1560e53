"""The keyword ``schema`` of every task: a user's names of observations and actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graft.envs.core.schema import ObservationSchema, Schemas, joined
from graft.envs.core.task import Task
from graft.errors import GraftError, unknown

KEYWORD = "schema"
ENTRIES = ("observation", "action", "attributes")


def split_names(task: Task) -> tuple[Task, Mapping[str, Any]]:
    """The task without the keyword ``schema``, and its value; raises GraftError for any other form."""
    given = task.kwargs.get(KEYWORD, {})
    if not isinstance(given, Mapping):
        raise GraftError(f"schema={given!r} of {task.id} is not allowed; give observation and action names.")
    for entry in given:
        if entry not in ENTRIES:
            raise unknown(f"entry of schema of {task.id}", str(entry), ENTRIES)
    return Task(task.id, {k: v for k, v in task.kwargs.items() if k != KEYWORD}), given


def rename(schemas: Schemas, given: Mapping[str, Any], task: str) -> Schemas:
    """The schemas under the names of ``given``.

    Args:
        given: ``observation`` and ``action``: a list of all names, or a mapping of some of the names that are there to
            new ones; ``attributes``: name of an observation (the new one) -> list of words. Of parts, a new name may
            leave out its ``<part>/``.
        task: id, for messages.
    Raises:
        GraftError: another number of names, or a name that is not there.
    """
    observation, action = schemas
    observation = _under(observation, _renamed(observation.names, given.get("observation", {}), task))
    action = replace(action, names=_renamed(action.names, given.get("action", {}), task))
    words = dict(zip(observation.names, observation.attributes, strict=True))
    meanings = given.get("attributes", {})
    if not isinstance(meanings, Mapping):
        raise GraftError(f"schema of {task}: attributes={meanings!r} is not allowed; give name: [word, ...].")
    for name, own in meanings.items():
        if name not in words:
            raise unknown(f"name of an observation of {task}", str(name), words)
        listed = [own] if isinstance(own, str) else own
        if not isinstance(listed, list | tuple):
            raise GraftError(
                f"schema of {task}: attributes of {name} are {own!r}; give words, such as [deadly, mobile]."
            )
        words[name] = tuple(sorted(map(str, listed)))
    return Schemas(_under(observation, observation.names, tuple(words.values())), action)


def shared_names(given: Mapping[str, Any], mine: Schemas, theirs: Schemas) -> dict[str, Any]:
    """Names ``given`` for one team (as of `rename`) that hold for another: of equal observations or actions."""
    same = {"action": mine.action == theirs.action}
    return {entry: names for entry, names in given.items() if same.get(entry, mine.observation == theirs.observation)}


def _under(
    schema: ObservationSchema, names: tuple[str, ...], attributes: tuple[tuple[str, ...], ...] | None = None
) -> ObservationSchema:
    attributes = schema.attributes if attributes is None else attributes
    if not schema.parts:
        return replace(schema, names=names, attributes=attributes)
    parts, first = {}, 0
    for part, own in schema.parts:
        place = slice(first, first + len(own.names))
        short = tuple(name.removeprefix(f"{part}/") for name in names[place])
        parts[part], first = replace(own, names=short, attributes=attributes[place]), place.stop
    return joined(parts)


def _renamed(names: tuple[str, ...], given: Any, task: str) -> tuple[str, ...]:
    if isinstance(given, Mapping):
        for name in given:
            if name not in names:
                raise unknown(f"name in schema of {task}", str(name), names)
        return tuple(str(given.get(name, name)) for name in names)
    if not isinstance(given, list | tuple) or len(given) != len(names):
        count = len(given) if isinstance(given, list | tuple) else repr(given)
        raise GraftError(f"schema of {task} gives {count} names where there are {len(names)}: {', '.join(names)}.")
    for name in given:
        if not isinstance(name, str):
            raise GraftError(f"schema of {task}: {name!r} is no name; give words.")
    return tuple(given)
