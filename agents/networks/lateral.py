"""Lateral connections of progressive networks: a new column reads the activations of earlier columns."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn

from graft.agents.networks.activation import gain, make
from graft.agents.networks.policy_network import PolicyHead, PolicyNetwork, ValueHead
from graft.errors import GraftError

SCALE_RANGE = (0.01, 0.1)  # initial values of learned scalars; "a variety of random small values" of Rusu et al. 2016

Trace = dict[str, list[torch.Tensor]]
"""A column's activations: ``encoder``, ``policy``, ``value`` -> outputs of the blocks (of heads: the hidden layers)."""

CELLS = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


class Lateral(nn.Module):
    """Input of a new column's layer from the earlier columns: U act(V (a * h)), with h their activations.

    Args:
        layer: W, the new column's layer to whose output this is added.
        inputs: channels or features of h, one entry for each earlier column.
        width: channels or features that V projects to.
        activation: between V and U; V starts orthogonal with its gain.
        out_gain: of U's orthogonal start.
    """

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, inputs: Sequence[int], width: int, activation: nn.Module, out_gain: float
    ) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.empty(len(inputs)).uniform_(*SCALE_RANGE))
        self.activation = activation
        self.project: nn.Linear | nn.Conv2d
        self.out: nn.Linear | nn.Conv2d
        if isinstance(layer, nn.Conv2d):
            self.project = nn.Conv2d(sum(inputs), width, 1)
            # The same cells as W's, so that outputs can be added; W has the bias.
            cells: dict[str, Any] = {name: getattr(layer, name) for name in CELLS}
            self.out = nn.Conv2d(width, layer.out_channels, bias=False, **cells)
        else:
            self.project = nn.Linear(sum(inputs), width)
            self.out = nn.Linear(width, layer.out_features, bias=False)
        nn.init.orthogonal_(self.project.weight, gain(activation))
        assert self.project.bias is not None
        nn.init.zeros_(self.project.bias)
        nn.init.orthogonal_(self.out.weight, out_gain)

    def forward(self, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
        """One tensor (N, ...) for each earlier column, in order -> a tensor of the shape of W's output."""
        if isinstance(self.project, nn.Linear):
            hidden = [h.flatten(1) for h in hidden]
        scaled = torch.cat([h * self.scales[j] for j, h in enumerate(hidden)], 1)
        return cast(torch.Tensor, self.out(self.activation(self.project(scaled))))


def column_blocks(network: PolicyNetwork) -> dict[str, list[Iterable[nn.Module]]]:
    """A column's blocks by part, as in `Trace`; a block is a sequence of modules."""

    def layers(head: PolicyHead | ValueHead) -> list[Iterable[nn.Module]]:
        blocks: list[list[nn.Module]] = []
        for module in head.hidden:
            if isinstance(module, nn.Linear):
                blocks.append([])
            blocks[-1].append(module)
        return list(blocks)

    encoder = [block if isinstance(block, nn.Sequential) else (block,) for block in network.encoder.blocks]
    return {"encoder": list(encoder), "policy": layers(network.policy), "value": layers(network.value)}


def output_layers(network: PolicyNetwork) -> dict[str, tuple[str, nn.Linear, float]]:
    """Name -> head, output layer, and gain of its orthogonal initialisation."""
    layers = {"policy_out": ("policy", network.policy.out, 0.01), "value_out": ("value", network.value.out, 1.0)}
    if network.policy.spread is not None:
        layers["policy_spread"] = ("policy", network.policy.spread, 0.01)
    return layers


def block_input(trace: Trace, part: str, index: int) -> torch.Tensor:
    """Input of block ``index`` of a part, or of its output layers."""
    return trace[part][index - 1] if index else trace["encoder"][-1]


def run_column(
    network: PolicyNetwork, obs: torch.Tensor, laterals: nn.ModuleDict | None = None, earlier: Sequence[Trace] = ()
) -> Trace:
    """Encoder and hidden layers of the heads on raw observations (N, *obs_shape), with ``laterals`` added."""
    trace: Trace = {}
    for part, blocks in column_blocks(network).items():
        hidden = trace["encoder"][-1] if trace else network.encoder.scale(obs)
        trace[part] = []
        for index, block in enumerate(blocks):
            key, added = f"{part}_{index}", None
            if laterals is not None and key in laterals:
                added = laterals[key]([block_input(column, part, index) for column in earlier])
            for module in block:
                hidden = module(hidden)
                if added is not None and isinstance(module, nn.Linear | nn.Conv2d):
                    hidden = hidden + added
            trace[part].append(hidden)
    return trace


def fresh_laterals(network: PolicyNetwork, own: Trace, earlier: Sequence[Trace]) -> nn.ModuleDict:
    """Laterals into every block but the encoder's first, with its activation, and into the output layers, with the
    heads'; from torch's random numbers.

    ``own`` and ``earlier`` are activations of any observation in the column and in each earlier one. Raises GraftError
    for a block without exactly one layer to add to, or columns that do not fit together.
    """
    laterals = nn.ModuleDict()
    for part, blocks in column_blocks(network).items():
        for index, block in enumerate(blocks):
            if part == "encoder" and index == 0:
                continue
            name = f"block {index} of the {part}"
            layer = _weighted(block, name, network.config.encoder)
            inputs = _widths(layer, name, block_input(own, part, index), earlier, part, index)
            width = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
            nonlinear = next((m for m in block if type(m).__module__ == nn.ReLU.__module__), nn.Identity())
            laterals[f"{part}_{index}"] = Lateral(layer, inputs, width, copy.deepcopy(nonlinear), gain(nonlinear))
    for key, (part, layer, small) in output_layers(network).items():
        depth = len(own[part])
        inputs = _widths(layer, f"the output of the {part}", block_input(own, part, depth), earlier, part, depth)
        laterals[key] = Lateral(layer, inputs, layer.in_features, make(network.config.in_heads), small)
    return laterals


def _weighted(block: Iterable[nn.Module], name: str, encoder: str | None) -> nn.Linear | nn.Conv2d:
    """The layer of a block that a lateral is added to."""
    within = [m for child in block for m in child.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    direct = [m for m in block if isinstance(m, nn.Linear | nn.Conv2d)]
    if len(within) != 1 or len(direct) != 1:
        raise GraftError(
            f"A column beside others needs encoder blocks that are an nn.Sequential with exactly one Linear or Conv2d "
            f"directly in it; {name} ('{encoder}') has {len(direct)}, and {len(within)} at any depth."
        )
    return direct[0]


def _widths(
    layer: nn.Linear | nn.Conv2d, name: str, below: torch.Tensor, earlier: Sequence[Trace], part: str, index: int
) -> list[int]:
    """Channels (of a convolution) or features from each of the earlier columns."""
    widths = []
    for number, column in enumerate(earlier):
        if len(column[part]) < index:
            raise GraftError(
                f"Column {number} has too few layers for {name} of the new column to read; give the new column's "
                f"network at most as many layers."
            )
        hidden = block_input(column, part, index)
        if isinstance(layer, nn.Linear):
            widths.append(hidden[0].numel())
        elif hidden.dim() == below.dim() and hidden.shape[2:] == below.shape[2:]:
            widths.append(hidden.shape[1])
        else:
            raise GraftError(
                f"Column {number} has {tuple(hidden.shape[1:])} where {name} of the new column, a convolution, reads "
                f"{tuple(below.shape[1:])}; give both columns the same kernels, strides and pools."
            )
    return widths
