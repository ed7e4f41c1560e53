"""A zip of plain Stable-Baselines3, for those who train on with it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from graft.agents.export.exporter import EXPORTERS, Agent, Exporter, write_together
from graft.agents.export.parity import check
from graft.agents.export.ports import Interface
from graft.agents.networks.normaliser import CLIP, EPSILON, normalisers
from graft.agents.sb3.plain import check_fit, own_spaces, plain_algorithm, predictor, to_zip
from graft.errors import GraftError


class SB3Exporter(Exporter):
    """PPO, DQN or SAC with the library's own MlpPolicy or CnnPolicy: agents with the encoder mlp or nature_cnn."""

    suffix = ".zip"

    def write(self, agent: Agent, out: Path) -> list[str]:
        check_fit(agent.network)
        own = own_spaces(agent.checkpoint.task, agent.network.schemas)
        model = plain_algorithm(agent.network, own, agent.seed)
        data = to_zip(model)
        predict = predictor(data, type(model), own.native)
        interface = Interface(nn.Identity(), (), (), lambda obs: {"obs": obs}, lambda found: found["action"])
        actions = agent.checkpoint.schemas.action
        try:
            parity = check(
                interface, lambda inputs: {"action": predict(inputs["obs"])}, agent.recording, actions, "The SB3 zip"
            )
        except GraftError as error:
            if not normalisers(agent.network):
                raise
            raise GraftError(f"{error} {_reason(agent)}; --to onnx keeps it.") from error
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


def _reason(agent: Agent) -> str:
    """Why the zip differs: values that the agent clips, or else statistics that float32 weights cannot hold."""
    obs = torch.as_tensor(agent.recording.observations, dtype=torch.float64).flatten(1)
    for normaliser in normalisers(agent.network):
        scale = torch.where(normaliser.varied, (normaliser.running_var.double() + EPSILON).sqrt(), 1.0)
        known = (normaliser.running_count > 0) | ~normaliser.varied
        clipped = ((obs - normaliser.running_mean) / scale).abs() > normaliser.clip
        if bool((clipped & known).any()):
            return "This agent's normaliser clips, which no MlpPolicy can"
    return (
        "The means of its observations are so much larger than their deviations that the first layer, which they "
        "become a part of, rounds them away"
    )


EXPORTERS.add("sb3", SB3Exporter())
