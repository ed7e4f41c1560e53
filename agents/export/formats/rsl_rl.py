"""ONNX as rsl_rl and Isaac Lab write it: ``obs`` in, ``actions`` out."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from graft.agents.export.exporter import EXPORTERS, ModelExporter
from graft.agents.export.formats.godot import flat_port
from graft.agents.export.policy import Policy
from graft.agents.export.ports import Arrays, Interface, action_port
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.parity import Array
from graft.errors import GraftError


class FlatPolicy(nn.Module):
    """Flat observations (N, D) -> box actions (N, A) in the environment's numbers."""

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self.policy = Policy(network)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        action: torch.Tensor = self.policy(*self.policy.unpack(obs)).action
        return action


class RslRlExporter(ModelExporter):
    """For box actions; they are scaled and clipped already, where rsl_rl leaves both to the environment."""

    name = "rsl_rl"

    def interface(self, network: PolicyNetwork) -> Interface:
        actions = network.schemas.action
        if actions.kind != "box":
            raise GraftError(f"rsl_rl plays box actions, and this agent's are {actions.kind}; use --to onnx.")

        def feed(obs: Array) -> Arrays:
            return {"obs": obs.reshape(len(obs), -1).astype(np.float32)}

        return Interface(
            FlatPolicy(network),
            (flat_port(network.schemas.observation),),
            (action_port("actions", actions),),
            feed,
            lambda found: found["actions"],
            notes=("actions are in the environment's numbers: scale 1 and offset 0 in the robot's configuration",),
        )


EXPORTERS.add("rsl_rl", RslRlExporter())
