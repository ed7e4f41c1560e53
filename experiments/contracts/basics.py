"""What contracts share: `expect`, and numbers to look at networks with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.core.schema import ObservationSchema


class Broken(AssertionError):
    """A contract is not kept; its text is a sentence without its end."""


def expect(kept: object, otherwise: str) -> None:
    """Raise Broken where something that should hold does not."""
    if not kept:
        raise Broken(otherwise)


def observations(schema: ObservationSchema, count: int, seed: int = 0) -> torch.Tensor:
    """Random raw observations (count, *shape) of the schema's dtype, within its bounds."""
    rng = np.random.default_rng(seed)
    shape = (count, *schema.shape)
    if schema.dtype == "uint8":
        return torch.as_tensor(rng.integers(0, int(schema.high[0]) + 1, shape, dtype=np.uint8))
    return torch.as_tensor(rng.uniform(schema.low[0], schema.high[0], shape).astype(schema.dtype))


def scrambled(network: PolicyNetwork, seed: int = 0) -> PolicyNetwork:
    """The network with random numbers in every parameter and float buffer, so that none is told by its zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


def assert_same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    """Bit-equal tensors under equal names."""
    expect(a.keys() == b.keys(), f"there is {sorted(a.keys() ^ b.keys())} in one of two that should be equal")
    other = [name for name in a if not torch.equal(a[name], b[name])]
    expect(not other, f"{', '.join(other[:3])} should be equal to the bit, and differs")


def weights(network: PolicyNetwork) -> dict[str, torch.Tensor]:
    """A copy of the network's tensors, to compare with later."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
