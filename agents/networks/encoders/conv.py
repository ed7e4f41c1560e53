"""Convolutional encoders: `grid_cnn` for boards of entity planes and small pictures, `nature_cnn` for screens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from graft.agents.networks.activation import Activation, make
from graft.agents.networks.encoder import ENCODERS, Encoder, Stem, highest
from graft.envs.core.schema import ObservationSchema
from graft.errors import GraftError

HINT = "make them smaller, or take the encoder mlp, which has none."


def flat_size(blocks: nn.ModuleList, shape: tuple[int, ...]) -> int:
    """Values that leave ``blocks`` for an observation; raises GraftError where a kernel or pool exceeds its input."""
    hidden = torch.zeros(1, *shape)
    try:
        with torch.no_grad():
            for block in blocks:
                hidden = block(hidden)
    except RuntimeError as error:
        raise GraftError(
            f"These kernels, strides and pools do not fit an observation of shape {shape}; {HINT}"
        ) from error
    if hidden.numel() == 0:
        raise GraftError(f"These kernels, strides and pools leave nothing of an observation of shape {shape}; {HINT}")
    return hidden.numel()


def check_sizes(encoder: str, **sizes: Sequence[int]) -> None:
    for option, values in sizes.items():
        if min(values) < 1:
            given = ", ".join(map(str, values))
            raise GraftError(f"{option}={given} is not allowed; {encoder} needs {option} of at least 1.")


@ENCODERS.register("grid_cnn")
class GridCNN(Encoder):
    """Convolutions over entity planes or a picture, then one fully connected layer; an activation after each.

    Args:
        schema: a ``planes`` observation (C, H, W), or ``pixels``, which are scaled to [0, 1].
        channels, kernels, strides: one entry per convolution.
        paddings: of each convolution; by default (k - 1) // 2 of a kernel k.
        pools: size of the max-pool after each convolution; 1 is none.
        features: number of features.
        activation: after each layer.
    """

    kinds = ("planes", "pixels")
    default_for = ("planes",)

    def __init__(
        self,
        schema: ObservationSchema,
        channels: Sequence[int] = (16, 32),
        kernels: Sequence[int] = (3, 3),
        strides: Sequence[int] = (2, 2),
        pools: Sequence[int] = (1, 1),
        features: int = 128,
        activation: Activation = "relu",
        paddings: Sequence[Annotated[int, Field(ge=0)]] | None = None,
    ) -> None:
        super().__init__()
        paddings = [(kernel - 1) // 2 for kernel in kernels] if paddings is None else paddings
        if len({len(channels), len(kernels), len(strides), len(pools), len(paddings)}) != 1:
            raise GraftError(
                f"grid_cnn needs as many kernels, strides, pools and paddings as channels, got {len(channels)} "
                f"channels, {len(kernels)} kernels, {len(strides)} strides, {len(pools)} pools and {len(paddings)} "
                f"paddings."
            )
        if not channels:
            raise GraftError("grid_cnn needs at least one convolution; use the mlp to have none.")
        check_sizes("grid_cnn", channels=channels, kernels=kernels, strides=strides, pools=pools, features=(features,))
        self.blocks, self.highest = nn.ModuleList(), highest(schema)
        inputs = schema.shape[0]
        sizes = zip(channels, kernels, strides, pools, paddings, strict=True)
        for outputs, kernel, stride, pool, padding in sizes:
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding)
            layers: list[nn.Module] = [convolution, make(activation)]
            if pool > 1:
                layers.append(nn.MaxPool2d(pool))
            self.blocks.append(nn.Sequential(*layers))
            inputs = outputs
        flat = flat_size(self.blocks, schema.shape)
        self.blocks.append(nn.Sequential(nn.Flatten(), nn.Linear(flat, features), make(activation)))
        self.out_dim = features
        self.stems = (Stem.of("blocks.0.0.weight", 1, schema),)


@ENCODERS.register("nature_cnn")
class NatureCNN(Encoder):
    """The three convolutions and one fully connected layer of Mnih et al. 2015, on pixels scaled to [0, 1].

    Args:
        schema: a ``pixels`` observation (C, H, W), at least 36 by 36.
        features: number of features.
        activation: after each layer.
    """

    kinds = ("pixels",)
    least = 36
    default_for = ("pixels",)

    def __init__(self, schema: ObservationSchema, features: int = 512, activation: Activation = "relu") -> None:
        super().__init__()
        check_sizes("nature_cnn", features=(features,))
        self.highest = highest(schema)
        layers = ((schema.shape[0], 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(*sizes), make(activation)) for sizes in layers)
        flat = flat_size(self.blocks, schema.shape)
        self.blocks.append(nn.Sequential(nn.Flatten(), nn.Linear(flat, features), make(activation)))
        self.out_dim = features
        self.stems = (Stem.of("blocks.0.0.weight", 1, schema),)
