"""Tensors from files that nobody vouches for: nothing in them is executed, and sizes are checked before reading."""

from __future__ import annotations

import io
import json
import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors

from graft.errors import GraftError

MIB = 1 << 20
LARGEST_FILE = 512 * MIB
"""Bytes of a file, of all members of an archive together, and of all tensors in it."""

LARGEST_TEXT = 16 * MIB
"""Bytes of JSON, of a header or of a pickle's instructions."""

MOST_MEMBERS = 10_000
"""Of an archive; torch keeps a member for each tensor."""

MOST_VALUES, MOST_INSTRUCTIONS = 200_000, 2_000_000
"""Mappings, lists, tensors and numbers in a file of tensors, and instructions of its pickle."""

LONGEST_NAME = 300  # characters of a tensor's name

SAFE_TORCH = (2, 10)
"""Earlier versions of ``torch.load(weights_only=True)`` can be made to run code (CVE-2025-32434, CVE-2026-24747)."""

GLOBALS = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
    | {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Int", "Long", "Short")}
    | {f"torch {kind}Storage" for kind in ("Char", "Byte", "Bool")}
)
"""What the pickle inside a file of tensors may name; ``weights_only`` allows more, such as huge byte arrays."""

FORBIDDEN_OPCODES = frozenset(
    {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "DUP", "LONG4"}
)


def read_bytes(path: Path, limit: int = LARGEST_FILE) -> bytes:
    """The file; raises GraftError for one that is missing or above ``limit`` bytes."""
    if not path.exists():
        raise GraftError(f"There is no file {path}.")
    if not path.is_file():
        raise GraftError(f"{path} is not a file.")
    if (size := path.stat().st_size) > limit:
        raise GraftError(f"{path} has {size:,} bytes; at most {limit:,} are read.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise GraftError(f"{path} cannot be read ({error.strerror}).") from error


class Archive:
    """A zip file in memory, whose members are read by name; nothing is ever unpacked into a folder.

    Raises GraftError for a broken archive, one with too many members, with members that say that they are larger than
    the limits, that are encrypted, or that appear twice.
    """

    def __init__(self, data: bytes, what: str, compressed: bool = True) -> None:
        self._what = what
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, OverflowError, struct.error) as error:
            raise GraftError(f"{what} is not a zip archive, or it is damaged ({error}).") from error
        members = self._zip.infolist()
        if len(members) > MOST_MEMBERS:
            raise GraftError(f"{what} has {len(members):,} members; at most {MOST_MEMBERS:,} are read.")
        if (total := sum(member.file_size for member in members)) > LARGEST_FILE:
            raise GraftError(f"The members of {what} have {total:,} bytes; at most {LARGEST_FILE:,} are read.")
        names = [member.filename for member in members]
        if len(set(names)) != len(names):
            raise GraftError(f"{what} has two members of one name.")
        outside = [name for name in names if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name)]
        if outside:
            raise GraftError(f"{what} has a member outside of the archive: {outside[0]!r}.")
        if any(member.flag_bits & 1 for member in members):
            raise GraftError(f"{what} is encrypted.")
        # Members that overlap let a small file hold a large one many times.
        if not compressed and (total > len(data) or any(m.compress_type != zipfile.ZIP_STORED for m in members)):
            raise GraftError(f"{what} has compressed members; torch.save writes none.")

    @property
    def names(self) -> list[str]:
        return self._zip.namelist()

    def read(self, name: str, limit: int = LARGEST_FILE) -> bytes:
        """One member; raises GraftError where it is missing, damaged, or larger than it says or ``limit``."""
        if name not in self.names:
            raise GraftError(f"{self._what} has no member {name!r}.")
        if (size := self._zip.getinfo(name).file_size) > limit:
            raise GraftError(f"Member {name!r} of {self._what} has {size:,} bytes; at most {limit:,} are read.")
        try:
            with self._zip.open(name) as member:
                data = member.read(size + 1)
        except Exception as error:  # of zlib, lzma, bz2 and zipfile
            raise GraftError(f"Member {name!r} of {self._what} is damaged ({error}).") from error
        if len(data) != size:
            raise GraftError(f"Member {name!r} of {self._what} has another size than the archive says.")
        return data


def parse_json(data: bytes, what: str) -> Any:
    """JSON; raises GraftError for anything else, and for nesting that is too deep."""
    if len(data) > LARGEST_TEXT:
        raise GraftError(f"{what} has {len(data):,} bytes; at most {LARGEST_TEXT:,} are read.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GraftError(f"{what} is not JSON ({error}).") from error


def _check_torch() -> None:
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_TORCH:
        raise GraftError(
            f"torch {torch.__version__} is not safe for files of others (CVE-2026-24747); files that torch.save wrote "
            f"need torch {'.'.join(map(str, SAFE_TORCH))} or newer."
        )


def _check_pickle(instructions: bytes, what: str) -> None:
    """Raise GraftError where a pickle names anything but tensors and mappings, before anything reads it."""
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(instructions)):
            if count >= MOST_INSTRUCTIONS:
                raise GraftError(f"{what} has a pickle of more than {MOST_INSTRUCTIONS:,} instructions.")
            if opcode.name in FORBIDDEN_OPCODES or (opcode.name == "GLOBAL" and argument not in GLOBALS):
                named = str(argument).replace(" ", ".") if opcode.name == "GLOBAL" else opcode.name
                raise GraftError(
                    f"{what} holds more than tensors ({named[:80]}), which is not read, because it could run code; "
                    f"save the state dict alone: torch.save(model.state_dict(), file)."
                )
    except GraftError:
        raise
    except Exception as error:  # pickletools raises many kinds
        raise GraftError(f"{what} is damaged ({error}).") from error


