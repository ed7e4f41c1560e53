"""TorchScript for C++ and Python without Graft: raw observations in, actions out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from graft.agents.export.exporter import EXPORTERS, Agent, ContractExporter, summary, write_model
from graft.agents.export.formats.onnx import raw_interface
from graft.agents.export.onnx_file import latency
from graft.agents.export.parity import Run, check
from graft.agents.export.ports import Arrays, Interface
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.parity import Array
from graft.errors import GraftError


class TorchScriptExporter(ContractExporter):
    """The inputs of ``onnx``, in order, and the action alone."""

    suffix = ".pt"

    def interface(self, network: PolicyNetwork) -> Interface:
        return raw_interface(network, actions_only=True)

    def runner(self, data: bytes, found: Mapping[str, Any], what: str) -> Run:
        inputs, outputs = ([port["name"] for port in found[side]] for side in ("inputs", "outputs"))
        with _quiet(f"{what} is no TorchScript file"):
            module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]

        def run(given: Mapping[str, Array]) -> Arrays:
            try:
                with torch.no_grad():
                    made = module(*(torch.from_numpy(given[name]) for name in inputs))
                made = made if isinstance(made, tuple) else (made,)
                return {name: tensor.numpy() for name, tensor in zip(outputs, made, strict=True)}
            except (RuntimeError, ValueError) as error:  # of another number of ports
                raise GraftError(f"{what} does not take the inputs of its contract; export again.") from error

        return run

    def write(self, agent: Agent, out: Path) -> list[str]:
        interface = self.interface(agent.network)
        ports = {"inputs": interface.inputs, "outputs": interface.outputs}
        data, what = traced(interface), "The TorchScript model"
        run = self.runner(data, {side: [port._asdict() for port in found] for side, found in ports.items()}, what)
        parity = check(interface, run, agent.recording, agent.checkpoint.schemas.action, what)
        timed = latency(run, interface.feed(agent.recording.observations[:1]))
        entries = {"parity": parity.to_json(), "latency": {**timed, "runtime": f"torch {torch.__version__}"}}
        write_model("torchscript", agent, interface, run, out, data, entries)
        return summary(out, parity, f"{timed['median_us']:g} us for one state", interface)


def traced(interface: Interface) -> bytes:
    """The module of an interface; what the tracer warns of, `check` finds. Raises GraftError."""
    inputs = tuple(torch.zeros(2, *port.shape, dtype=getattr(torch, port.dtype)) for port in interface.inputs)
    buffer = io.BytesIO()
    with _quiet("This agent cannot be traced"):  # with an encoder of one's own
        module = torch.jit.trace(interface.module.eval(), inputs, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(module, buffer)
    return buffer.getvalue()


@contextmanager
def _quiet(what: str) -> Iterator[None]:
    """Raises GraftError for errors of torch; it calls TorchScript as a whole deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        try:
            yield
        except RuntimeError as error:
            raise GraftError(f"{what} ({str(error).strip().splitlines()[0]}).") from error


EXPORTERS.add("torchscript", TorchScriptExporter())
