"""The contract beside an exported model, and its test vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from graft.agents.checkpoints.checkpoint import Checkpoint, sealed, unsealed
from graft.agents.checkpoints.files import read_file
from graft.agents.export.parity import Run, tied
from graft.agents.export.ports import Interface
from graft.agents.export.recording import Recording
from graft.envs.core.options import sentence
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.errors import GraftError

FORMAT = 1
REQUIRED = (
    *("model", "vectors", "checkpoint", "format", "graft"),
    *("inputs", "outputs", "constants", "observation", "actions", "sampling"),
)
VECTORS = 32  # states in the file of test vectors


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _File(_Part):
    sha256: str
    bytes: int


class _Port(_Part):
    name: str
    shape: list[int | str]
    dtype: Literal["float32", "float64", "uint8", "int8", "int32", "int64", "bool"] = "float32"


class _Task(_Part):
    id: str


class _Made(_Part):
    id: str | None  # of a checkpoint that was never saved
    task: _Task


class _Contract(_Part):
    """What is read of a contract, but for the schemas."""

    model: _File
    vectors: _File
    checkpoint: _Made
    format: str
    graft: str
    inputs: list[_Port]
    outputs: list[_Port]
    constants: dict[str, Any]
    observation: dict[str, Any]
    actions: dict[str, Any]
    sampling: str


def beside(model: Path, kind: str) -> Path:
    """The file of a kind, ``contract`` or ``vectors``, that belongs to a model; models of one stem have their own."""
    return model.with_name(f"{model.name}.{kind}.json")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def vectors(interface: Interface, run: Run, recording: Recording, actions: ActionSchema) -> bytes:
    """Inputs of some states and what the model gives for them, as JSON: nested lists by name.

    States in which another runtime may round to another action (`tied`) are left out, unless all are such.
    """
    clear = np.flatnonzero(~tied(recording.scores, actions))
    rows = clear if len(clear) else np.arange(len(recording.observations))
    spread = np.unique(np.linspace(0, len(rows) - 1, min(VECTORS, len(rows))).astype(np.int64))
    inputs = interface.feed(recording.observations[rows[spread]])
    outputs = run(inputs)
    names = [port.name for port in interface.outputs if not port.sampled]
    data = {
        "inputs": {port.name: inputs[port.name].tolist() for port in interface.inputs},
        "outputs": {name: outputs[name].tolist() for name in names},
    }
    return json.dumps(data).encode()


def described_interface(interface: Interface, schemas: Schemas) -> dict[str, Any]:
    """The entries of a contract that follow from the agent alone, as JSON values."""
    found = {
        "inputs": [port.to_json() for port in interface.inputs],
        "outputs": [port.to_json() for port in interface.outputs],
        "constants": {name: value.tolist() for name, value in interface.constants.items()},
        "observation": schemas.observation.to_json(),
        "actions": schemas.action.to_json(),
        "sampling": interface.sampling,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def contract(
    checkpoint: Checkpoint, interface: Interface, files: Mapping[str, tuple[str, bytes]], **entries: Any
) -> bytes:
    """The text of a contract, sealed by its ``id``.

    Args:
        files: ``model`` and ``vectors`` -> name and content.
        entries: further ones, such as ``format``, ``graft`` (the version), ``parity`` and ``latency``.
    """
    described = {
        kind: {"file": name, "sha256": digest(data), "bytes": len(data)} for kind, (name, data) in files.items()
    }
    text = {
        "contract": FORMAT,
        **described,
        "checkpoint": {
            "id": checkpoint.id,
            "lineage": list(checkpoint.lineage),
            "task": checkpoint.task.to_json(),
            "licence": checkpoint.record.get("licence"),
        },
        **described_interface(interface, checkpoint.schemas),
        "notes": list(interface.notes),
        **({"distilled": checkpoint.record["distilled"]} if "distilled" in checkpoint.record else {}),
        **entries,
    }
    return sealed(text)[1]


def read_contract(model: Path) -> dict[str, Any]:
    """The contract beside a model; raises GraftError where it is missing, edited or of another version."""
    path = beside(model, "contract")
    found = unsealed(read_bytes(path))
    if found is None:
        raise GraftError(f"{path} was truncated or edited: its text is not the one that its id seals; export again.")
    if found.get("contract") != FORMAT:
        raise GraftError(f"{path} has version {found.get('contract')}; this version of Graft reads {FORMAT}.")
    if lacking := [name for name in REQUIRED if name not in found]:
        raise GraftError(f"{path} lacks {', '.join(lacking)}; export again.")
    try:
        _Contract.model_validate(found)
        ObservationSchema.from_json(found["observation"])
        ActionSchema.from_json(found["actions"])
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))
        raise GraftError(f"{path} was edited: {sentence(where, detail)} Export again.") from error
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise GraftError(f"{path} was edited: its observation or actions are no schema; export again.") from error
    contents: dict[str, Any] = found
    return contents


def checked_model(model: Path) -> tuple[bytes, dict[str, Any]]:
    """A model's file and its contract; raises GraftError where they do not belong together, too."""
    data, found = read_bytes(model), read_contract(model)
    if digest(data) != found["model"].get("sha256"):
        raise GraftError(
            f"{model} is not the model of its contract ({len(data):,} bytes, the contract's has "
            f"{found['model'].get('bytes')}): one of them is of another export, truncated or edited; export again."
        )
    return data, found


def read_bytes(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise GraftError(f"{path} is missing or cannot be read ({error.strerror}).") from error
