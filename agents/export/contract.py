"""The contract beside an exported model, and its test vectors: written with it, and checked against it later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.agents.checkpoints.checkpoint import Checkpoint, sealed
from graft.agents.export.parity import FORBIDDEN, TOLERANCE, Parity, Run
from graft.agents.export.ports import Arrays, Interface
from graft.errors import GraftError

Array = NDArray[Any]

FORMAT = 1
VECTORS = 32  # states in the file of test vectors


def beside(model: Path, kind: str) -> Path:
    """The file of a kind, ``contract`` or ``vectors``, that belongs to a model."""
    return model.with_name(f"{model.stem}.{kind}.json")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def vectors(interface: Interface, run: Run, observations: Array) -> bytes:
    """Inputs of some states and what the model gives for them, as JSON: nested lists by name."""
    inputs = interface.feed(observations[spread(len(observations))])
    outputs = run(inputs)
    kept = [port.name for port in interface.outputs if not port.sampled]
    data = {
        "inputs": {port.name: inputs[port.name].tolist() for port in interface.inputs},
        "outputs": {name: outputs[name].tolist() for name in kept},
    }
    return json.dumps(data).encode()


def spread(count: int) -> NDArray[np.int64]:
    """Indices of up to `VECTORS` states, from all over the recording."""
    return np.unique(np.linspace(0, count - 1, min(VECTORS, count)).astype(np.int64))


def contract(
    checkpoint: Checkpoint, interface: Interface, parity: Parity, files: Mapping[str, tuple[str, bytes]], **rest: Any
) -> bytes:
    """The text of a contract, sealed by its ``id``.

    Args:
        files: ``model`` and ``vectors`` -> name and content.
        rest: further entries, such as ``format``, ``graft`` (the version) and ``latency``.
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
        "inputs": [port.to_json() for port in interface.inputs],
        "outputs": [port.to_json() for port in interface.outputs],
        "constants": {name: value.tolist() for name, value in interface.constants.items()},
        "actions": checkpoint.schemas.action.to_json(),
        "sampling": interface.sampling,
        "notes": list(interface.notes),
        "parity": parity.to_json(),
        **rest,
    }
    return sealed(text)[1]


def read_contract(model: Path) -> dict[str, Any]:
    """The contract beside a model; raises GraftError where it is missing, edited or of another version."""
    path = beside(model, "contract")
    raw = _read(path)
    try:
        found = json.loads(raw)
        intact = sealed(found)[1] == raw
    except (ValueError, AttributeError):
        intact = False
    if not intact:
        raise GraftError(f"{path} was truncated or edited: its text is not the one that its id seals; export again.")
    if found.get("contract") != FORMAT:
        raise GraftError(f"{path} has version {found.get('contract')}; this version of Graft reads {FORMAT}.")
    contents: dict[str, Any] = found
    return contents


def verify(model: Path, checkpoint: Checkpoint | None = None) -> list[str]:
    """Check a model with its contract and its test vectors; returns what was found, as sentences.

    Args:
        checkpoint: the agent that the model should be of; None is not checked.
    Raises:
        GraftError: a file that is missing, truncated, edited or of another export, or a model that gives other numbers.
    """
    data, found = _read(model), read_contract(model)
    if digest(data) != found["model"]["sha256"]:
        raise GraftError(
            f"{model} is not the model of its contract ({len(data):,} bytes, the contract's has "
            f"{found['model']['bytes']:,}): one of them is of another export, truncated or edited; export again."
        )
    path = beside(model, "vectors")
    recorded = _read(path)
    if digest(recorded) != found["vectors"]["sha256"]:
        raise GraftError(f"{path} is not the file of test vectors of its contract; export again.")
    if checkpoint is not None and checkpoint.id != found["checkpoint"]["id"]:
        raise GraftError(
            f"{model} is of checkpoint {found['checkpoint']['id'][:12]}, and the one given is "
            f"{str(checkpoint.id)[:12]}; export that one again."
        )
    run = _runner(data, found, model)
    states, off = _replay(run, json.loads(recorded), found, model)
    task = found["checkpoint"]["task"]["id"]
    return [
        f"{model}: {found['format']} of {task}, Graft {found['graft']}, checkpoint {found['checkpoint']['id'][:12]}",
        "contract, model and test vectors belong together",
        f"{states} test vectors replayed, largest difference {off:.1e}",
    ]


def _runner(data: bytes, found: Mapping[str, Any], model: Path) -> Run:
    if found["format"] == "torchscript":
        from graft.agents.export.torchscript_file import runner as torchscript_runner

        inputs, outputs = ([port["name"] for port in found[side]] for side in ("inputs", "outputs"))
        return torchscript_runner(data, inputs, outputs)
    from graft.agents.export.onnx_file import described, runner

    seen = described(data)
    for side in ("inputs", "outputs"):
        ports = {port["name"]: [port.get("dtype", "float32"), *port["shape"]] for port in found[side]}
        own = {name: value for name, value in seen[side].items() if name not in found["constants"]}
        if own != ports:
            raise GraftError(f"{model} has the {side} {own}, and its contract says {ports}; export again.")
    return runner(data, str(model))


def _replay(run: Run, recorded: Mapping[str, Any], found: Mapping[str, Any], model: Path) -> tuple[int, float]:
    dtypes = {port["name"]: port.get("dtype", "float32") for port in found["inputs"]}
    inputs: Arrays = {name: np.array(value, dtypes[name]) for name, value in recorded["inputs"].items()}
    largest, outputs = 0.0, run(inputs)
    for name, value in recorded["outputs"].items():
        expected = np.array(value, np.float64)
        usual = np.abs(expected[expected > FORBIDDEN])
        off = float(np.abs(outputs[name] - expected).max(initial=0)) / max(1.0, float(usual.max(initial=0)))
        if not off <= TOLERANCE:
            raise GraftError(f"{model} gives another {name} than its test vectors, by {off:.1e}; export again.")
        largest = max(largest, off)
    return len(next(iter(inputs.values()))), largest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GraftError(f"{path} is missing or cannot be read ({error.strerror}).") from error
