"""Sources made by hand, and their transplant with everything carried that can be."""

from __future__ import annotations

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Task
from graft.transfer.transplant import transplant
from support.tiny_tasks import (
    discrete,
    scrambled,
    small_config,
)

SEED = 5
LEFT_RIGHT = discrete("left", "right")


def checkpoint(
    observation: ObservationSchema, actions: ActionSchema = LEFT_RIGHT, config: NetworkConfig | None = None
) -> Checkpoint:
    """A source whose tensors are all full of different numbers."""
    network = PolicyNetwork(Schemas(observation, actions), config or small_config(observation.kind), 0)
    return Checkpoint.of(scrambled(network), Task("tiny/Source-v0"))


def moved(source: Checkpoint, observation: ObservationSchema, actions: ActionSchema = LEFT_RIGHT, **options):
    defaults = {"heads": "by_name", "new_channels": "zero", "rename": {}, "strict": False, "seed": SEED}
    return transplant(source, Schemas(observation, actions), **(defaults | options))


def fresh(source: Checkpoint, network: PolicyNetwork) -> dict[str, torch.Tensor]:
    """The tensors that the target starts from where nothing is carried over."""
    return dict(PolicyNetwork(network.schemas, source.network, SEED).state_dict())


def rows(report) -> dict[str, tuple[str, float, str]]:
    return {row.tensor: (row.status, row.share, row.detail) for row in report.rows}


def stem_of(network: PolicyNetwork) -> str:
    return f"encoder.{network.encoder.stems[0].name}"


FLAT_PLANES = NetworkConfig("mlp", {"widths": [7, 5]}, (4,))
