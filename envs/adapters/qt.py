"""Qt 5, which EnvPool's Procgen draws with: from a Python package where the system has none."""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("libicudata", "libicuuc", "libicui18n", "libQt5Core", "libQt5Gui")
"""In the order in which they need each other."""


def load_qt() -> None:
    """Load the libraries of the package PyQt5-Qt5, if it is installed, before EnvPool is imported and looks for them.

    Nothing happens where the package is missing or does not fit this machine; then EnvPool looks for the system's.
    """
    package = find_spec("PyQt5") if sys.platform == "linux" else None
    for place in (package.submodule_search_locations or ()) if package else ():
        folder = Path(place) / "Qt5" / "lib"
        for library in LIBRARIES:
            for path in sorted(folder.glob(f"{library}.so.*"))[:1]:
                try:
                    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
                except OSError:
                    return
