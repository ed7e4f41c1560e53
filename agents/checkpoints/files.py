"""Durable and atomic file writes."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Write and flush to the disk, not only to the operating system."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_file(path: Path) -> bytes:
    """The content; raises OSError as `Path.read_bytes`, and for pipes, which would wait, and devices without an end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file of its own", str(path))
    return path.read_bytes()


def flush_folder(folder: Path) -> None:
    """Bring renames in ``folder`` to the disk; only POSIX can, elsewhere it does nothing."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader, or a restart after a kill, sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write_durably(temporary, data)
    except OSError:  # of a full disk, which it would keep full
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)
    flush_folder(path.parent)
