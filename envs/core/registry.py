"""A registry that imports every module below a package once: a new game, adapter or method is one new file.

Parts that lie elsewhere are found by ``module:Name``, and by entry points that distributions have in its group.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any, Generic, TypeVar

from graft.envs.core.parts import Kind, import_part, is_named, is_own, load_plugin, modules_of, name_in_module, plugins
from graft.errors import GraftError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Name -> entry, from the modules below ``package``, imported at the first look-up.

    Args:
        kind: a noun for messages.
        base: what entries derive from or, where they are ``instances``, what they are instances of.
        group: of entry points; None where there are none.
    """

    def __init__(
        self, kind: str, package: str, base: type[Any] = object, group: str | None = None, instances: bool = False
    ) -> None:
        self.kind = kind
        self.part_kind = Kind(kind, base, instances)
        self.group = group
        self._package = package
        self._entries: dict[str, T] = {}
        self._plugins: dict[str, EntryPoint] = {}
        self._plugin_modules: dict[str, str] = {}
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
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)
        for name, plugin in (plugins(self.group) if self.group else {}).items():
            if name in self._entries:
                warnings.warn(f"An entry point of {self.group} is not used: Graft has a '{name}'.", stacklevel=3)
            else:
                self._plugins[name] = plugin

    def _load_plugin(self, name: str) -> None:
        plugin = self._plugins[name]
        entry = load_plugin(plugin, self.part_kind)
        del self._plugins[name]
        self._plugin_modules[name] = plugin.module
        self._entries.setdefault(name, entry)  # importing it may have registered it

    def _load_plugins(self) -> None:
        """Load all; one that cannot be loaded is left out with a warning."""
        for name in list(self._plugins):
            try:
                self._load_plugin(name)
            except GraftError as error:
                warnings.warn(str(error), stacklevel=3)
                del self._plugins[name]

    def __getitem__(self, name: str) -> T:
        """The entry called ``name``, which may be ``module:Name``; raises GraftError with the nearest valid name."""
        self._load()
        if name in self._plugins:
            self._load_plugin(name)
        if name in self._entries:
            return self._entries[name]
        if is_named(name):
            entry: T = import_part(name, self.part_kind)
            return entry
        raise unknown(self.kind, name, self)

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted({*self._entries, *self._plugins}))

    def __contains__(self, name: str) -> bool:
        """Whether ``name`` is registered; of ``module:Name`` it is not known."""
        self._load()
        return name in self._entries or name in self._plugins

    def items(self) -> list[tuple[str, T]]:
        """(name, entry) pairs of those that are registered, sorted by name."""
        self._load()
        self._load_plugins()
        return sorted(self._entries.items())

    def name_of(self, kind: type[Any]) -> str:
        """Name of a class, or of the first that it derives from and that has one.

        It is the same in every process: where a class is not registered, ``module:Name``.
        """
        names: dict[Any, str] = {entry: name for name, entry in self.items()}
        found = (names.get(base) or name_in_module(base) for base in kind.__mro__)
        return next((name for name in found if name), kind.__name__)

    def modules(self, name: str) -> tuple[str, ...]:
        """Modules that an entry of one's own is written in; none for those of Graft."""
        entry = self[name]
        place = name.partition(":")[0] if is_named(name) else self._plugin_modules.get(name, "")
        within = modules_of(entry) if isinstance(entry, type) else ()
        return tuple(dict.fromkeys(module for module in (place, *within) if is_own(module)))
