"""A policy of another library as layers of named tensors, and its forward pass, written down plainly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from graft.agents.networks.activation import Activation
from graft.envs.core.schema import ActionSchema, ObservationSchema
from graft.errors import GraftError, some

Kind = Literal["categorical", "greedy", "gaussian", "squashed"]
Units = Literal["environment", "scaled"]

WHOLE = ""
"""Name of the only part of an observation that has no parts."""

_FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "silu": functional.silu,
    "gelu": functional.gelu,
}


class Layer(NamedTuple):
    """A linear layer, weight (out, in), or a convolution, weight (out, in, k, k), and the activation after it.

    ``names``: what weight and bias are called in the file, the bias None where it has none (zeros).
    """

    weight: Tensor
    bias: Tensor
    names: tuple[str, str | None]
    activation: Activation | None = None
    stride: int = 1
    padding: int = 0

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @property
    def convolves(self) -> bool:
        return self.weight.dim() == 4

    def apply(self, x: Tensor) -> Tensor:
        """What it makes of ``x``, in the numbers of ``x``."""
        weight, bias = self.weight.to(x), self.bias.to(x)
        if self.convolves:
            x = functional.conv2d(x, weight, bias, self.stride, self.padding)
        else:
            x = functional.linear(x.flatten(1), weight, bias)
        return x if self.activation is None else _FUNCTIONS[self.activation](x)


class Statistics(NamedTuple):
    """Observations are played as ``((x - mean) / divisor)``, clipped to ``clip``; vectors (D,).

    ``names``: of what in the file they came from.
    """

    mean: Tensor
    divisor: Tensor
    clip: float = math.inf
    names: tuple[str, ...] = ()

    def apply(self, x: Tensor) -> Tensor:
        """What is played of observations (N, D)."""
        return ((x - self.mean.to(x)) / self.divisor.to(x)).clamp(-self.clip, self.clip)


@dataclass(frozen=True)
class ForeignPolicy:
    """What was read of a file.

    Attributes:
        kind: of actions: logits (``categorical``), Q values (``greedy``), means, or means before a tanh (``squashed``).
        policy: layers of the policy after the trunk; the last is its output.
        value: the same of the value; empty where there is none.
        trunk: layers that both share, after the extractors.
        extractors: part of the observation -> its layers; empty for a part that is flattened.
        log_std: name and tensor (A,) of a Gaussian's deviations. spread: their layer, where they depend on the state.
        units: of means: the environment's numbers, or -1 to 1 between the bounds.
        pixels: what pixels are divided by.
        statistics: part -> how its numbers are normalised.
        unused: tensor or file -> why it has no place in the network.
        made: tensor of Graft's network -> why it is not from the file.
        origin: library, algorithm, version: what the file says of itself.
        run: where the file can be run by another library: (this policy, raw observations (N, *shape), which actions
            are forbidden) -> actions as the environment takes them, and outputs (N, A).
    """

    kind: Kind
    policy: tuple[Layer, ...]
    value: tuple[Layer, ...] = ()
    trunk: tuple[Layer, ...] = ()
    extractors: Mapping[str, tuple[Layer, ...]] = field(default_factory=lambda: {WHOLE: ()})
    log_std: tuple[str, Tensor] | None = None
    spread: Layer | None = None
    units: Units = "environment"
    pixels: float = 255.0
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    unused: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    run: Callable[[ForeignPolicy, Tensor, Tensor | None], tuple[Tensor, Tensor]] | None = None

    def layers(self) -> list[Layer]:
        """All of them."""
        extracting = [layer for layers in self.extractors.values() for layer in layers]
        return [*extracting, *self.trunk, *self.policy, *self.value, *([self.spread] if self.spread else [])]

    def names(self) -> set[str]:
        """Of the file's tensors that it is made of."""
        found = {name for layer in self.layers() for name in layer.names if name}
        found.update(*(known.names for known in self.statistics.values()))
        return found | ({self.log_std[0]} if self.log_std else set())


def parts_of(schema: ObservationSchema) -> dict[str, ObservationSchema]:
    """Name -> schema of each part; the whole one as `WHOLE`."""
    plain = schema.plain
    return dict(plain.parts) if plain.kind == "parts" else {WHOLE: plain}


