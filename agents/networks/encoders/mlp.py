"""Multi-layer perceptron over a vector of named features, or over flattened planes or pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, cast

from pydantic import Field
from torch import nn

from graft.agents.networks.activation import Activation, make
from graft.agents.networks.encoder import ENCODERS, Encoder, Stem, highest
from graft.agents.networks.normaliser import CLIP, Normaliser
from graft.envs.core.schema import ObservationSchema
from graft.errors import GraftError


@ENCODERS.register("mlp")
class MLP(Encoder):
    """Fully connected layers, each with an activation function.

    Args:
        schema: a ``vector``, ``planes`` or ``pixels`` observation; pixels are scaled to [0, 1].
        widths: units of each layer; the last is the number of features.
        normalise: whether running statistics scale what the first layer reads (`Normaliser`).
        activation: after each layer.
        clip: of normalised values.
    """

    kinds = ("vector", "planes", "pixels")
    default_for = ("vector",)

    def __init__(
        self,
        schema: ObservationSchema,
        widths: Sequence[int] = (64, 64),
        normalise: bool = False,
        activation: Activation = "tanh",
        clip: Annotated[float, Field(gt=0)] = CLIP,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise GraftError(
                f"widths={list(widths)} is not allowed; the mlp needs one or more layers of at least 1 unit."
            )
        sizes, self.highest = [math.prod(schema.shape), *widths], highest(schema)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(fan_in, fan_out), make(activation))
            for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.out_dim = sizes[-1]
        cells = math.prod(schema.shape[1:])
        self.stems = (Stem.of("blocks.0.1.weight", cells, schema),)
        if normalise:
            normaliser = Normaliser(sizes[0], clip)
            cast(nn.Sequential, self.blocks[0])[0] = normaliser
            self.stems += tuple(Stem.of(f"blocks.0.0.{name}", cells, schema, 0) for name in normaliser.state_dict())
