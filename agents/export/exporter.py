"""What every format has in common: its place in the registry, the check against the network, and its files."""

from __future__ import annotations

import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.files import flush_folder, write_durably
from graft.agents.export.contract import beside, contract, vectors
from graft.agents.export.onnx_file import described, latency, runner, to_onnx
from graft.agents.export.parity import Parity, Run, check
from graft.agents.export.ports import Interface
from graft.agents.export.quantise import compared_play, int8_weights
from graft.agents.export.recording import Recording
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.onnx_session import packages
from graft.envs.core.registry import Registry
from graft.errors import GraftError, disk_error

Replay = Callable[[Path], str | None]
"""Records the agent into a folder and returns the file's name; None where the task cannot be drawn."""


@dataclass(frozen=True)
class Agent:
    """An agent to export.

    Attributes:
        checkpoint: where it is from. network: built from it, in eval mode.
        recording: states, and what evaluation plays in them.
        version: of Graft.
        episodes, seed: of an evaluation, where a format says how well the agent plays.
        replay: records it.
        quantise: whether weights become int8; formats without such models refuse it.
    """

    checkpoint: Checkpoint
    network: PolicyNetwork
    recording: Recording
    version: str
    episodes: int = 20
    seed: int = 0
    replay: Replay = lambda _: None
    quantise: bool = False


class Exporter(ABC):
    """Writes agents in one format.

    Attributes:
        suffix: of the file; empty for a folder.
        marker: of a folder, a file that every folder of this format holds; others are not replaced.
    """

    suffix: str
    marker = ""

    def targets(self, out: Path) -> list[Path]:
        """All files, or the folder, that `write` puts into place."""
        return [out]

    @abstractmethod
    def write(self, agent: Agent, out: Path) -> list[str]:
        """Write the agent; returns sentences about it. Raises GraftError, and then writes nothing."""


EXPORTERS: Registry[Exporter] = Registry("export format", "graft.agents.export.formats", Exporter, instances=True)


class ContractExporter(Exporter):
    """A format of one file that has a contract and test vectors beside it."""

    def targets(self, out: Path) -> list[Path]:
        return [out, beside(out, "vectors"), beside(out, "contract")]

    @abstractmethod
    def interface(self, network: PolicyNetwork) -> Interface:
        """Inputs, outputs and module; raises GraftError for an agent that the consumer cannot play."""

    @abstractmethod
    def runner(self, data: bytes, found: Mapping[str, Any], what: str) -> Run:
        """The model ``data`` of the contract ``found``; raises GraftError where its file says something else."""


class ModelExporter(ContractExporter):
    """A format of one ONNX file; it says what `interface` is."""

    suffix = ".onnx"
    name: str
    quantisable = True

    def runner(self, data: bytes, found: Mapping[str, Any], what: str) -> Run:
        check_described(data, found, what)
        return runner(data, what)

    def write(self, agent: Agent, out: Path) -> list[str]:
        if agent.quantise and not self.quantisable:
            raise GraftError(f"Not every engine that reads --to {self.name} takes int8 weights; leave --quantise out.")
        interface = self.interface(agent.network)
        data = to_onnx(interface)
        run = runner(data)
        parity = check(interface, run, agent.recording, agent.checkpoint.schemas.action, f"The {self.name} model")
        entries = dict[str, Any](parity_of_float32=parity.to_json()) if agent.quantise else {"parity": parity.to_json()}
        about_int8 = list[str]()
        if agent.quantise:
            small = int8_weights(data)
            entries["quantised"] = _compared(agent, interface, run, runner(small))
            about_int8 = _about_int8(entries["quantised"], len(data), len(small))
            data, run = small, runner(small)
        seen, timed = described(data), latency(run, interface.feed(agent.recording.observations[:1]))
        runtime = f"onnxruntime {packages()[1].__version__}"
        entries |= {"opset": seen["opset"], "ir_version": seen["ir_version"], "latency": {**timed, "runtime": runtime}}
        write_model(self.name, agent, interface, run, out, data, entries)
        opset = f"opset {seen['opset']}, {timed['median_us']:g} us for one state"
        return [*summary(out, parity, opset, interface, "before rounding, " if agent.quantise else ""), *about_int8]


def check_described(data: bytes, found: Mapping[str, Any], what: str) -> None:
    """Raise GraftError where an ONNX file has other ports, constants or another opset than its contract says."""
    seen, constants = described(data), found["constants"]
    for side in ("inputs", "outputs"):
        ports = {port["name"]: [port.get("dtype", "float32"), *port["shape"]] for port in found[side]}
        own = {name: value for name, value in seen[side].items() if name not in constants}
        if own != ports:
            raise GraftError(f"{what} has the {side} {own}, and its contract says {ports}; export again.")
    if seen["opset"] != found.get("opset"):
        raise GraftError(f"{what} has opset {seen['opset']}, and its contract says {found.get('opset')}; export again.")
    if seen["constants"] != constants:
        raise GraftError(f"{what} has the constants {seen['constants']}, and its contract {constants}; export again.")


