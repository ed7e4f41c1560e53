"""What the survey tries: packages and their environments, as `packages.yaml` lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from graft.envs.core.options import sentence
from graft.errors import GraftError

LISTED = Path(__file__).with_name("packages.yaml")


class Entry(BaseModel):
    """One environment and what is tried with it.

    Attributes:
        id, kwargs: the task. limit: steps of an episode while it is tried; 0 leaves the environment's own.
        target: what a source trained on it is transferred to: other ``kwargs``, or another ``id`` too; else nothing is.
        steps: of random play beside a plain loop, for each of two environments; 0 where that is not tried.
        pretrain, transfer: env steps of training. algorithm: options of the algorithm, ``name`` among them.
        seconds: that all of it may take. note: for the table.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    limit: int = Field(default=50, ge=0)
    target: dict[str, Any] | None = None
    steps: int = Field(default=60, ge=0)
    pretrain: int = Field(default=1024, ge=1)
    transfer: int = Field(default=512, ge=1)
    algorithm: dict[str, Any] = Field(default_factory=dict)
    seconds: int = Field(default=300, ge=1)
    note: str = ""

    @property
    def key(self) -> str:
        """What its result is recorded under."""
        options = ", ".join(f"{name}={value}" for name, value in sorted(self.kwargs.items()))
        return f"{self.id}({options})" if options else self.id


class Package(BaseModel):
    """A package and its environments.

    Attributes:
        field: what it is for. released: month of its latest release, when it was last looked up.
        install: requirements, as pip takes them; none where Graft brings it.
        venv: name of the virtual environment that it is installed into.
        unpin: packages that may have other versions there than here.
        module: Python text of a module ``own``, for packages that register no ids: it is written into a file.
        reason: why it is listed and not tried.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str
    released: str
    install: tuple[str, ...] = ()
    venv: str = "shared"
    unpin: tuple[str, ...] = ()
    module: str = ""
    reason: str = ""
    environments: tuple[Entry, ...] = ()


def read_packages(path: Path = LISTED) -> dict[str, Package]:
    """Name -> package; raises GraftError for a file that can't be read or holds something else."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise GraftError(f"{path} cannot be read: {error}.") from error
    try:
        return TypeAdapter(dict[str, Package]).validate_python(data)
    except ValidationError as error:
        detail = error.errors()[0]
        raise GraftError(f"{path.name}: {sentence('.'.join(map(str, detail['loc'])), detail)}") from error
