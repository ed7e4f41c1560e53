"""Checkpoints that come with Graft: a folder each, found by its name."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def pretrained() -> list[str]:
    """Names of the checkpoints that come with Graft."""
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and not path.name.startswith("_"))


def checkpoint_folder(given: Path | str) -> Path:
    """The folder ``given``; where there is none of this name, that of the checkpoint that comes with Graft under it."""
    folder = Path(given)
    return FOLDER / folder if not folder.exists() and str(given) in pretrained() else folder
