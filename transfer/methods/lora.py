"""LoRA: the source's weights are frozen, and a low-rank correction of each layer trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.training.algorithm import Count, Positive
from graft.envs.core.schema import Schemas
from graft.transfer.method import FRESH_WEIGHTS, METHODS, Built, FromSource, State

STREAM = 0x10EA
"""Added to the seed, so that A is not drawn from the same random numbers as the fresh heads."""


class LowRank(nn.Module):
    """``W0 -> W0 + (alpha / r) B A``, with W0 seen as a matrix (out, in), of a convolution (out, in * kh * kw).

    Args:
        weight: W0, for its shape. A (r, in) is drawn from ``generator``, B (out, r) is zero.
        rank: r, where the matrix is not smaller.
        alpha: of the scale.
    """

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        rank = min(rank, outputs, inputs)
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5), generator=generator)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.scale * (self.B @ self.A).view_as(weight)


@METHODS.register("lora")
@dataclass(frozen=True, kw_only=True)
class LoRA(FromSource):
    """``W = W0 + (alpha / r) B A`` for every Linear and Conv2d of the encoder; only A, B and the heads train.

    B starts at zero; A uniform in +-1/sqrt(in), as in the paper's code (Kaiming with a = sqrt(5)), not normal as in
    its text. Biases and normalisation stay the source's, and so do running statistics unless ``statistics`` are to
    ``go_on``. In training, parameters have the names of `torch.nn.utils.parametrize`; `finish` merges them.

    Attributes:
        rank: r of every layer, at most the smaller side of its matrix; a layer whose r is smaller is scaled by that.
        alpha: numerator of the scale.
    Source: Hu et al. 2021, section 4.1 and eq. 3. Theirs adapts attention matrices; a convolution is adapted here as
        the matrix (out, in * kh * kw).
    """

    provides: ClassVar[frozenset[str]] = frozenset({"fresh_weights"})
    conflicts: ClassVar[Mapping[str, str]] = FRESH_WEIGHTS

    rank: Count = 8
    alpha: Positive = 16.0

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """The transplanted network with a frozen encoder and its corrections, whose blocks do not count as frozen."""
        built = super().build(source, target, architecture, seed)
        encoder = built.network.encoder.requires_grad_(False)
        encoder.hold_statistics(self.statistics != "go_on")
        generator = torch.Generator().manual_seed(seed + STREAM)
        for layer in [module for module in encoder.modules() if isinstance(module, nn.Linear | nn.Conv2d)]:
            correction = LowRank(layer.weight, self.rank, self.alpha, generator)
            parametrize.register_parametrization(layer, "weight", correction)
        return built

    @torch.no_grad()
    def finish(self, network: PolicyNetwork, state: State) -> PolicyNetwork:
        """A plain network with the merged weights W, all of which train; ``network`` stays as it is."""
        # `remove_parametrizations` would break copies of the network, which share its layers' classes.
        plain = build_network(network.schemas, network.config, seed=0)
        merged = {}
        for name in plain.state_dict():
            module, _, attribute = name.rpartition(".")
            merged[name] = getattr(network.get_submodule(module), attribute)
        plain.load_exactly(merged)
        return plain.to(network.policy.out.weight.device).train(network.training)