def _compared(agent: Agent, interface: Interface, run: Run, small: Run) -> dict[str, Any]:
    """What is left of the agent with int8 weights, beside the score of float32 ones."""
    recording, task, schema = agent.recording, agent.checkpoint.task, agent.network.schemas.observation
    before, after = (
        compared_play(interface, model, recording, schema, task, agent.episodes, agent.seed) for model in (run, small)
    )
    return {"weights": "int8", **after, "return_mean_of_float32": before["return_mean"]}


def _about_int8(found: Mapping[str, Any], before: int, after: int) -> list[str]:
    same = (
        f"{found['agreement']:.1%} of the actions are the same"
        if "agreement" in found
        else (f"actions differ by {found['mean_difference']:.2g} on average")
    )
    returns = f"mean return {found['return_mean']:.2f}, of float32 {found['return_mean_of_float32']:.2f}"
    return [f"int8 weights: {before:,} -> {after:,} bytes; {same}; {returns} ({found['episodes']} episodes)"]


def write_model(
    name: str, agent: Agent, interface: Interface, run: Run, out: Path, data: bytes, entries: Mapping[str, Any]
) -> None:
    """A model, its test vectors and its contract, which comes last: without it the others are no export."""
    replayed = vectors(interface, run, agent.recording, agent.checkpoint.schemas.action)
    files = {"model": (out.name, data), "vectors": (beside(out, "vectors").name, replayed)}
    text = contract(agent.checkpoint, interface, files, format=name, graft=agent.version, **entries)
    write_together({out: data, beside(out, "vectors"): replayed, beside(out, "contract"): text})


def summary(out: Path, parity: Parity, about: str, interface: Interface, when: str = "") -> list[str]:
    """What is printed about a model; ``when``: it was compared, where that was not as it is written."""
    names = {"inputs": interface.inputs, "outputs": interface.outputs}
    sides = [f"{side}: {', '.join(port.name for port in ports)}" for side, ports in names.items()]
    ties = f", {parity.near_ties} of them with two equally good actions" if parity.near_ties else ""
    return [
        f"{out}: {'; '.join(sides)}; {about}",
        f"{when}the same as the network in {parity.states:,} states {parity.source}{ties}; "
        f"largest difference {parity.largest_difference:.1e}",
        *interface.notes,
    ]


def check_replaceable(out: Path, marker: str) -> None:
    """Raise GraftError for a folder that is no export of the same format, which would be lost."""
    if out.exists() and not (out / marker).is_file():
        raise GraftError(f"{out} holds no {marker}, so it is no earlier export, and is not replaced; choose another.")


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write all files beside their places, then put them there in order.

    Raises:
        GraftError: a file that cannot be written; then those that were there stay.
        OSError: of a full disk.
    """
    token = uuid.uuid4().hex[:8]
    fresh = {path: path.with_name(f".{path.name}.{token}.tmp") for path in files}
    try:
        for path, data in files.items():
            if path.is_dir():
                raise GraftError(f"{path} is a folder, and a file of that name is to be written; choose another name.")
            write_durably(fresh[path], data)
        for path in files:
            fresh[path].replace(path)
        for folder in {path.parent for path in files}:
            flush_folder(folder)
    except OSError as error:
        raise _unwritable(error, next(iter(files))) from error
    finally:
        for temporary in fresh.values():
            temporary.unlink(missing_ok=True)


def write_folder(out: Path, marker: str, fill: Callable[[Path], None]) -> None:
    """Fill a fresh folder and put it at ``out``; an old one is moved aside and deleted only then.

    Raises:
        GraftError: a folder at ``out`` that holds no ``marker``, or one that cannot be written.
        OSError: of a full disk.
    """
    check_replaceable(out, marker)
    token = uuid.uuid4().hex[:8]
    fresh, old = (out.with_name(f".{out.name}.{token}.{kind}") for kind in ("tmp", "old"))
    try:
        fresh.mkdir()
        fill(fresh)
        flush_folder(fresh)
        if out.exists():
            out.rename(old)
        fresh.rename(out)
        flush_folder(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _unwritable(error, out) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _unwritable(error: OSError, path: Path) -> Exception:
    """What to raise: a sentence, or the error itself where the disk is full, which is no bad input."""
    if disk_error(error):
        return error
    return GraftError(f"{error.filename or path} cannot be written ({error.strerror}).")
