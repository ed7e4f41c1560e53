"""A zip of plain Stable-Baselines3, for those who train on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from graft.agents.export.exporter import EXPORTERS, Agent, Exporter, write_together
from graft.agents.export.parity import check
from graft.agents.export.ports import Interface
from graft.agents.networks.normaliser import CLIP, normalisers
from graft.agents.sb3.plain import plain_algorithm, predictor, to_zip
from graft.errors import GraftError


class Nothing(nn.Module):
    """A module without outputs."""

    def forward(self, *_: Any) -> tuple[()]:
        return ()


class SB3Exporter(Exporter):
    """PPO, DQN or SAC with the library's own MlpPolicy: only agents with the encoder mlp fit."""

    meaning = "Stable-Baselines3: PPO.load, DQN.load or SAC.load, then predict and learn"
    suffix = ".zip"

    def write(self, agent: Agent, out: Path) -> list[str]:
        model = plain_algorithm(agent.network, agent.checkpoint.task, agent.seed)
        data = to_zip(model)
        predict = predictor(data, type(model))
        interface = Interface(Nothing(), (), (), lambda obs: {"obs": obs}, lambda found: found["action"])
        actions = agent.checkpoint.schemas.action
        try:
            parity = check(
                interface, lambda inputs: {"action": predict(inputs["obs"])}, agent.recording, actions, "The SB3 zip"
            )
        except GraftError as error:
            if not normalisers(agent.network):
                raise
            raise GraftError(
                f"{error} This agent's normaliser clips, which no MlpPolicy can; --to onnx does."
            ) from error
        write_together({out: data})
        name = type(model).__name__
        lines = [
            f"{out}: {name}.load reads it; its options are the library's defaults",
            f"the same greedy actions as the network in {parity.states:,} states {parity.source}",
        ]
        if normalisers(agent.network):
            lines.append(f"it does not clip normalised observations at {CLIP:g} standard deviations, as the agent does")
        if name == "SAC":
            lines.append("its critics are fresh, so that learning begins with the actor alone")
        return lines


EXPORTERS.add("sb3", SB3Exporter())
