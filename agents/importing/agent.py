"""One call from a file of another library to an agent of Graft."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from graft.agents.importing.assemble import Assembly, assemble
from graft.agents.importing.foreign import ForeignPolicy, Statistics
from graft.agents.importing.source import FORMATS, Format, Request
from graft.errors import GraftError, unknown


@dataclass(frozen=True)
class Imported:
    """An agent from a file: what was read, the network made of it, the format's name and the file's sha256."""

    policy: ForeignPolicy
    assembly: Assembly
    format: str
    sha256: str


def import_agent(
    request: Request, format_name: str | None = None, statistics: Mapping[str, Statistics] | None = None
) -> Imported:
    """Read the file of ``request`` and build its network.

    Args:
        format_name: a name of `FORMATS`; found by the file's name where None.
        statistics: how observations are normalised, where another file says it.
    Raises:
        GraftError: a file that is missing, damaged, unsafe, not understood, or that does not fit the task.
    """
    if not request.path.exists():
        raise GraftError(f"There is no file {request.path}.")
    name, chosen = _format(request, format_name)
    policy = chosen.read(request)
    if statistics:
        for part in statistics:
            if part not in policy.extractors:
                raise unknown("part of the observation with statistics", part, policy.extractors)
        policy = replace(policy, statistics={**policy.statistics, **statistics})
    return Imported(policy, assemble(policy, request.schemas), name, sha256_of(request.path))


def _format(request: Request, name: str | None) -> tuple[str, Format]:
    if name is not None:
        return name, FORMATS[name]()
    for known, kind in FORMATS.items():
        if (chosen := kind()).fits(request):
            return known, chosen
    raise GraftError(f"{request.path} is of no known format; give --format: {', '.join(FORMATS)}.")


def sha256_of(path: Path) -> str:
    """Of a file; of a folder, of the hashes of its files with their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
    lines = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
