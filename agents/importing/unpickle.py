"""Run as a program of its own: unpickles what the user trusts, and writes only numbers and words into one folder.

Before anything is unpickled the process gives up the network and every place to write but that folder, as far as the
system allows without rights: a network namespace of its own, and Landlock. It imports nothing of Graft.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MEMORY, FILE, SECONDS = 16 << 30, 1 << 30, 120  # of address space, of a file that is written, of processor time

NEW_USER, NEW_NET = 0x10000000, 0x40000000
NO_NEW_PRIVS = 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))  # write, remove and make files, folders and links
REFER, TRUNCATE = 1 << 13, 1 << 14  # since the second and third version
TCP = 0b11  # bind and connect, since the fourth


def limit() -> None:
    """Memory, processor time and sizes of files, where the system has such limits."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, FILE), (resource.RLIMIT_CPU, SECONDS)):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def without_network() -> list[str]:
    """Move to a network of its own, which has no way out; only a process of one thread can. Returns what holds."""
    if not sys.platform.startswith("linux"):
        return []
    return ["network namespace"] if ctypes.CDLL(None).unshare(NEW_USER | NEW_NET) == 0 else []


def confined(out: Path) -> list[str]:
    """Keep the process from writing elsewhere and, where Landlock can, from connecting; returns what holds."""
    held: list[str] = []
    if not sys.platform.startswith("linux"):
        return held
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    version = libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return held
    writes = WRITES | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    rules = struct.pack("=QQ", writes, TCP) if version >= 4 else struct.pack("=Q", writes)
    handle = libc.syscall(LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), 0)
    place = os.open(out, os.O_RDONLY)
    allowed = libc.syscall(LANDLOCK_ADD, handle, 1, struct.pack("=Qi", writes, place), 0)
    if handle >= 0 and allowed == 0 and libc.syscall(LANDLOCK_RESTRICT, handle, 0) == 0:
        held.append("Landlock")
    os.close(place)
    return held


def flat(found: Any, path: str = "") -> dict[str, Any]:
    """Arrays in nested mappings by the keys that lead to them."""
    if isinstance(found, Mapping):
        return {name: value for key, part in found.items() for name, value in flat(part, f"{path}{key}.").items()}
    array = found.detach().cpu().numpy() if hasattr(found, "detach") else found
    return {path[:-1]: array} if hasattr(array, "dtype") and array.dtype.kind in "fiub" else {}


def words(found: Any) -> dict[str, Any]:
    """What of a mapping or an object is a number or a word."""
    entries = found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
    return {str(key): value for key, value in entries.items() if isinstance(value, str | int | float | bool)}


def load(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def rllib(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and configuration of a module of RLlib's new stack."""
    said = words(load(path / "class_and_ctor_args.pkl")["ctor_args_and_kwargs"][1].get("model_config") or {})
    return flat(load(path / "module_state.pkl")), said


def vec_normalize(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Statistics of a VecNormalize of Stable-Baselines3."""
    found = load(path)
    said = {"clip": float(found.clip_obs), "epsilon": float(found.epsilon), "norm_obs": bool(found.norm_obs)}
    parts = found.obs_rms if isinstance(found.obs_rms, Mapping) else {"": found.obs_rms}
    if said["norm_obs"]:
        return {f"{name}/{key}": getattr(of, key) for name, of in parts.items() for key in ("mean", "var")}, said
    return {}, said


READERS = {"rllib": rllib, "vec_normalize": vec_normalize}


def main(kind: str, path: str, out: str) -> None:
    held = without_network()  # before numpy starts threads
    import numpy
    from safetensors.numpy import save_file

    limit()
    held += confined(Path(out))
    tensors, said = READERS[kind](Path(path))
    numbers = {name: numpy.ascontiguousarray(value, numpy.float32) for name, value in tensors.items()}
    save_file(numbers, Path(out) / "tensors.safetensors")
    (Path(out) / "said.json").write_text(json.dumps({"said": said, "held": held}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
