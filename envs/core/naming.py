"""The keyword ``schema`` of every task: a user's names of observations and actions, and how pictures are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas, flag_names, joined, masked
from graft.envs.core.task import Task
from graft.errors import GraftError, shown, some, unknown

KEYWORD = "schema"
CHANNELS, LIKE, SCHEMAS = "channels", "as", "schemas"
NAMES = 2
"""Version of the names: 1 named categories by their place (``Game.obs_3``), and pictures by their memory layout."""

ENTRIES = ("observation", "action", "attributes", CHANNELS, LIKE)
SIDES = ("first", "last")
LISTED = 24  # names in a message; the rest are counted


def split_names(task: Task) -> tuple[Task, Mapping[str, Any]]:
    """The task without the keyword ``schema``, and its value; raises GraftError for any other form."""
    given = task.kwargs.get(KEYWORD, {})
    if not isinstance(given, Mapping):
        raise GraftError(f"schema={given!r} of {task.id} is not allowed; give observation and action names.")
    for entry in given:
        if entry not in ENTRIES:
            raise unknown(f"entry of schema of {task.id}", str(entry), ENTRIES)
    channels = given.get(CHANNELS, SIDES[0])
    for said in channels.values() if isinstance(channels, Mapping) else [channels]:
        if said not in SIDES:
            raise GraftError(f"schema of {task.id}: {CHANNELS}: {said!r} is not allowed; give first or last.")
    if LIKE in given and len(given.keys() - {LIKE, CHANNELS}) > 0:
        raise GraftError(f"schema of {task.id}: '{LIKE}' takes all names of another task; leave the others out.")
    return Task(task.id, {k: v for k, v in task.kwargs.items() if k != KEYWORD}), given


def rename(schemas: Schemas, given: Mapping[str, Any], task: str) -> Schemas:
    """The schemas under the names of ``given``.

    Args:
        given: ``observation`` and ``action``: a list of all names, or a mapping of some of the names that are there to
            new ones. Values, such as ``gear=3``, may be named by what holds them, ``gear``. ``attributes``: name of an
            observation (the new one) -> list of words. Of parts, a new name may leave out its ``<part>/``.
        task: id, for messages.
    Raises:
        GraftError: another number of names, or a name that is not there.
    """
    observation, action = schemas
    if observation.flags:  # which follow the names of the actions
        named = rename(Schemas(observation.plain, action), given, task)
        return Schemas(masked(named.observation, flag_names(named.action)), named.action)
    observation = with_names(observation, _renamed(observation.names, given.get("observation", {}), task))
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
    return Schemas(with_names(observation, observation.names, tuple(words.values())), action)


def shared_names(given: Mapping[str, Any], mine: Schemas, theirs: Schemas) -> dict[str, Any]:
    """Names ``given`` for one team (as of `rename`) that hold for another: of equal observations or actions."""
    same = {"action": mine.action == theirs.action}
    return {entry: names for entry, names in given.items() if same.get(entry, mine.observation == theirs.observation)}


def with_names(
    schema: ObservationSchema, names: tuple[str, ...], attributes: tuple[tuple[str, ...], ...] | None = None
) -> ObservationSchema:
    """``schema`` under other names and attributes, by position; of parts, names may leave out their ``<part>/``."""
    attributes = schema.attributes if attributes is None else attributes
    if schema.flags:
        count = len(schema.plain.names)
        return masked(with_names(schema.plain, names[:count], attributes[:count]), names[count:])
    if not schema.parts:
        return replace(schema, names=names, attributes=attributes)
    parts, first = {}, 0
    for part, own in schema.parts:
        place = slice(first, first + len(own.names))
        short = tuple(name.removeprefix(f"{part}/") for name in names[place])
        parts[part], first = replace(own, names=short, attributes=attributes[place]), place.stop
    return joined(parts)


def like_task(given: Any, task: str) -> tuple[Task, Schemas | None]:
    """The task whose names ``as`` takes, and its schemas where they are given, as those of a checkpoint are.

    Args:
        given: an id, ``{id, kwargs}``, or these with ``schemas: {observation, action}``, as checkpoints have them.
    Raises:
        GraftError: any other form.
    """
    if isinstance(given, str):
        return Task(given), None
    if isinstance(given, Mapping) and isinstance(given.get("id"), str) and given.keys() <= {"id", "kwargs", SCHEMAS}:
        saved = given.get(SCHEMAS)
        try:
            if saved is None:
                return Task.from_json(given), None
            seen, action = ObservationSchema.from_json(saved["observation"]), ActionSchema.from_json(saved["action"])
            return Task.from_json(given), Schemas(seen, action)
        except (LookupError, TypeError, ValueError):
            pass
    raise GraftError(
        f"schema of {task}: {LIKE}: {shown(given)} is not allowed; give the id of a task, or {{id, kwargs}}."
    )


def names_like(mine: Schemas, theirs: Schemas, task: str, other: Task) -> Schemas:
    """``mine`` under the names and attributes of ``theirs``, by position.

    Raises:
        GraftError: they have another kind or shape; what differs is said.
    """
    for what, a, b in (("shows", *map(_layout, (mine, theirs))), ("takes", *map(_moves, (mine, theirs)))):
        if a != b:
            raise GraftError(
                f"schema of {task}: {LIKE}: {other} is not possible, as {task} {what} {a}, {other} {b}; give names "
                f"under observation and action instead."
            )
    seen, action = theirs.observation.plain, replace(mine.action, names=theirs.action.names)
    observation = with_names(mine.observation.plain, seen.names, seen.attributes)
    return Schemas(masked(observation, flag_names(action)) if mine.observation.flags else observation, action)


def _layout(schemas: Schemas) -> str:
    def one(schema: ObservationSchema) -> str:
        return f"{schema.kind} {' x '.join(map(str, schema.shape))}"

    seen = schemas.observation.plain
    return ", ".join(f"{name} ({one(part)})" for name, part in seen.parts) if seen.parts else one(seen)


def _moves(schemas: Schemas) -> str:
    action = schemas.action
    return f"{len(action.names)} {action.kind} actions{f' of sizes {action.sizes}' if action.sizes else ''}"


def _stem(name: str) -> str:
    """``gear`` of ``gear=3``: what holds the value that a name is of; "" of other names."""
    return name.rpartition("=")[0]


def _renamed(names: tuple[str, ...], given: Any, task: str) -> tuple[str, ...]:
    stems = dict.fromkeys(stem for stem in map(_stem, names) if stem)
    if isinstance(given, Mapping):
        for name in given:
            if name not in names and name not in stems:
                raise unknown(f"name in schema of {task}", str(name), (*names, *stems))
        return tuple(_new_name(name, given) for name in names)
    if isinstance(given, list | tuple) and len(given) == len(stems) < len(names) and all(map(_stem, names)):
        new = dict(zip(stems, given, strict=True))
        return tuple(_new_name(name, new) for name in names)
    if not isinstance(given, list | tuple) or len(given) != len(names):
        count = len(given) if isinstance(given, list | tuple) else repr(given)
        raise GraftError(f"schema of {task} gives {count} names where there are {len(names)}: {some(names, LISTED)}.")
    for name in given:
        if not isinstance(name, str):
            raise GraftError(f"schema of {task}: {name!r} is no name; give words.")
    return tuple(given)


def _new_name(name: str, given: Mapping[str, Any]) -> str:
    stem, _, value = name.rpartition("=")
    return str(given[name]) if name in given else f"{given[stem]}={value}" if stem in given else name
