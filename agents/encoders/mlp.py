"""Multi-layer perceptron over a vector of named features, or over flattened planes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

from agents.encoder import ENCODERS, Encoder, Stem
from envs.errors import GraftError
from envs.schema import ObservationSchema


@ENCODERS.register("mlp")
class MLP(Encoder):
    """Fully connected layers with tanh.

    Args:
        schema: a ``vector`` or ``planes`` observation.
        widths: units of each layer; the last is the number of features.
    """

    kinds = ("vector", "planes")
    default_for = ("vector",)

    def __init__(self, schema: ObservationSchema, widths: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise GraftError(
                f"widths={list(widths)} is not allowed; the mlp needs one or more layers of at least 1 unit."
            )
        sizes = [math.prod(schema.shape), *widths]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(fan_in, fan_out), nn.Tanh())
            for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.out_dim = sizes[-1]
        self.stem = Stem("blocks.0.1.weight", math.prod(schema.shape[1:]))
