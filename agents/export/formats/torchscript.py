"""TorchScript for C++ and Python without Graft: raw observations in, actions out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graft.agents.export.exporter import EXPORTERS, Agent, ContractExporter, summary, write_model
from graft.agents.export.formats.onnx import raw_interface
from graft.agents.export.onnx_file import latency
from graft.agents.export.parity import Run, check
from graft.agents.export.ports import Interface
from graft.agents.export.torchscript_file import runner, to_torchscript
from graft.agents.networks.policy_network import PolicyNetwork
from graft.errors import GraftError


class TorchScriptExporter(ContractExporter):
    """The inputs of ``onnx``, in order, and the action alone."""

    suffix = ".pt"

    def interface(self, network: PolicyNetwork) -> Interface:
        return raw_interface(network, actions_only=True)

    def runner(self, data: bytes, found: Mapping[str, Any], what: str) -> Run:
        inputs, outputs = ([port["name"] for port in found[side]] for side in ("inputs", "outputs"))
        run = runner(data, inputs, outputs)

        def checked(given: Mapping[str, Any]) -> dict[str, Any]:
            try:
                return run(given)
            except (RuntimeError, ValueError) as error:  # of another number of ports
                raise GraftError(f"{what} does not take the inputs of its contract; export again.") from error

        return checked

    def write(self, agent: Agent, out: Path) -> list[str]:
        interface = self.interface(agent.network)
        data = to_torchscript(interface)
        run = runner(data, [port.name for port in interface.inputs], [port.name for port in interface.outputs])
        actions = agent.checkpoint.schemas.action
        parity = check(interface, run, agent.recording, actions, "The TorchScript model")
        timed = latency(run, interface.feed(agent.recording.observations[:1]))
        runtime = f"torch {torch.__version__}"
        entries = {"parity": parity.to_json(), "latency": {**timed, "runtime": runtime}}
        write_model("torchscript", agent, interface, run, out, data, entries)
        return summary(out, parity, f"{timed['median_us']:g} us for one state", interface)


EXPORTERS.add("torchscript", TorchScriptExporter())
