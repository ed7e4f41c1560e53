"""What a sink of metrics offers: TensorBoard and the like, registered by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple

from graft.envs.core.registry import Registry
from graft.errors import GraftError

Setting = str | int | float


class SinkRun(NamedTuple):
    """A stage as sinks know it.

    Attributes:
        out: folder of the experiment. id: the stage's. name: readable, of letters that every file system has.
        settings: what runs are told apart by. goes_on: whether it was stopped, and an earlier part was told already.
    """

    out: Path
    id: str
    name: str
    settings: Mapping[str, Setting]
    goes_on: bool = False


class Sink:
    """Gets a stage's metrics in the process that runs it; what it raises ends the sink, not the stage.

    Attributes:
        package: module that it needs; empty for none. extra: of Graft's, that installs it.
    """

    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    def __init__(self, run: SinkRun) -> None:
        self.run = run

    @classmethod
    def check(cls) -> None:
        """Raise GraftError where its package is not installed."""
        if cls.package and not _is_installed(cls.package):
            how = f"pip install 'graft-rl[{cls.extra}]'" if cls.extra else f"pip install {cls.package}"
            raise GraftError(f"sinks: {SINKS.name_of(cls)} needs the package {cls.package}; install it with: {how}")

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Record ``values`` (tag -> number) at ``env_steps``."""
        raise NotImplementedError

    def text(self, tag: str, markdown: str) -> None:
        """Record a text about the stage."""

    def rewind(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Training goes on from a snapshot: the last metrics before it, which are kept."""

    def flush(self) -> None:
        """Write what is held back."""

    def finish(self, metrics: Mapping[str, float]) -> None:
        """The training has ended with these ``metrics``, each of which was recorded under the same tag."""

    def close(self, done: bool) -> None:
        """No more comes. ``done``: whether the stage has ended as it should."""


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package that it is in
        return False


SINKS: Registry[type[Sink]] = Registry("sink", "graft.experiments.sinks", Sink)
