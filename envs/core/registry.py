"""A registry that imports every module below a package once: a new game, adapter or method is one new file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from graft.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Name -> entry, from the modules below ``package``, imported at the first look-up; ``kind`` is for messages."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, entry: T) -> T:
        """Register ``entry``; two entries of one name are a programming error."""
        if name in self._entries and self._entries[name] is not entry:
            raise RuntimeError(f"two {self.kind}s are called '{name}'")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of `add`."""
        return lambda entry: self.add(name, entry)

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            package = importlib.import_module(self._package)
            for module in pkgutil.walk_packages(package.__path__, f"{self._package}."):
                importlib.import_module(module.name)

    def __getitem__(self, name: str) -> T:
        """The entry called ``name``; raises GraftError with the nearest valid name."""
        self._load()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._entries

    def items(self) -> list[tuple[str, T]]:
        """(name, entry) pairs, sorted by name."""
        self._load()
        return sorted(self._entries.items())
