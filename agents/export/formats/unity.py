"""ONNX as Unity's ML-Agents loads it: its names, its constants, masks of discrete actions, drawn and greedy actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.agents.export.exporter import EXPORTERS, ModelExporter
from graft.agents.export.policy import Policy, in_units, score_ports
from graft.agents.export.ports import (
    MASKS,
    Arrays,
    Interface,
    Port,
    action_port,
    allowed_actions,
    leaf_ports,
    leaves,
    mask_port,
    split_leaves,
)
from graft.agents.networks.encoder import PIXEL
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.parity import Array
from graft.envs.core.schema import ActionSchema
from graft.errors import GraftError

API = 3.0  # `version_number` of models for ML-Agents 2.0 and later

DISCRETE, CONTINUOUS = "discrete_actions", "continuous_actions"


class UnityPolicy(nn.Module):
    """Sensors, pictures from 0 to 1, and masks of discrete actions -> drawn and greedy actions, (N, branches or A)."""

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self.policy, self.discrete = Policy(network), network.schemas.action.kind != "box"
        kinds = [part.kind for part in leaves(network.schemas.observation).values()]
        self.scales = [PIXEL if kind == "pixels" else 1.0 for kind in kinds]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        masks = inputs[-1] if self.discrete else None
        seen = [leaf * scale for leaf, scale in zip(inputs, self.scales, strict=False)]  # but for the masks
        decision = self.policy(self.policy.pack(seen), masks)
        drawn = self.policy.sample(decision)
        if self.discrete and drawn.dim() == 1:
            return drawn.unsqueeze(-1), decision.action.unsqueeze(-1)
        return drawn, decision.action


class UnityExporter(ModelExporter):
    """Inputs are ``obs_0``, ``obs_1`` ... in the order of the sensors, in float32."""

    name = "unity"
    quantisable = False

    def interface(self, network: PolicyNetwork) -> Interface:
        schemas = network.schemas
        actions, parts = schemas.action, leaves(schemas.observation)
        discrete = actions.kind != "box"
        sensors = [f"obs_{number}" for number in range(len(parts))]
        inputs = tuple(
            _sensor(port, sensor, part.kind == "pixels")
            for port, sensor, part in zip(leaf_ports(schemas.observation), sensors, parts.values(), strict=True)
        )
        scales = [PIXEL if part.kind == "pixels" else 1.0 for part in parts.values()]
        greedy, name = network.config.distribution == "greedy", DISCRETE if discrete else CONTINUOUS

        def feed(obs: Array) -> Arrays:
            raw = split_leaves(schemas.observation, obs).values()
            found = {s: leaf.astype(np.float32) / scale for s, leaf, scale in zip(sensors, raw, scales, strict=True)}
            return {**found, MASKS: allowed_actions(schemas, obs)} if discrete else found

        def decode(found: Mapping[str, Array]) -> Any:
            played = found[f"deterministic_{name}"]
            if greedy and not np.array_equal(found[name], played):
                raise GraftError(f"{name} of the Unity model is not the action with the largest Q value.")
            return played[:, 0] if actions.kind == "discrete" else played

        return Interface(
            UnityPolicy(network),
            (*inputs, mask_port(actions)) if discrete else inputs,
            _outputs(actions, drawn=not greedy),
            feed,
            decode,
            constants=_constants(actions),
            sampling=score_ports(network)[1] if greedy else f"{name} is drawn by the model",
            notes=_notes(network, tuple(parts), sensors),
        )


def _sensor(port: Port, name: str, picture: bool) -> Port:
    """A leaf as a sensor shows it: in float32, pictures from 0 to 1."""
    meaning, high = f"{port.name}: {port.meaning}", port.high
    if picture:
        meaning, high = f"{port.name}: a picture, channels first, from 0 to 1", (1.0,) * len(port.high)
    return port._replace(name=name, dtype="float32", meaning=meaning, high=high)


def _outputs(actions: ActionSchema, drawn: bool) -> tuple[Port, ...]:
    greedy = action_port("action", actions)
    name = CONTINUOUS if actions.kind == "box" else DISCRETE
    if actions.kind == "discrete":
        greedy = greedy._replace(shape=(1,))
    first = greedy._replace(name=name, meaning=f"drawn; {greedy.meaning}", sampled=True)
    return first if drawn else greedy._replace(name=name), greedy._replace(name=f"deterministic_{name}")


def _constants(actions: ActionSchema) -> dict[str, Array]:
    found = {"version_number": np.array([API], np.float32), "memory_size": np.zeros(1, np.float32)}
    if actions.kind == "box":
        return {**found, "continuous_action_output_shape": np.array([len(actions.names)], np.float32)}
    return {**found, "discrete_action_output_shape": np.array([actions.sizes or (len(actions.names),)], np.float32)}


def _notes(network: PolicyNetwork, parts: tuple[str, ...], sensors: list[str]) -> tuple[str, ...]:
    actions, notes = network.schemas.action, []
    if len(parts) > 1:
        order = ", ".join(f"{sensor} is {part}" for sensor, part in zip(sensors, parts, strict=True))
        notes.append(f"Unity sorts sensors by name: {order}")
    if actions.kind == "box" and not in_units(actions):
        notes.append("actions are in the task's own bounds, while agents made for ML-Agents expect -1 to 1")
    return tuple(notes)


EXPORTERS.add("unity", UnityExporter())
