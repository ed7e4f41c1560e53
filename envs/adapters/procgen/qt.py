"""Qt 5, which EnvPool's Procgen draws with: from a Python package where the system has none."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("libicudata", "libicuuc", "libicui18n", "libQt5Core", "libQt5Gui")
"""In the order in which they need each other."""


def load_qt() -> None:
    """Load the libraries of the package PyQt5-Qt5, if it is installed, before EnvPool is imported and looks for them.

    Nothing happens where the package is missing or does not fit this machine; then EnvPool looks for the system's.
    """
    for folder in _folders():
        for library in LIBRARIES:
            for path in sorted(folder.glob(f"{library}.so.*"))[:1]:
                try:
                    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
                except OSError:
                    return


def found_qt() -> bool:
    """Whether the package or the system has what EnvPool's Procgen needs, without loading it."""
    needed = LIBRARIES[-2:]
    if any(all(list(folder.glob(f"{library}.so.*")) for library in needed) for folder in _folders()):
        return True
    return all(ctypes.util.find_library(library.removeprefix("lib")) for library in needed)


def _folders() -> Iterator[Path]:
    package = find_spec("PyQt5") if sys.platform == "linux" else None
    for place in (package.submodule_search_locations or ()) if package else ():
        yield Path(place) / "Qt5" / "lib"