def load_torch(data: bytes, what: str) -> Any:
    """What ``torch.save`` wrote: tensors, numbers and text in mappings and lists; all tensors on the CPU.

    Raises:
        GraftError: a file that is damaged, of torch before 1.6, that holds more than tensors, or that is too large.
    """
    _check_torch()
    if not data.startswith(b"PK"):
        raise GraftError(f"{what} is not a file of torch.save (since 1.6, when these became zip archives).")
    archive = Archive(data, what, compressed=False)
    pickles = [name for name in archive.names if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise GraftError(f"{what} is not a file of torch.save: it has {len(pickles)} members data.pkl.")
    if any("constants.pkl" in name or "/code/" in name for name in archive.names):
        raise GraftError(f"{what} is a TorchScript file, which is a program; save its state dict instead.")
    _check_pickle(archive.read(pickles[0], LARGEST_TEXT), what)
    # Torch reads zip archives by itself, and would see other members than were checked where there are two directories.
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w", zipfile.ZIP_STORED) as rebuilt:
        for name in archive.names:
            rebuilt.writestr(name, archive.read(name))
    checked.seek(0)
    try:
        found = torch.load(checked, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise GraftError(f"{what} cannot be read: {reason}") from error
    _check_total(tensor for _, tensor in walk(found, what))
    return found


def walk(found: Any, what: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested mappings and lists, under the keys that lead to it, joined by dots.

    Raises GraftError for nesting that is too deep, too many values, and names that are no plain words.
    """
    waiting: list[tuple[str, Any, int]] = [("", found, 0)]
    count = 0
    while waiting:
        path, value, depth = waiting.pop()
        if depth > 16:
            raise GraftError(f"{what} is nested more than 16 deep.")
        if isinstance(value, torch.Tensor):
            yield path, value
            continue
        if not isinstance(value, Mapping | list | tuple):
            continue
        if (count := count + len(value)) > MOST_VALUES:
            raise GraftError(f"{what} holds more than {MOST_VALUES:,} values, some perhaps many times.")
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        waiting += [(_joined(path, key, what), inner, depth + 1) for key, inner in pairs][::-1]


def _joined(path: str, key: Any, what: str) -> str:
    """The name of what is at ``key``; raises GraftError for one that a terminal or a table can't show."""
    if not isinstance(key, str | int) or (isinstance(key, int) and abs(key) >= 1 << 63):
        raise GraftError(f"{what} has a key that is neither a word nor a number.")
    if isinstance(key, str) and (len(key) > LONGEST_NAME or not key.isprintable()):
        raise GraftError(f"{what} has the key {key[:40]!r}, which is too long or has characters that are not shown.")
    return f"{path}.{key}" if path else str(key)


def _check_total(tensors: Iterator[torch.Tensor]) -> None:
    total = 0
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise GraftError("Sparse tensors and tensors without values are not read.")
        # As float32, which all become; strides of 0 make a large one out of a number.
        total += tensor.numel() * max(tensor.element_size(), 4)
        if total > LARGEST_FILE:
            raise GraftError(
                f"The file's tensors have more than {LARGEST_FILE:,} bytes as numbers of 4, the most that is read."
            )


def plain_tensors(found: Any, what: str) -> dict[str, torch.Tensor]:
    """`walk` as float32; raises GraftError for two of one name, or complex numbers."""
    tensors: dict[str, torch.Tensor] = {}
    named = list(walk(found, what))
    _check_total(tensor for _, tensor in named)
    for name, tensor in named:
        if name in tensors:
            raise GraftError(f"{what} has two tensors {name!r}.")
        if tensor.is_complex():
            raise GraftError(f"Tensor {name!r} of {what} has complex numbers.")
        tensors[name] = tensor.detach().to(torch.float32, copy=True).contiguous()
    return tensors


def load_safe(data: bytes, what: str) -> dict[str, torch.Tensor]:
    """A safetensors file; raises GraftError for a damaged one or a header above the limit."""
    if len(data) < 8 or int.from_bytes(data[:8], "little") > min(LARGEST_TEXT, len(data)):
        raise GraftError(f"{what} is not a safetensors file, or its header is too large.")
    try:
        return plain_tensors(load_safetensors(data), what)
    except GraftError:
        raise
    except Exception as error:  # the library's own kinds
        raise GraftError(f"{what} is not a safetensors file ({str(error)[:200]}).") from error


def load_npz(data: bytes, what: str, most: int) -> dict[str, NDArray[Any]]:
    """Arrays of a ``.npz`` file; raises GraftError for one that holds objects, which are pickles, or more than ``most``
    numbers.
    """
    archive, arrays = Archive(data, what), dict[str, NDArray[Any]]()
    for name in archive.names:
        raw = archive.read(name, 16 * most + MIB)
        stream = io.BytesIO(raw)
        try:
            major, _ = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if dtype.hasobject or dtype.kind not in "fiub":
                raise ValueError(f"{name} holds {dtype}, not numbers")
            if math.prod(shape) * dtype.itemsize != len(raw) - stream.tell():
                raise ValueError(f"{name} has another size than its header says")
            if (total := sum(array.size for array in arrays.values()) + math.prod(shape)) > most:
                raise ValueError(f"it has {total:,} numbers, at most {most:,} are read")
            arrays[name.removesuffix(".npy")] = np.load(io.BytesIO(raw), allow_pickle=False)
        except Exception as error:  # numpy raises many kinds
            raise GraftError(f"{what} cannot be read: {str(error).partition(chr(10))[0][:200]}.") from error
    return arrays
