"""ONNX for any runtime: the task's observations in, its actions out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from graft.agents.export.exporter import EXPORTERS, ModelExporter
from graft.agents.export.parity import expected_scores
from graft.agents.export.policy import Policy, score_ports
from graft.agents.export.ports import (
    MASKS,
    Arrays,
    Interface,
    action_port,
    allowed_actions,
    leaf_ports,
    mask_port,
    split_leaves,
)
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.parity import Array


class RawPolicy(nn.Module):
    """Leaves, then masks where there are some -> the action, scores and, of a box, standard deviations.

    One output is a tensor, several are a tuple.
    """

    def __init__(self, network: PolicyNetwork, outputs: int) -> None:
        super().__init__()
        self.policy, self.masked, self.outputs = Policy(network), network.masked, outputs

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        masks = inputs[-1] if self.masked else None
        seen = inputs[: len(inputs) - self.masked]
        found = tuple(self.policy(self.policy.pack(seen), masks))
        return found[: self.outputs] if self.outputs > 1 else found[0]


def raw_interface(network: PolicyNetwork, actions_only: bool = False) -> Interface:
    """Inputs as the task gives them, in its dtypes; outputs ``action``, then what it is drawn from."""
    schemas = network.schemas
    ports, sampling = score_ports(network)
    outputs = (action_port("action", schemas.action), *(() if actions_only else ports))
    inputs = leaf_ports(schemas.observation) + ((mask_port(schemas.action),) if network.masked else ())

    def feed(obs: Array) -> Arrays:
        found = split_leaves(schemas.observation, obs)
        return {**found, MASKS: allowed_actions(schemas, obs)} if network.masked else found

    def decode(found: Mapping[str, Array]) -> Any:
        return found["action"]

    def expected(scores: Array, log_std: Array | None) -> Arrays:
        return expected_scores(schemas.action, network.config.distribution, scores, log_std)

    module = RawPolicy(network, len(outputs))  # a policy without a spread has fewer outputs
    if actions_only:
        return Interface(module, inputs, outputs, feed, decode)
    return Interface(module, inputs, outputs, feed, decode, expected, sampling=sampling)


class OnnxExporter(ModelExporter):
    """The inputs are the leaves of the observation, raw, and masks where the task has some."""

    name = "onnx"

    def interface(self, network: PolicyNetwork) -> Interface:
        return raw_interface(network)


EXPORTERS.add("onnx", OnnxExporter())
