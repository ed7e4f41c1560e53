"""Observations of several parts: an encoder for each, and one layer that reads them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import nn

from graft.agents.networks.activation import Activation, gain, make
from graft.agents.networks.encoder import ENCODERS, Encoder, Stem, build_encoder, default_encoder, has_option
from graft.envs.core.schema import ObservationSchema
from graft.errors import GraftError, unknown


class Branches(nn.Module):
    """Flat observations (N, D) of parts -> an activation of the sum of a linear layer of each part's encoder.

    This is one layer over all features, stored by part: adding or removing a part keeps the other weights.
    """

    def __init__(
        self, schema: ObservationSchema, encoders: Mapping[str, Encoder], features: int, activation: Activation
    ) -> None:
        super().__init__()
        self.shapes = {name: part.shape for name, part in schema.parts}
        self.parts = nn.ModuleDict({part_key(name): encoder for name, encoder in encoders.items()})
        self.joins = nn.ModuleDict(
            {part_key(name): nn.Linear(encoder.out_dim, features, bias=False) for name, encoder in encoders.items()}
        )
        self.bias = nn.Parameter(torch.zeros(features))
        self.activation = make(activation)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.bias
        for name, piece in self._pieces(obs).items():
            total = total + self.joins[part_key(name)](self.parts[part_key(name)](piece))
        return cast(torch.Tensor, self.activation(total))

    def branch(self, part: str, obs: torch.Tensor) -> torch.Tensor:
        """Features of one part's encoder, (N, its features)."""
        return cast(torch.Tensor, self.parts[part_key(part)](self._pieces(obs)[part]))

    def weight(self, part: str) -> nn.Parameter:
        """The linear layer's weights of a part, (F, its features)."""
        return cast(nn.Parameter, self.joins[part_key(part)].weight)

    def _pieces(self, obs: torch.Tensor) -> dict[str, torch.Tensor]:
        pieces = torch.split(obs, [math.prod(shape) for shape in self.shapes.values()], 1)
        return {name: p.reshape(-1, *shape) for p, (name, shape) in zip(pieces, self.shapes.items(), strict=True)}


@ENCODERS.register("branches")
class BranchesEncoder(Encoder):
    """An encoder for each part of the observation, then one layer over all of them.

    Args:
        schema: an observation of ``parts``.
        features: number of features.
        normalise: whether a `Normaliser` scales vector parts, unless the options of a part say otherwise.
        encoders: part -> ``{encoder: name, options: {...}}``; the default encoder for other parts. Entries of parts
            that this task does not have are ignored.
        activation: of the layer, and of encoders that have the option, unless the options of a part say otherwise. None
            is tanh in the layer, and what each encoder has by default.
    """

    kinds = ("parts",)
    default_for = ("parts",)

    def __init__(
        self,
        schema: ObservationSchema,
        features: Annotated[int, Field(ge=1)] = 128,
        normalise: bool = False,
        encoders: Mapping[str, Mapping[str, object]] | None = None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        chosen, parts = dict(encoders or {}), dict(schema.parts)
        if chosen and not chosen.keys() & parts.keys():
            raise unknown("part of the observation", next(iter(chosen)), parts)
        built = {name: _branch(name, part, chosen.get(name, {}), normalise, activation) for name, part in parts.items()}
        self.blocks = nn.ModuleList([Branches(schema, built, features, activation or "tanh")])
        self.out_dim = features
        stems = []
        for name, encoder in built.items():
            for stem in encoder.stems:
                names = tuple(f"{name}/{n}" for n in stem.names)
                stems.append(
                    stem._replace(name=f"blocks.0.parts.{part_key(name)}.{stem.name}", names=names, within=True)
                )
            stems.append(Stem(f"blocks.0.joins.{part_key(name)}.weight", encoder.out_dim, (name,), ((),)))
        self.stems = tuple(stems)

    def gains(self) -> dict[nn.Module, float]:
        block = cast(Branches, self.blocks[0])
        return super().gains() | dict.fromkeys(block.joins.values(), gain(block.activation))

    @property
    def unread(self) -> tuple[str, ...]:
        block = cast(Branches, self.blocks[0])
        return tuple(f"blocks.0.parts.{part_key(name)}." for name in block.shapes if not block.weight(name).any())


def part_key(part: str) -> str:
    """A part's name in a ModuleDict, which reserves some, such as "keys" and "type"."""
    return f"{part}:" if not part or hasattr(nn.ModuleDict(), part) else part


def _branch(
    name: str, part: ObservationSchema, chosen: Mapping[str, object], normalise: bool, activation: Activation | None
) -> Encoder:
    for key in chosen:
        if key not in ("encoder", "options"):
            raise unknown(f"entry of encoders: {name}", key, ("encoder", "options"))
    options = chosen.get("options", {})
    if not isinstance(options, Mapping):
        raise GraftError(f"encoders: {name}: options={options!r} is not allowed; give option: value pairs.")
    encoder = str(chosen.get("encoder") or default_encoder(part))
    if normalise and part.kind == "vector" and encoder == default_encoder(part):
        options = {"normalise": True, **options}
    if activation is not None and has_option(encoder, "activation"):
        options = {"activation": activation, **options}
    return build_encoder(encoder, part, options)
