"""What is asked of a format, and the registry of formats: a new one is a file in `formats`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.agents.importing.files import LONGEST_NAME
from graft.agents.importing.foreign import ForeignPolicy
from graft.agents.networks.activation import Activation
from graft.envs.core.registry import Registry
from graft.envs.core.schema import Schemas
from graft.errors import GraftError, printable, unknown


@dataclass(frozen=True)
class Request:
    """A file, the schemas of the task that its agent plays, and what the user says of it.

    Attributes:
        activation: instead of what the file says. names: which tensor is what, from the user's YAML.
        trust: whether the file's own library may read it, in a process of its own; ``unconfined``: also where the
            system cannot confine that.
    """

    path: Path
    schemas: Schemas
    activation: Activation | None = None
    names: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False
    unconfined: bool = False

    def words(self, keys: Sequence[str]) -> None:
        """Raise GraftError unless ``names`` has these keys only, and words as values."""
        for key, value in self.names.items():
            if key not in keys:
                raise unknown("key of --names for this format", printable(str(key)), keys)
            if not isinstance(value, str) or len(value) > LONGEST_NAME:
                raise GraftError(f"{key} of --names is {type(value).__name__}; for this format it is a word.")


class Format(ABC):
    """How the files of a library are read; a class without state."""

    @abstractmethod
    def fits(self, request: Request) -> bool:
        """Whether the file looks like this format, by its name and what the user gave."""

    @abstractmethod
    def read(self, request: Request) -> ForeignPolicy:
        """The agent; raises GraftError for a file that is damaged or not understood."""


FORMATS: Registry[type[Format]] = Registry("format", "graft.agents.importing.formats", Format, "graft.formats")
