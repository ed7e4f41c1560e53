"""Numba compilation with a disk cache whose key covers the sources of all rules that are compiled together.

Numba's own key covers only the file of the compiled function, not those of the functions that it calls. Here the cache
folder's name is a hash of the rules, the engine's sources, and every source file in the folders of the rules.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F, **more: Any) -> F:
    """Compile a rule or helper; it is inlined into the kernels that call it, so it needs no cache of its own.

    Only compiled code can call it: it has no wrappers for Python and C, which would take 40 % of the compilation.
    """
    njit: Any = numba.njit  # its types leave these two out
    options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **more}
    return njit(**options)(function)  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """`jit` for a long rule of every step, which LLVM would call: a call passes each array of the state, for 0.2 us."""
    return jit(function, forceinline=True)


def _cache_root() -> Path:
    """``$GRAFT_CACHE_DIR``, else the user's cache folder, else a temporary one where neither can be written."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "graft"
    root = Path(os.environ.get("GRAFT_CACHE_DIR", default))
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / "graft"
    return root if os.access(root, os.W_OK) else Path(tempfile.gettempdir()) / "graft"


def _cache_folder(name: str, rules: dict[str, Any]) -> Path:
    """A folder of its own for these rules in this state of the sources, of the engine and of the rules' neighbours."""
    functions = {role: rule.py_func for role, rule in rules.items()}
    identity = {role: f"{f.__module__}.{f.__qualname__}" for role, f in functions.items()}
    digest = hashlib.sha256(json.dumps([numba.__version__, name, identity], sort_keys=True).encode())
    folders = {Path(__file__).parent, *(Path(f.__code__.co_filename).parent for f in functions.values())}
    for source in sorted(path for folder in folders for path in folder.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    return _cache_root() / f"numba-{digest.hexdigest()[:16]}"


def specialise(template: Any, rules: dict[str, Any]) -> Callable[..., Any]:
    """A compiled copy of ``template`` in which the global names in ``rules`` are these compiled functions.

    A closure over the rules would say the same, but Numba can't cache one on disk (its key would hold the identity
    of the function objects), and every worker process would compile for seconds.
    """
    first = next(iter(rules.values())).py_func
    function = FunctionType(template.__code__, {**template.__globals__, **rules}, template.__name__)
    function.__module__ = first.__module__
    function.__qualname__ = f"{template.__name__}__{first.__name__}"
    compiled: Callable[..., Any] = _cached(function, _cache_folder(template.__name__, rules))
    return compiled


def standalone(function: F) -> F:
    """Compile a loop over a batch that depends on no game's rules; it has a cache of its own."""
    compiled: Any = _cached(function, _cache_folder(function.__name__, {"": jit(function)}))
    return compiled  # type: ignore[no-any-return]


def _cached(function: Any, folder: Path) -> Any:
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        return numba.njit(error_model="numpy", cache=True)(function)
    finally:
        config.CACHE_DIR = before
