"""Shrink and perturb: the source's weights, interpolated with fresh ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.normaliser import statistics
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.algorithm import Share
from graft.agents.training.critics import HEADS, ONLINE
from graft.envs.core.schema import Schemas
from graft.transfer.method import FRESH_WEIGHTS, METHODS, Built, CarriedPart, FromSource


@METHODS.register("shrink_perturb")
@dataclass(frozen=True, kw_only=True)
class ShrinkPerturb(FromSource):
    """``theta <- s * theta + (1 - s) * fresh`` for all that was carried over, once, before training starts.

    ``fresh`` are the weights that `scratch` starts from with the same architecture and seed. Floating-point buffers of
    layers are treated as parameters; counters and statistics of observations stay the source's. Critics that come with
    carried heads, and the logarithm of the temperature, are treated alike.

    Attributes:
        shrink: s in [0, 1]; 1 is `finetune` and 0 has the weights of `scratch`, bit for bit.
    Source: Ash & Adams 2020, section 4, where the noise has a scale of its own.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"fresh_weights"})
    conflicts: ClassVar[Mapping[str, str]] = FRESH_WEIGHTS

    shrink: Share = 0.8

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """The transplanted network, shrunk and perturbed (new slices of carried layers, too); everything trains."""
        network, report = super().build(source, target, architecture, seed)
        assert report is not None
        carried = {row.tensor for row in report.rows if row.status not in ("initialised", "dropped")}
        carried -= statistics(network)
        fresh = PolicyNetwork(target, network.config, seed).state_dict()
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if name in carried and tensor.is_floating_point():
                    tensor.mul_(self.shrink).add_((1 - self.shrink) * fresh[name])
        if self.shrink == 1:
            return Built(network, report)
        note = f"times {self.shrink:g}, plus {1 - self.shrink:g} of a fresh one"
        rows = tuple(
            replace(row, detail=f"{row.detail}; {note}" if row.detail else note) if row.tensor in carried else row
            for row in report.rows
        )
        return Built(network, replace(report, rows=rows))

    def carry_critics(self, source: Checkpoint, network: PolicyNetwork, seed: int) -> CarriedPart:
        critics, rows = super().carry_critics(source, network, seed)
        if self.shrink == 1:
            return CarriedPart(critics, rows)
        fresh = PolicyNetwork(network.schemas, network.config, seed).state_dict()
        return CarriedPart(_perturbed(critics, fresh, statistics(network), self.shrink, seed), rows)


def _perturbed(
    critics: Mapping[str, torch.Tensor],
    fresh: Mapping[str, torch.Tensor],
    kept: set[str],
    shrink: float,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Critics and temperature, shrunk, with fresh ones: critics and target get the same, as they start equal.

    Args:
        fresh: a network's tensors; what is fresh above its encoder is initialised as in the backends.
        kept: names of the network's statistics, which stay the source's.
    """
    noise = {name: t for name, t in fresh.items() if name.startswith("encoder.")}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, weight in critics.items():
            group, _, own = name.partition(".")
            if group == ONLINE and own.startswith(f"{HEADS}.") and own.endswith(".weight"):
                layer = nn.Linear(weight.shape[1], weight.shape[0])
                noise |= {own: layer.weight.detach(), own.removesuffix("weight") + "bias": layer.bias.detach()}
    made = {}
    for name, tensor in critics.items():
        own = name.partition(".")[2]
        keeps = own in kept or not tensor.is_floating_point()
        made[name] = tensor if keeps else shrink * tensor + (1 - shrink) * noise.get(own, torch.zeros_like(tensor))
    return made
