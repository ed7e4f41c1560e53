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
from graft.agents.checkpoints.files import write_durably
from graft.agents.export.contract import beside, contract, vectors
from graft.agents.export.onnx_file import described, latency, packages, runner, to_onnx
from graft.agents.export.parity import Parity, Run, check
from graft.agents.export.ports import Interface
from graft.agents.export.quantise import int8_weights, kept
from graft.agents.export.recording import Recording
from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.core.registry import Registry
from graft.errors import GraftError

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
        meaning: a phrase, what reads it.
        suffix: of the file; empty for a folder.
    """

    meaning: str
    suffix: str

    @abstractmethod
    def write(self, agent: Agent, out: Path) -> list[str]:
        """Write the agent; returns sentences about it. Raises GraftError, and then writes nothing."""


EXPORTERS: Registry[Exporter] = Registry("export format", "graft.agents.export.formats", Exporter, instances=True)


class ModelExporter(Exporter):
    """A format of one ONNX file with a contract and test vectors beside it; it says what `interface` is."""

    suffix = ".onnx"
    name: str
    quantisable = True

    @abstractmethod
    def interface(self, network: PolicyNetwork) -> Interface:
        """Inputs, outputs and module; raises GraftError for an agent that the consumer cannot play."""

    def write(self, agent: Agent, out: Path) -> list[str]:
        if agent.quantise and not self.quantisable:
            raise GraftError(f"Not every engine that reads --to {self.name} takes int8 weights; leave --quantise out.")
        interface = self.interface(agent.network)
        data = to_onnx(interface)
        run = runner(data)
        parity = check(interface, run, agent.recording, agent.checkpoint.schemas.action, f"The {self.name} model")
        rest, said = dict[str, Any](), list[str]()
        if agent.quantise:
            smaller = int8_weights(data)
            rest["quantised"] = _compared(agent, interface, run, runner(smaller))
            said = _said(rest["quantised"], len(data), len(smaller))
            data, run = smaller, runner(smaller)
        seen, timed = described(data), latency(run, interface.feed(agent.recording.observations[:1]))
        runtime = f"onnxruntime {packages()[1].__version__}"
        rest |= {"opset": seen["opset"], "ir_version": seen["ir_version"], "latency": {**timed, "runtime": runtime}}
        replayed = vectors(interface, run, agent.recording.observations)
        write_model(self.name, agent, interface, parity, out, data, replayed, rest)
        opset = f"opset {seen['opset']}, {timed['median_us']:g} us for one state"
        return [*summary(out, parity, opset, interface), *said]


def _compared(agent: Agent, interface: Interface, run: Run, smaller: Run) -> dict[str, Any]:
    """What int8 weights keep of the agent, beside the score of float32 ones; `Parity` is that of float32."""
    recording, task, schema = agent.recording, agent.checkpoint.task, agent.network.schemas.observation
    before, after = (
        kept(interface, model, recording, schema, task, agent.episodes, agent.seed) for model in (run, smaller)
    )
    return {"weights": "int8", **after, "return_mean_of_float32": before["return_mean"]}


def _said(found: Mapping[str, Any], before: int, after: int) -> list[str]:
    same = (
        f"{found['agreement']:.1%} of the actions are the same"
        if "agreement" in found
        else (f"actions differ by {found['mean_difference']:.2g} on average")
    )
    returns = f"mean return {found['return_mean']:.2f}, of float32 {found['return_mean_of_float32']:.2f}"
    return [f"int8 weights: {before:,} -> {after:,} bytes; {same}; {returns} ({found['episodes']} episodes)"]


def write_model(
    name: str,
    agent: Agent,
    interface: Interface,
    parity: Parity,
    out: Path,
    data: bytes,
    replayed: bytes,
    rest: Mapping[str, Any],
) -> None:
    """A model, its test vectors and its contract, which comes last: without it the others are no export."""
    files = {"model": (out.name, data), "vectors": (beside(out, "vectors").name, replayed)}
    text = contract(agent.checkpoint, interface, parity, files, format=name, graft=agent.version, **rest)
    write_together({out: data, beside(out, "vectors"): replayed, beside(out, "contract"): text})


def summary(out: Path, parity: Parity, rest: str, interface: Interface) -> list[str]:
    """What is printed about a model."""
    names = {"inputs": interface.inputs, "outputs": interface.outputs}
    sides = [f"{side}: {', '.join(port.name for port in ports)}" for side, ports in names.items()]
    ties = f", {parity.near_ties} of them with two equally good actions" if parity.near_ties else ""
    return [
        f"{out}: {'; '.join(sides)}; {rest}",
        f"the same as the network in {parity.states:,} states {parity.source}{ties}; "
        f"largest difference {parity.largest_difference:.1e}",
        *interface.notes,
    ]


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write all files, then put them into place in order; raises GraftError where one cannot be written."""
    token, fresh = uuid.uuid4().hex[:8], dict[Path, Path]()
    try:
        for path, data in files.items():
            fresh[path] = path.with_name(f".{path.name}.{token}.tmp")
            write_durably(fresh[path], data)
        for path, temporary in fresh.items():
            temporary.replace(path)
    except OSError as error:
        raise GraftError(f"{error.filename or next(iter(files))} cannot be written ({error.strerror}).") from error
    finally:
        for temporary in fresh.values():
            temporary.unlink(missing_ok=True)


def write_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Fill a fresh folder and put it at ``out``, in place of an old one."""
    fresh = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        fresh.mkdir(parents=True)
        fill(fresh)
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)
    except OSError as error:
        raise GraftError(f"{out} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