def read_layers(
    tensors: Mapping[str, Tensor], places: Sequence[str], activation: Activation | None, last: bool = False
) -> tuple[Layer, ...]:
    """Linear layers whose tensors are ``<place>.weight`` and ``.bias``; ``last``: whether an activation follows the
    last one.

    Raises GraftError for tensors that are missing, or that do not fit each other.
    """
    return tuple(
        layer_at(tensors, place, activation if last or index < len(places) - 1 else None)
        for index, place in enumerate(places)
    )


def numbered(tensors: Mapping[str, Tensor], place: str) -> list[str]:
    """Places of the layers of an ``nn.Sequential`` at ``place``, in order."""
    pattern = re.compile(re.escape(place) + r"\.(\d+)\.weight")
    numbers = sorted(int(match[1]) for name in tensors if (match := pattern.fullmatch(name)))
    return [f"{place}.{number}" for number in numbers]


def layer_at(
    tensors: Mapping[str, Tensor], place: str, activation: Activation | None, stride: int = 1, padding: int = 0
) -> Layer:
    """The layer whose tensors are ``<place>.weight`` and ``.bias``; raises GraftError where they are no layer's."""
    name = f"{place}.weight"
    if name not in tensors:
        raise GraftError(f"The file has no tensor {name!r}; it has {some(tensors)}.")
    weight, bias = tensors[name], tensors.get(f"{place}.bias")
    fits = weight.dim() in (2, 4) and (bias is None or bias.shape == weight.shape[:1])
    if not fits or not (weight.isfinite().all() and (bias is None or bias.isfinite().all())):
        raise GraftError(f"Tensor {name!r} of shape {tuple(weight.shape)} is no weight of a layer, or is not finite.")
    names = (name, None if bias is None else f"{place}.bias")
    return Layer(weight, torch.zeros(len(weight)) if bias is None else bias, names, activation, stride, padding)


def columns(schema: ObservationSchema, obs: Tensor) -> dict[str, Tensor]:
    """Part -> its numbers (N, D) in double precision, of raw observations (N, *shape)."""
    places, parts = obs[:, : math.prod(schema.plain.shape)] if schema.flags else obs, parts_of(schema)
    flat = places.reshape(len(obs), -1).double()
    return dict(zip(parts, torch.split(flat, [math.prod(p.shape) for p in parts.values()], 1), strict=True))


@torch.no_grad()
def outputs(policy: ForeignPolicy, schema: ObservationSchema, obs: Tensor) -> Tensor:
    """Logits, Q values or means (N, A) of raw observations (N, *shape), in double precision."""
    pieces, parts, found = [], parts_of(schema), columns(schema, obs)
    for name, layers in policy.extractors.items():
        x = found[name]
        if parts[name].kind == "pixels":
            x = x / policy.pixels
        if (known := policy.statistics.get(name)) is not None:
            x = known.apply(x)
        x = x.reshape(-1, *parts[name].shape)
        for layer in layers:
            x = layer.apply(x)
        pieces.append(x.flatten(1))
    x = torch.cat(pieces, 1)
    for layer in (*policy.trunk, *policy.policy):
        x = layer.apply(x)
    return x


def played(policy: ForeignPolicy, found: Tensor, actions: ActionSchema, forbidden: Tensor | None = None) -> Tensor:
    """The actions that `outputs` mean where nothing is drawn, as an environment takes them."""
    if forbidden is not None:
        found = found.masked_fill(forbidden, -math.inf)
    if actions.kind != "box":
        chosen = [
            part.argmax(-1, keepdim=True) for part in torch.split(found, list(actions.sizes) or found.shape[-1], -1)
        ]
        return torch.cat(chosen, -1) if actions.sizes else chosen[0].squeeze(-1)
    low, high = (torch.tensor(end, dtype=found.dtype) for end in (actions.low, actions.high))
    if policy.kind == "squashed":
        return low + (found.tanh() + 1) / 2 * (high - low)
    if policy.units == "scaled":
        bounded = low.isfinite() & high.isfinite()
        found = torch.where(bounded, low + (found + 1) / 2 * (high - low), found)
    return torch.maximum(torch.minimum(found, high), low)
