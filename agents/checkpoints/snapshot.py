"""Snapshots of a running training: safetensors and JSON in a folder, replaced atomically; no pickle."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from graft.agents.checkpoints.checkpoint import sealed
from graft.agents.checkpoints.files import flush_folder, read_file, replace_file, write_durably
from graft.errors import GraftError, printable

FORMAT = 1
MANIFEST = "snapshot.json"


class _Manifest(BaseModel):
    """What is read of a snapshot's manifest, besides what it must equal."""

    env_steps: int
    seconds: float
    values: dict[str, dict[str, Any]]
    devices: dict[str, str]
    tensors: dict[str, str]
    fresh_at: list[int] = []


class SavedState(NamedTuple):
    """State of one part of a training: tensors and JSON values by name; the order of names is not kept."""

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any]

    def group(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors whose names start with ``name/``, without it."""
        start = f"{name}/"
        return {key.removeprefix(start): t for key, t in self.tensors.items() if key.startswith(start)}


class Savable(Protocol):
    """A part of a training with a state."""

    def save(self) -> SavedState:
        """The state, not necessarily copied: it is written before training goes on."""

    def restore(self, saved: SavedState) -> None: ...


@dataclass(frozen=True)
class Snapshot:
    """A training between two rollouts: env steps and wall-clock seconds so far, over all runs, and states by part.

    ``fresh_at``: env steps at which it was resumed with fresh episodes before.
    """

    env_steps: int
    seconds: float
    parts: Mapping[str, SavedState]
    fresh_at: tuple[int, ...] = ()

    def write(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Replace the snapshot in ``folder`` atomically."""
        tensors = {f"{part}/{name}": t for part, saved in self.parts.items() for name, t in saved.tensors.items()}
        data = save_tensors({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()})
        file = f"{uuid.uuid4().hex[:16]}.safetensors"
        manifest = {
            "format": FORMAT,
            "identity": dict(identity),
            "env_steps": self.env_steps,
            "seconds": self.seconds,
            "fresh_at": list(self.fresh_at),
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
        """The snapshot in ``folder``; None where it is missing, damaged or of another ``identity``.

        Raises OSError where it is there and can't be read, and GraftError where a device that it needs is missing.
        """
        try:
            raw = read_file(folder / MANIFEST)
            manifest = json.loads(raw)
            if sealed(manifest)[1] != raw or manifest["format"] != FORMAT:
                return None
            if manifest["identity"] != json.loads(json.dumps(dict(identity))):
                return None
            found = cls._parsed(folder, parsed := _Manifest.model_validate(manifest))
            devices = {name: torch.device(device) for name, device in parsed.devices.items()}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError):
            return None
        return None if found is None else found._placed(folder, devices)

    @classmethod
    def _parsed(cls, folder: Path, manifest: _Manifest) -> Snapshot | None:
        if not re.fullmatch(r"[0-9a-f]{16}\.safetensors", manifest.tensors["file"]):
            return None
        data = read_file(folder / manifest.tensors["file"])
        if hashlib.sha256(data).hexdigest() != manifest.tensors["sha256"]:
            return None
        groups: dict[str, dict[str, torch.Tensor]] = {part: {} for part in manifest.values}
        for name, tensor in load_tensors(data).items():
            part, _, rest = name.partition("/")
            # Cloned: arithmetic may depend on how memory is aligned, and a view of the file's bytes is not.
            groups[part][rest] = tensor.clone()
        parts = {part: SavedState(groups[part], values) for part, values in manifest.values.items()}
        return cls(manifest.env_steps, manifest.seconds, parts, tuple(manifest.fresh_at))

    def _placed(self, folder: Path, devices: Mapping[str, torch.device]) -> Snapshot:
        """With each tensor of ``devices``, ``part/name`` -> device, on it."""
        try:
            parts = {
                part: saved._replace(
                    tensors={n: t.to(devices.get(f"{part}/{n}", t.device)) for n, t in saved.tensors.items()}
                )
                for part, saved in self.parts.items()
            }
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # as torch says that it has no such device
            names = ", ".join(sorted({str(device) for device in devices.values()}))
            reason = printable(" ".join(str(error).split()), 200)
            raise GraftError(
                f"The snapshot in {folder} does not fit on {names} ({reason}); continue where it does, or remove the "
                f"snapshot to start again."
            ) from error
        return replace(self, parts=parts)


@dataclass(frozen=True)
class Snapshots:
    """Where and when a training saves its snapshot, and the caller's part of it.

    Attributes:
        folder: of the snapshot alone; a training resumes from a fitting one that is there.
        identity: JSON values that say what is trained with which software: a snapshot fits where they are equal.
        seconds: between snapshots, taken before a rollout, and using at most a twentieth of the time.
        env_steps: where set, also after so many env steps.
        pause_at: where set, also before the first rollout after so many env steps of training; then ``pause`` is
            called with the env steps taken, and ends the training by an exception.
        save: returns the caller's part, such as a method's state.
        restore: gets that part and the env steps taken, before training resumes.
        fresh: called with the env steps at which a resumed training begins fresh episodes (`Snapshotter`).
        found: returns the snapshot that the caller has read already; by default it is read from ``folder``.
    """

    folder: Path
    identity: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 30.0
    env_steps: int | None = None
    pause_at: int | None = None
    pause: Callable[[int], None] = lambda env_steps: None
    save: Callable[[], SavedState] = lambda: SavedState({}, {})
    restore: Callable[[SavedState, int], None] = lambda saved, env_steps: None
    fresh: Callable[[int], None] = lambda env_steps: None
    found: Callable[[], Snapshot | None] | None = None

    def latest(self) -> Snapshot | None:
        """The snapshot to resume from, if any."""
        return Snapshot.read(self.folder, self.identity) if self.found is None else self.found()
