"""ONNX as the plugin of Godot RL Agents loads it: one flat observation, and means or logits that the plugin reads."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from graft.agents.export.exporter import EXPORTERS, ModelExporter
from graft.agents.export.policy import Policy, bounded, in_units, score_ports
from graft.agents.export.ports import FLAT, Arrays, Interface, Port, leaf_ports
from graft.agents.networks.box_units import clipped, from_units
from graft.agents.networks.policy_network import PolicyNetwork, split_choices
from graft.agents.parity import Array
from graft.envs.core.schema import FORBIDDEN, ActionSchema, ObservationSchema
from graft.errors import GraftError

LOWEST = 30.0  # how far below the largest logit others end: one in 1e13


class GodotPolicy(nn.Module):
    """``obs`` (N, D) and ``state_ins`` (N,) -> ``output`` (N, A), from -1 to 1 or logits, and the state unchanged.

    The plugin looks for the largest logit above 0, so the largest of each choice is moved to 1.
    """

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self.policy = Policy(network)

    def forward(self, obs: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        decision = self.policy(*self.policy.unpack(obs))
        if self.policy.box:
            low, high = self.policy.low, self.policy.high
            return 2 * (decision.action - low) / (high - low) - 1, state
        choices = split_choices(decision.scores, self.policy.network.schemas.action.sizes)
        moved = [(part - part.amax(-1, keepdim=True)).clamp(min=-LOWEST) + 1 for part in choices]
        return torch.cat(moved, -1), state


class GodotExporter(ModelExporter):
    """The plugin sends one array of numbers, and plays the largest logit of each choice, or numbers from -1 to 1."""

    name = "godot"

    def interface(self, network: PolicyNetwork) -> Interface:
        schemas = network.schemas
        actions = schemas.action
        if actions.kind == "box" and not bounded(actions):
            raise GraftError(
                "The Godot plugin plays numbers from -1 to 1, and some of this agent's actions have no bounds, or "
                "equal ones; use --to onnx, which gives them as they are."
            )

        def feed(obs: Array) -> Arrays:
            return {"obs": obs.reshape(len(obs), -1).astype(np.float32), "state_ins": np.zeros(len(obs), np.float32)}

        state = Port("state_ins", (), meaning="not read: the agent has no memory")
        size, names = (len(actions.names),), actions.names
        (scores, *_), sampling = score_ports(network)
        kind = scores.name.replace("q_values", "Q values")
        moved = f"{kind}, moved so that the largest of a choice is 1, those {LOWEST:g} below it and less are alike"
        what = "actions from -1 to 1" if actions.kind == "box" else moved
        squashed = network.config.distribution == "squashed"
        return Interface(
            GodotPolicy(network),
            (flat_port(schemas.observation), state),
            (Port("output", size, names=names, meaning=what), Port("state_outs", (), meaning="state_ins")),
            feed,
            lambda found: read_by_plugin(found["output"], actions),
            lambda scores, _: {"output": _expected(scores, actions, squashed)},
            sampling="" if actions.kind == "box" else f"{sampling}; the plugin does not draw",
            notes=_notes(actions),
        )


def _expected(scores: Array, actions: ActionSchema, squashed: bool) -> Array:
    """What the plugin has to read for the network's scores (N, A), in float64: box actions have bounds on both sides,
    so that the policy's units are the plugin's."""
    exact = scores.astype(np.float64)
    if actions.kind == "box":
        return np.tanh(exact) if squashed else np.clip(exact, -1, 1)
    choices = np.split(exact, np.cumsum(actions.sizes)[:-1], 1) if actions.sizes else [exact]
    return np.concatenate([np.maximum(c - c.max(1, keepdims=True), -LOWEST) + 1 for c in choices], 1)


def flat_port(observation: ObservationSchema) -> Port:
    """The whole observation as one vector, flags of forbidden actions last; its parts say what lies where."""
    parts, start = [], 0
    for port in leaf_ports(observation):
        described = {key: value for key, value in port.to_json().items() if key != "dtype"}
        parts.append({**described, "offset": start, "shape": list(port.shape)})
        start += math.prod(port.shape)
    if flags := observation.flags:
        count = len(flags)
        meaning = "1 where an action is forbidden, 0 where it is allowed"
        ends = {"low": (0.0,) * count, "high": (1.0,) * count}
        parts.append({"name": FORBIDDEN, "names": flags, **ends, "meaning": meaning, "offset": start, "shape": [count]})
        start += count
    whole = f"{FLAT}, each part row by row from its offset"
    if len(parts) > 1 or len(observation.shape) > 1:
        return Port("obs", (start,), meaning=whole, parts=tuple(parts))
    only = leaf_ports(observation)[0]
    return Port("obs", (start,), "float32", only.names, only.low, only.high, whole, parts=tuple(parts))


def read_by_plugin(output: Array, actions: ActionSchema) -> Array:
    """The actions that the plugin plays for ``output`` (N, A), as the task takes them."""
    if actions.kind == "box":
        played = torch.from_numpy(np.clip(output, -1, 1))
        stretched: Array = clipped(from_units(actions).of(played), actions).numpy()
        return stretched
    found = []
    for part in split_choices(torch.from_numpy(output), actions.sizes):
        index, largest = np.zeros(len(part), np.int64), np.zeros(len(part), np.float32)
        for number, values in enumerate(part.numpy().T):
            better = values > largest
            index, largest = np.where(better, number, index), np.where(better, values, largest)
        found.append(index)
    return np.stack(found, 1) if actions.sizes else found[0]


def _notes(actions: ActionSchema) -> tuple[str, ...]:
    if actions.kind != "box" or in_units(actions):
        return ()
    ends = ", ".join(
        f"{name} from {low:g} to {high:g}"
        for name, low, high in zip(actions.names, actions.low, actions.high, strict=True)
    )
    return (f"the output is from -1 to 1, and the game stretches it to its own bounds: {ends}",)


EXPORTERS.add("godot", GodotExporter())
