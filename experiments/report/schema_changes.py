"""What a patch changed in the observations and actions of a game, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.errors import some


class Change(NamedTuple):
    """One difference: ``what`` is of observations or actions, ``names`` are those that have it alike."""

    what: str
    change: str
    names: tuple[str, ...] = ()
    detail: str = ""

    @property
    def text(self) -> str:
        """The names, as many as a line holds, and what became of them."""
        return ": ".join(part for part in (some(self.names), self.detail) if part)


def schema_changes(old: Schemas, new: Schemas) -> list[Change]:
    """All differences, observations first; empty where both are the same."""
    return [*_observations(old.observation, new.observation), *_actions(old.action, new.action)]


def _observations(old: ObservationSchema, new: ObservationSchema) -> list[Change]:
    kinds = [(s.plain.kind, s.plain.dtype, s.plain.shape[1:]) for s in (old, new)]
    form = [Change("observations", "form", (), f"{_form(old)} became {_form(new)}")] if kinds[0] != kinds[1] else []
    bounds = [dict(zip(s.names, zip(s.low, s.high, strict=True), strict=True)) for s in (old, new)]
    words = [dict(zip(s.names, s.attributes, strict=True)) for s in (old, new)]
    meant = [{name: ", ".join(own) or "nothing" for name, own in side.items()} for side in words]
    return [*form, *_names("observations", bounds[0], bounds[1]), *_differing("observations", "meaning", *meant)]


def _form(schema: ObservationSchema) -> str:
    schema = schema.plain
    return f"{schema.kind} of {schema.dtype}" + "".join(f" x {n}" for n in schema.shape[1:])


def _actions(old: ActionSchema, new: ActionSchema) -> list[Change]:
    kinds = [f"{s.kind}{f' of {list(s.sizes)} choices' if s.sizes else ''}" for s in (old, new)]
    form = [Change("actions", "form", (), f"{kinds[0]} became {kinds[1]}")] if kinds[0] != kinds[1] else []
    free = [(s.low or (None,) * len(s.names), s.high or (None,) * len(s.names)) for s in (old, new)]
    ends = [dict(zip(s.names, zip(*own, strict=True), strict=True)) for s, own in zip((old, new), free, strict=True)]
    return [*form, *_names("actions", ends[0], ends[1])]


Ends = Mapping[str, tuple[float | None, float | None]]


def _names(what: str, old: Ends, new: Ends) -> list[Change]:
    gone, came = (tuple(n for n in a if n not in b) for a, b in ((old, new), (new, old)))
    common = [[name for name in side if name in old and name in new] for side in (old, new)]
    found = [Change(what, "added", came)] if came else []
    found += [Change(what, "removed", gone)] if gone else []
    if common[0] != common[1]:
        found.append(Change(what, "order", (), "another order, which transfer by name ignores"))
    return [*found, *_differing(what, "bounds", *({name: _ends(own) for name, own in s.items()} for s in (old, new)))]


def _ends(own: tuple[float | None, float | None]) -> str:
    low, high = own
    return "none" if low is None or high is None else f"{low:g} to {high:g}"


def _differing(what: str, change: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[Change]:
    """Names on both sides whose texts differ, those that differ alike together."""
    alike: dict[str, list[str]] = {}
    for name in old:
        if name in new and old[name] != new[name]:
            alike.setdefault(f"{old[name]} became {new[name]}", []).append(name)
    return [Change(what, change, tuple(names), detail) for detail, names in alike.items()]
