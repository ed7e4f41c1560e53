"""What is read of a checkpoint's manifest beside its network, which somebody else may have written and sealed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from graft.envs.core.options import sentence
from graft.errors import GraftError


class _Evaluation(BaseModel, strict=True):
    episodes: int
    return_mean: float | None = None
    ci95: float | None = None


class _Parent(BaseModel, strict=True):
    id: str
    lineage: list[str]


class _Merge(BaseModel, strict=True):
    parents: list[_Parent] = Field(min_length=1)
    base: str
    method: str
    options: dict[str, Any] = {}


class _Method(BaseModel, strict=True):
    name: str


class _Stage(BaseModel, strict=True):
    method: _Method | None = None
    algorithm: dict[str, Any] | None = None


class _Git(BaseModel, strict=True):
    commit: str | None = None


class _Import(BaseModel, strict=True):
    sha256: str


class _Record(BaseModel, strict=True):
    evaluation: _Evaluation | None = None
    stage: _Stage | None = None
    env_steps: int | None = None
    licence: str | None = None
    created: str | None = None
    versions: dict[str, str] | None = None
    git: _Git | None = None
    imported: _Import | None = Field(None, alias="import")
    merge: _Merge | None = None


class _Task(BaseModel, strict=True):
    id: str
    kwargs: dict[str, Any] = {}


class _Manifest(BaseModel, strict=True):
    files: dict[str, str]
    lineage: list[str]
    record: _Record
    task: _Task


def check_form(manifest: Mapping[str, Any], path: Path) -> None:
    """Raises GraftError where a manifest, of the file ``path``, has something else."""
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        detail = error.errors()[0]
        raise GraftError(sentence(f"{path}: {'.'.join(map(str, detail['loc']))}", detail)) from error
