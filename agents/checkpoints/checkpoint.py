"""Checkpoints: safetensors and JSON in a folder, written atomically, checked by hash when loaded; no pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch.overrides import TorchFunctionMode

from graft.agents.checkpoints.files import flush_folder, read_file, write_durably
from graft.agents.checkpoints.form import check_form
from graft.agents.checkpoints.old_actions import scaled
from graft.agents.checkpoints.old_encoders import with_old_defaults
from graft.agents.checkpoints.old_masks import without_masks
from graft.agents.checkpoints.old_names import translated
from graft.agents.networks.box_units import KEY, SCALED
from graft.agents.networks.encoder import Stem
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.pretrained import checkpoint_folder, pretrained
from graft.envs.builtin.old_views import DEFAULTS, with_view
from graft.envs.core.naming import NAMES
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError, nearest, printable, shown

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights"

UNSPECIFIED = "unspecified"
"""The licence of a checkpoint of which nobody said one."""


_NETWORK = TypeAdapter(NetworkConfig)
_STEMS = TypeAdapter(tuple[Stem, ...])

_OF_A_FILE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, SafetensorError)
"""What a manifest or tensors that Graft did not write make its code raise; too little memory is none of it."""


def _previous(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.previous")


def sealed(manifest: Mapping[str, Any]) -> tuple[str, bytes]:
    """The id of a manifest (sha256 of its canonical text without the id) and the text with the id in it."""
    plain = json.dumps({k: v for k, v in manifest.items() if k != "id"}, sort_keys=True)
    digest = hashlib.sha256(plain.encode()).hexdigest()
    return digest, json.dumps({**manifest, "id": digest}, sort_keys=True, indent=1).encode()


def unsealed(text: bytes) -> dict[str, Any] | None:
    """What `sealed` made ``text`` of, with its id; None where it was truncated or altered."""
    try:
        manifest = json.loads(text)
        return cast(dict[str, Any], manifest) if sealed(manifest)[1] == text else None
    except (ValueError, AttributeError, RecursionError):
        return None


@dataclass(frozen=True)
class Checkpoint:
    """A saved policy network, with what is needed to rebuild it and its origin.

    Attributes:
        network: architecture, with the encoder's name resolved.
        task, schemas: what the network plays.
        tensors: by the names of `PolicyNetwork`.
        parts: further groups of tensors (such as a method's state), each a file.
        lineage: ids of the checkpoints it descends from, parent first.
        stems: the encoder's; None in checkpoints of versions that did not save them.
        record: method, seed, env steps, versions, evaluation, licence: any JSON values.
        id: sha256 of the manifest; None before it is saved.
    """

    network: NetworkConfig
    schemas: Schemas
    task: Task
    tensors: Mapping[str, torch.Tensor]
    parts: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    lineage: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    stems: tuple[Stem, ...] | None = None

    @classmethod
    def of(cls, network: PolicyNetwork, task: Task, **rest: Any) -> Checkpoint:
        """A checkpoint of ``network``; its tensors are copied to the CPU."""
        tensors = {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}
        return cls(network.config, network.schemas, task, tensors, stems=network.encoder.stems, **rest)

    def build(self) -> PolicyNetwork:
        """The network with these weights; nothing of it is frozen. Raises GraftError where they do not fit."""
        with _as_written(self.id or "(not saved)"), _NoLarger(self.tensors):
            network = build_network(self.schemas, self.network, seed=0)
            network.load_exactly(self.tensors)
            return network

    def save(self, folder: Path) -> str:
        """Write to ``folder`` atomically (an old one is ``<name>.previous`` meanwhile); returns the checkpoint's id."""
        files = {
            f"{part}.safetensors": save_tensors({n: t.contiguous() for n, t in tensors.items()})
            for part, tensors in {WEIGHTS: self.tensors, **self.parts}.items()
        }
        manifest = {
            "format": FORMAT,
            "names": NAMES,
            KEY: SCALED,
            DEFAULTS: 2,
            "network": self.network.to_json(),
            "observation": self.schemas.observation.to_json(),
            "action": self.schemas.action.to_json(),
            "task": self.task.to_json(),
            "lineage": list(self.lineage),
            "record": dict(self.record),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        if self.stems is not None:
            manifest["stems"] = [stem._asdict() for stem in self.stems]
        identity, text = sealed(manifest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        fresh.mkdir()
        for name, data in {**files, MANIFEST: text}.items():
            write_durably(fresh / name, data)
        if folder.exists():
            shutil.rmtree(_previous(folder), ignore_errors=True)
            folder.rename(_previous(folder))
        flush_folder(fresh)
        fresh.rename(folder)
        flush_folder(folder.parent)
        shutil.rmtree(_previous(folder), ignore_errors=True)
        return identity

    @classmethod
    def load(cls, folder: Path | str) -> Checkpoint:
        """Read ``folder``, or the checkpoint of this name that comes with Graft.

        Raises GraftError for a missing, truncated or altered file, or another format version.

        Of earlier versions, names of observations and actions are translated (`translated`), policies of boxes that
        played in the environment's numbers are converted to today's units (`scaled`), tasks of built-in games say the
        view that was their default (`with_view`), others that they show no masks where they did not (`without_masks`),
        and networks the options that were their defaults (`with_old_defaults`).
        """
        folder = Path(folder)
        if not folder.exists() and _previous(folder).exists():
            folder = _previous(folder)
        folder = checkpoint_folder(folder)
        manifest = read_manifest(folder)
        with _as_written(folder):
            return cls._parsed(folder, manifest)

    @classmethod
    def _parsed(cls, folder: Path, manifest: dict[str, Any]) -> Checkpoint:
        groups: dict[str, Mapping[str, torch.Tensor]] = {}
        for name, expected in manifest["files"].items():
            if Path(name).name != name:
                raise GraftError(f"{folder / MANIFEST} names {shown(name)}, which is no file beside it.")
            data = _read(folder / name)
            if hashlib.sha256(data).hexdigest() != expected:
                raise GraftError(
                    f"Checkpoint file {folder / name} was truncated or altered: its sha256 is not the one in "
                    f"{MANIFEST}; restore it from a copy or train it again."
                )
            groups[name.removesuffix(".safetensors")] = load_tensors(data)
        if manifest.get(KEY) != SCALED:
            groups = scaled(manifest, groups, WEIGHTS)
        if DEFAULTS not in manifest:
            manifest["network"] = with_old_defaults(manifest["network"], manifest["observation"])
            manifest["task"] = without_masks(with_view(manifest["task"], manifest["observation"]), manifest)
        if manifest.get("names", 1) < NAMES:
            manifest = translated(manifest)
        return cls(
            network=_NETWORK.validate_python(vars(NetworkConfig.from_json(manifest["network"]))),
            schemas=Schemas(
                ObservationSchema.from_json(manifest["observation"]), ActionSchema.from_json(manifest["action"])
            ),
            task=Task.from_json(manifest["task"]),
            tensors=groups.pop(WEIGHTS),
            parts=groups,
            lineage=tuple(manifest["lineage"]),
            record=manifest["record"],
            id=manifest["id"],
            stems=_STEMS.validate_python(tuple(map(Stem.from_json, manifest["stems"])))
            if "stems" in manifest
            else None,
        )


class _NoLarger(TorchFunctionMode):  # type: ignore[misc,unused-ignore]
    """While it is entered, a network that is far larger than its ``tensors`` is refused before its weights are drawn.

    A manifest of some bytes may declare layers that take hours and all memory. What is made has not been touched yet,
    so that it takes no memory.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        # Buffers that are not saved, and layers that are replaced while a network is made, come on top.
        self._numbers = 4 * sum(tensor.numel() for tensor in tensors.values()) + (1 << 20)
        self._count = 4 * len(tensors) + 1000

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.empty:
            self._numbers -= result.numel()
            self._count -= 1
            if min(self._numbers, self._count) < 0:
                raise GraftError("The tensors do not fit the network: its layers are far larger than they are.")
        return result


@contextmanager
def _as_written(what: Path | str) -> Iterator[None]:
    """Raises GraftError for what comes of a manifest or tensors that Graft did not write.

    Who makes a manifest up can seal it, and what is wrong then shows anywhere: in a schema, in torch, in an encoder.
    """
    try:
        yield
    except GraftError:
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        SafetensorError,
    ) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = printable(" ".join(str(error).split()), 200)
        raise GraftError(
            f"Checkpoint {what} holds something else than Graft writes ({type(error).__name__}: {said}); restore it "
            f"from a copy or train it again."
        ) from error


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise GraftError(f"Checkpoint file {path} is missing or cannot be read ({error.strerror}).") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the checkpoint in ``folder``, as it was written; raises GraftError as `Checkpoint.load`."""
    folder = checkpoint_folder(folder)
    if not folder.is_dir():
        close = nearest(str(folder), pretrained(), 0.8)
        hint = f" Did you mean '{close}'?" if close else ""
        raise GraftError(
            f"There is no checkpoint at {folder}; a checkpoint is a folder that holds {MANIFEST}, or one that comes "
            f"with Graft: {', '.join(pretrained())}.{hint}"
        )
    manifest = unsealed(_read(folder / MANIFEST))
    if manifest is None:
        raise GraftError(f"Checkpoint file {folder / MANIFEST} was truncated or altered; restore it or train again.")
    if manifest.get("format") != FORMAT:
        raise GraftError(
            f"Checkpoint {folder} has format {shown(manifest.get('format'))}; this version reads {FORMAT}."
        )
    check_form(manifest, folder / MANIFEST)
    return manifest
