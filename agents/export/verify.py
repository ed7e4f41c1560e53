"""Checks an exported model later: against its contract, its test vectors and, where one is given, a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.export.contract import beside, checked_model, described_interface, digest, read_bytes
from graft.agents.export.exporter import EXPORTERS, ContractExporter
from graft.agents.export.parity import FORBIDDEN, Run
from graft.agents.export.ports import Arrays
from graft.agents.parity import TOLERANCE
from graft.errors import GraftError


def verify(model: Path, checkpoint: Checkpoint | None = None) -> list[str]:
    """Check a model with its contract and its test vectors; returns what was found, as sentences.

    Args:
        checkpoint: the agent that the model should be of; its names, bounds and constants have to be the contract's.
            None is not checked.
    Raises:
        GraftError: a file that is missing, truncated, edited or of another export, or a model that gives other numbers.
    """
    data, found = checked_model(model)
    path = beside(model, "vectors")
    vectors = read_bytes(path)
    if digest(vectors) != found["vectors"].get("sha256"):
        raise GraftError(f"{path} is not the file of test vectors of its contract; export again.")
    exporter = EXPORTERS[found["format"]]
    if not isinstance(exporter, ContractExporter):
        raise GraftError(f"{beside(model, 'contract')} says --to {found['format']}, which writes no contract.")
    if checkpoint is not None:
        _check_agent(model, found, exporter, checkpoint)
    run = exporter.runner(data, found, str(model))
    try:
        states, largest = _replay(run, json.loads(vectors), found, model)
    except GraftError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GraftError(f"{path} and the contract of {model} have other inputs or outputs; export again.") from error
    identity, task = str(found["checkpoint"]["id"])[:12], found["checkpoint"]["task"]["id"]
    return [
        f"{model}: {found['format']} of {task}, Graft {found['graft']}, checkpoint {identity}",
        "contract, model and test vectors belong together",
        f"{states} test vectors replayed, largest difference {largest:.1e}",
    ]


def _check_agent(model: Path, found: Mapping[str, Any], exporter: ContractExporter, checkpoint: Checkpoint) -> None:
    if checkpoint.id != found["checkpoint"]["id"]:
        raise GraftError(
            f"{model} is of checkpoint {str(found['checkpoint']['id'])[:12]}, and the one given is "
            f"{str(checkpoint.id)[:12]}; export that one again."
        )
    expected = described_interface(exporter.interface(checkpoint.build().eval()), checkpoint.schemas)
    if other := [name for name, value in expected.items() if found[name] != value]:
        raise GraftError(
            f"The contract of {model} has other {' and '.join(other)} than the checkpoint that it names; export again."
        )


def _replay(run: Run, recorded: Mapping[str, Any], found: Mapping[str, Any], model: Path) -> tuple[int, float]:
    inputs: Arrays = {}
    for port in found["inputs"]:
        values = np.array(recorded["inputs"][port["name"]], port.get("dtype", "float32"))
        if ["batch", *values.shape[1:]] != port["shape"]:
            raise GraftError(
                f"The contract of {model} says that {port['name']} has the shape {port['shape']}, and its test vectors "
                f"have {list(values.shape)}; export again."
            )
        inputs[port["name"]] = values
    largest, outputs = 0.0, run(inputs)
    for name, value in recorded["outputs"].items():
        expected = np.array(value, np.float64)
        if outputs[name].shape != expected.shape:
            raise GraftError(f"{model} gives {name} of another shape than its test vectors; export again.")
        usual = np.abs(expected[expected > FORBIDDEN])
        off = float(np.abs(outputs[name] - expected).max(initial=0)) / max(1.0, float(usual.max(initial=0)))
        if not off <= TOLERANCE:
            raise GraftError(f"{model} gives another {name} than its test vectors, by {off:.1e}; export again.")
        largest = max(largest, off)
    return len(next(iter(inputs.values()))), largest
