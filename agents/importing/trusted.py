"""Pickles that the user trusts: read by their own library in a process without network, as numbers and words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from graft.agents.importing import unpickle
from graft.agents.importing.files import LARGEST_TEXT, load_safe, parse_json, read_bytes
from graft.errors import GraftError, printable

PATIENCE = 300.0  # seconds
LAST = 1 << 16  # bytes of what the process says of its errors
KEPT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "VIRTUAL_ENV")
"""Variables of the environment that the process is given; others may hold passwords."""


class Trusted(NamedTuple):
    """Tensors by name, what the configuration says, and by what the system keeps from ``network`` and ``writing``."""

    tensors: dict[str, Tensor]
    said: Mapping[str, Any]
    held: Mapping[str, list[str]]

    @property
    def protection(self) -> str:
        return ", ".join(f"{what}: {' and '.join(by) or 'none'}" for what, by in self.held.items())


def read_trusted(kind: str, path: Path, root: Path | None = None, unconfined: bool = False) -> Trusted:
    """Unpickle ``path``, of a checkpoint at ``root``, as `unpickle` does for ``kind``.

    Raises GraftError where that fails, and unless ``unconfined`` where the system can't keep the process from writing
    and connecting.

    What comes back is read as any file of somebody else's.
    """
    with tempfile.TemporaryDirectory(prefix="graft-import-") as folder:
        out = Path(folder)
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {"HOME": folder, "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
        places = [str(path.resolve()), str((root or path).resolve()), folder]
        command = [sys.executable, "-I", str(Path(unpickle.__file__)), kind, *places]
        command += ["unconfined"] if unconfined else []
        code, said = _run(command, folder, environment)
        if code is None:
            raise GraftError(f"Reading {path} took more than {PATIENCE:g} seconds, and was ended.")
        if code:
            lines = said.decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise GraftError(f"{path} could not be read by its own library: {printable(lines[-1], 200)}.")
        results = [out / name for name in ("tensors.safetensors", "said.json")]
        if any(result.is_symlink() for result in results):
            raise GraftError(f"{path} left something else than numbers.")
        tensors = load_safe(read_bytes(results[0]), str(path))
        found = parse_json(read_bytes(results[1], LARGEST_TEXT), str(path))
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("said"), dict)
        or not isinstance(found.get("held"), dict)
        or not all(isinstance(by, list) for by in found["held"].values())
    ):
        raise GraftError(f"{path} left something else than numbers.")
    held = {what: [str(word)[:40] for word in found["held"].get(what, [])] for what in ("network", "writing")}
    return Trusted(tensors, found["said"], held)


def _run(command: list[str], folder: str, environment: Mapping[str, str]) -> tuple[int | None, bytes]:
    """Exit status, None where it was ended for its time, and the last of what it wrote to stderr.

    The processes that it has started end with it, unless they have left its group.
    """
    nothing = subprocess.DEVNULL
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=nothing,
            stdout=nothing,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
            process.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - LAST))
        return code, errors.read(LAST)
