"""TorchScript for C++ and Python without Graft: raw observations in, actions out."""

from __future__ import annotations

from pathlib import Path

import torch

from graft.agents.export.contract import vectors
from graft.agents.export.exporter import EXPORTERS, Agent, Exporter, summary, write_model
from graft.agents.export.formats.onnx import raw_interface
from graft.agents.export.onnx_file import latency
from graft.agents.export.parity import check
from graft.agents.export.torchscript_file import runner, to_torchscript


class TorchScriptExporter(Exporter):
    """The inputs of ``onnx``, in order, and the action alone."""

    meaning = "torch::jit::load in C++, torch.jit.load in Python"
    suffix = ".pt"

    def write(self, agent: Agent, out: Path) -> list[str]:
        interface = raw_interface(agent.network, actions_only=True)
        data = to_torchscript(interface)
        run = runner(data, [port.name for port in interface.inputs], [port.name for port in interface.outputs])
        actions = agent.checkpoint.schemas.action
        parity = check(interface, run, agent.recording, actions, "The TorchScript model")
        timed = latency(run, interface.feed(agent.recording.observations[:1]))
        rest = {"latency": {**timed, "runtime": f"torch {torch.__version__}"}}
        replayed = vectors(interface, run, agent.recording.observations)
        write_model("torchscript", agent, interface, parity, out, data, replayed, rest)
        return summary(out, parity, f"{timed['median_us']:g} us for one state", interface)


EXPORTERS.add("torchscript", TorchScriptExporter())
