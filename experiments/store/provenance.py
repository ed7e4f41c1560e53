"""Provenance of results: versions of libraries, the platform, and the git commit."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from graft import __version__

LIBRARIES = (
    *("torch", "numpy", "gymnasium", "stable-baselines3", "numba", "envpool", "minigrid"),
    *("ray", "optuna", "scipy", "mujoco", "ale-py", "pettingzoo", "mpe2", "box2d"),
)
"""Whose versions are recorded, where they are installed."""


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def _git_state() -> dict[str, Any]:
    """Of the code that this process has loaded: asked for once, as every stage records it."""
    status = _git("status", "--porcelain")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def provenance() -> dict[str, Any]:
    """Versions, platform, git commit and whether the working tree differs from it."""
    versions: dict[str, str] = {}
    for library in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return {
        "versions": {"graft": __version__, "python": platform.python_version(), **versions},
        "platform": platform.platform(),
        "git": {**_git_state()},
    }
