"""Where configs lie: a file, or one of the experiments that come with Graft."""

from __future__ import annotations

from pathlib import Path

from graft.errors import unknown

PACKAGED = Path(__file__).parents[1] / "configs"
DEFAULT = "quickstart"


def packaged_configs() -> list[str]:
    """Names of the experiments that come with Graft."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def find_config(given: str) -> Path:
    """A path, or the name of a packaged experiment with or without ``.yaml``."""
    path = Path(given)
    if path.is_file():
        return path
    packaged = PACKAGED / f"{Path(given).stem}.yaml"
    if path.name in (packaged.stem, packaged.name) and path.parent in (Path(), PACKAGED) and packaged.is_file():
        return packaged
    raise unknown("config (neither a file nor an experiment that comes with Graft)", given, packaged_configs())
