"""Snapshots of a training that goes on: safetensors and JSON in a folder, replaced in one step; no pickle."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from graft.agents.checkpoints.checkpoint import sealed
from graft.agents.checkpoints.files import flush_folder, replace_file, write_durably

FORMAT = 1
MANIFEST = "snapshot.json"


class SavedState(NamedTuple):
    """What one part of a training depends on: tensors by name, and JSON values by name, whose order gets lost."""

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any]

    def group(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors whose names start with ``name/``, without it."""
        start = f"{name}/"
        return {key.removeprefix(start): t for key, t in self.tensors.items() if key.startswith(start)}


class Savable(Protocol):
    """Something with a state that training depends on."""

    def save(self) -> SavedState:
        """Its state; nothing in it may be changed before it is on the disk."""

    def restore(self, saved: SavedState) -> None:
        """Go back to a state of `save`."""


@dataclass(frozen=True)
class Snapshot:
    """A training between two rollouts.

    Attributes:
        env_steps: taken by then. seconds: of wall-clock time spent by then, over all its runs.
        parts: name of a part -> what it depends on.
    """

    env_steps: int
    seconds: float
    parts: Mapping[str, SavedState]

    def write(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Replace the snapshot in ``folder``; a kill at any moment leaves the one before or this one, complete."""
        tensors = {f"{part}/{name}": t for part, saved in self.parts.items() for name, t in saved.tensors.items()}
        data = save_tensors({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()})
        file = f"{uuid.uuid4().hex[:16]}.safetensors"
        manifest = {
            "format": FORMAT,
            "identity": dict(identity),
            "env_steps": self.env_steps,
            "seconds": self.seconds,
            "values": {part: dict(saved.values) for part, saved in self.parts.items()},
            "devices": {name: str(t.device) for name, t in tensors.items() if t.device.type != "cpu"},
            "tensors": {"file": file, "sha256": hashlib.sha256(data).hexdigest()},
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / file, data)
        flush_folder(folder)
        replace_file(folder / MANIFEST, sealed(manifest)[1])
        for path in folder.iterdir():
            if path.name not in (file, MANIFEST):
                path.unlink()

    @classmethod
    def read(cls, folder: Path, identity: Mapping[str, Any]) -> Snapshot | None:
        """The snapshot in ``folder``; None where there is none, or a damaged one, or one of another ``identity``."""
        try:
            raw = (folder / MANIFEST).read_bytes()
            manifest = json.loads(raw)
            if sealed(manifest)[1] != raw or manifest["format"] != FORMAT:
                return None
            if manifest["identity"] != json.loads(json.dumps(dict(identity))):
                return None
            data = (folder / manifest["tensors"]["file"]).read_bytes()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if hashlib.sha256(data).hexdigest() != manifest["tensors"]["sha256"]:
            return None
        groups: dict[str, dict[str, torch.Tensor]] = {part: {} for part in manifest["values"]}
        for name, tensor in load_tensors(data).items():
            part, _, rest = name.partition("/")
            # Cloned: arithmetic may depend on how memory is aligned, and a view of the file's bytes is not.
            groups[part][rest] = tensor.clone().to(manifest["devices"].get(name, "cpu"))
        parts = {part: SavedState(groups[part], values) for part, values in manifest["values"].items()}
        return cls(manifest["env_steps"], manifest["seconds"], parts)


def _nothing() -> SavedState:
    return SavedState({}, {})


def _ignore(saved: SavedState, env_steps: int) -> None:
    """For callers that have nothing to put back."""


@dataclass(frozen=True)
class Snapshots:
    """Where a training keeps its latest snapshot, when it takes one, and what of its caller's goes into it.

    Attributes:
        folder: of the snapshot alone; a training that finds a fitting one there goes on from it.
        identity: JSON values that say what is trained with which software: a snapshot fits where they are equal.
        seconds: a snapshot is taken after so much time, at the next rollout's start, and never takes more than a
            twentieth of the time.
        env_steps: where set, also after so many env steps.
        save: the caller's own part, such as what a method remembers.
        restore: told, before training goes on, what ``save`` gave and the env steps taken by then.
        found: gives the snapshot that the caller has read already; by default it is read from ``folder``.
    """

    folder: Path
    identity: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 30.0
    env_steps: int | None = None
    save: Callable[[], SavedState] = _nothing
    restore: Callable[[SavedState, int], None] = _ignore
    found: Callable[[], Snapshot | None] | None = None

    def latest(self) -> Snapshot | None:
        """The snapshot that training goes on from, or None where it starts at the beginning."""
        return Snapshot.read(self.folder, self.identity) if self.found is None else self.found()
