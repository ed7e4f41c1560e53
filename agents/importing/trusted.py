"""Pickles that the user trusts: read by their own library in a process without network, as numbers and words."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from graft.agents.importing import unpickle
from graft.agents.importing.files import LARGEST_TEXT, load_safe, parse_json, read_bytes
from graft.errors import GraftError

PATIENCE = 300.0  # seconds
KEPT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "VIRTUAL_ENV")
"""Variables of the environment that the process is given; others may hold passwords."""


class Trusted(NamedTuple):
    """Tensors by name, what the configuration says, and which protections the system has granted."""

    tensors: dict[str, Tensor]
    said: Mapping[str, Any]
    held: list[str]

    @property
    def protection(self) -> str:
        return ", ".join(self.held) or "none: this system has no way without rights to cut a process off"


def read_trusted(kind: str, path: Path) -> Trusted:
    """Unpickle ``path`` as `unpickle` does for ``kind``; raises GraftError where that fails.

    What comes back is read as any file of somebody else's.
    """
    with tempfile.TemporaryDirectory(prefix="graft-import-") as folder:
        out = Path(folder)
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {"HOME": folder, "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-I", str(Path(unpickle.__file__)), kind, str(path.resolve()), folder]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, timeout=PATIENCE, capture_output=True, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise GraftError(f"Reading {path} took more than {PATIENCE:g} seconds, and was ended.") from error
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise GraftError(f"{path} could not be read by its own library: {lines[-1][:200]}.")
        results = [out / name for name in ("tensors.safetensors", "said.json")]
        if any(result.is_symlink() for result in results):
            raise GraftError(f"{path} left something else than numbers.")
        tensors = load_safe(read_bytes(results[0]), str(path))
        found = parse_json(read_bytes(results[1], LARGEST_TEXT), str(path))
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("said"), dict)
        or not isinstance(found.get("held"), list)
    ):
        raise GraftError(f"{path} left something else than numbers.")
    return Trusted(tensors, found["said"], [str(word) for word in found["held"]])
