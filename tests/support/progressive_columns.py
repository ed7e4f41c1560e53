"""Progressive networks made by hand, with different numbers in every column."""

from __future__ import annotations

import torch

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.envs.core.schema import Schemas
from support.tiny_tasks import discrete, small_config, vector

ACTIONS = discrete("left", "right")
SMALL = Schemas(vector(["a", "b", "c"]), ACTIONS)


def randomised(network: PolicyNetwork, seed: int = 0) -> PolicyNetwork:
    """Different numbers in every parameter, so small that no activation is flat."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = parameter[0].numel()
            parameter.copy_((torch.rand(parameter.shape, generator=generator) - 0.45) * 3 / fan_in**0.5)
    return network


def columns(count: int, schemas: Schemas = SMALL, config: NetworkConfig | None = None) -> PolicyNetwork:
    """A network of ``count`` columns, each of other numbers."""
    config = config or small_config(schemas.observation.kind)
    network = randomised(PolicyNetwork(schemas, config, 0))
    for seed in range(1, count):
        beside = ProgressiveNetwork.beside(network, schemas, config, seed)
        kept = network.state_dict()
        network = randomised(beside, seed)
        network.earlier.load_exactly(kept)
    return network
