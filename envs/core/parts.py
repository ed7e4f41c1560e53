"""Parts of one's own: what ``module:Name`` names, what entry points of distributions offer, and their source files."""

from __future__ import annotations

import hashlib
import importlib
import sys
import warnings
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from graft.errors import GraftError, unknown

LIBRARIES = {"graft", "gymnasium", "torch", "stable_baselines3", "ray", "builtins", "abc", "typing"}
"""Packages whose classes are no part of one's own; results name their versions."""


class Kind(NamedTuple):
    """A kind of part. ``noun``: for messages. ``base``: what parts derive from, or of what they are ``instances``."""

    noun: str
    base: type[Any]
    instances: bool = False

    def has(self, entry: object) -> bool:
        """Whether ``entry`` is such a part."""
        if self.instances:
            return isinstance(entry, self.base)
        return isinstance(entry, type) and issubclass(entry, self.base)

    @property
    def must(self) -> str:
        """What a part must be, as text."""
        place = f"{self.base.__module__}.{self.base.__qualname__}"
        return f"must be an instance of {place}" if self.instances else f"must be a subclass of {place}"


def is_named(name: object) -> bool:
    """Whether it has the form ``module:Name``."""
    return isinstance(name, str) and ":" in name


def import_module(module: str, whose: str) -> Any:
    """The module; raises GraftError where it is missing or fails. ``whose``: for the message, "method 'm:Decay'"."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the code of a user's module raises
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise GraftError(
            f"Module '{module}' of {whose} cannot be imported ({reason}); install its package, or put its folder on "
            f"PYTHONPATH."
        ) from error


def import_part(name: str, kind: Kind) -> Any:
    """What ``module:Name`` names.

    Raises:
        GraftError: no such module, no such name in it (with the nearest), or something that is not of this kind.
    """
    module, _, attribute = name.partition(":")
    if not module.strip() or not attribute.strip():
        raise GraftError(f"The {kind.noun} '{name}' has no module or no name; give module:Name.")
    imported = import_module(module, f"{kind.noun} '{name}'")
    if not hasattr(imported, attribute):
        offered = [
            key
            for key, entry in vars(imported).items()
            if not key.startswith("_") and kind.has(entry) and _is_defined(entry, module)
        ]
        if not offered:
            raise GraftError(f"Module '{module}' has no '{attribute}', and no {kind.noun}, which {kind.must}.")
        raise unknown(f"{kind.noun} of {module}", attribute, offered)
    entry = getattr(imported, attribute)
    if not kind.has(entry):
        raise GraftError(f"'{name}' is no {kind.noun}: it {kind.must}.")
    return entry


def _is_defined(entry: object, module: str) -> bool:
    """Whether a class was not only imported into the module from Graft; instances count as its own, modules do not."""
    if isinstance(entry, ModuleType):
        return False
    return not isinstance(entry, type) or entry.__module__ == module or is_own(entry.__module__)


@lru_cache(maxsize=32)
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Entry points of a group that distributions on ``path`` have, which is `sys.path`."""
    return entry_points(group=group)


def plugins(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name; of two with one name, a warning says so and the first counts."""
    found: dict[str, EntryPoint] = {}
    for entry in _installed(group, tuple(sys.path)):
        if entry.name in found and found[entry.name].value != entry.value:
            warnings.warn(
                f"{_source(entry)} is not used: {_source(found[entry.name])} has the same name.", stacklevel=2
            )
            continue
        found.setdefault(entry.name, entry)
    return found


def load_plugin(entry: EntryPoint, kind: Kind) -> Any:
    """What an entry point names; raises GraftError where it cannot be loaded, or is not of this kind."""
    try:
        return import_part(entry.value.partition("[")[0].strip(), kind)
    except GraftError as error:
        raise GraftError(f"{_source(entry)} cannot be used. {error}") from error


def _source(entry: EntryPoint) -> str:
    of = f" of the distribution {entry.dist.name}" if entry.dist is not None else ""
    return f"The entry point '{entry.name}' ({entry.group}){of}"


def modules_of(part: object) -> tuple[str, ...]:
    """Modules of a class and of those that it derives from, up to the first of a library; of a function its own."""
    kinds: Iterable[Any] = part.__mro__ if isinstance(part, type) else [part]
    names = (str(getattr(kind, "__module__", "")) for kind in kinds)
    return tuple(dict.fromkeys(takewhile(is_own, names)))


def is_own(module: str) -> bool:
    """Whether a module of this name is neither Graft's nor of a library that it is built on."""
    return module.partition(".")[0] not in {*LIBRARIES, ""}


def source_hash(modules: Iterable[str]) -> str:
    """sha256 of the files that modules are written in; a module that they import in turn is not seen."""
    digest = hashlib.sha256()
    for name in modules:
        path = getattr(sys.modules.get(name), "__file__", None)
        digest.update(Path(path).read_bytes() if path is not None else name.encode())
    return digest.hexdigest()


def name_in_module(kind: type[Any]) -> str | None:
    """``module:Name`` of a class of one's own; None for Graft's, and for those inside of functions."""
    return f"{kind.__module__}:{kind.__qualname__}" if modules_of(kind) and "." not in kind.__qualname__ else None
