"""Layers of another library -> an encoder of Graft, and what is left for its heads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graft.agents.importing.fit import features, listed
from graft.agents.importing.foreign import WHOLE, ForeignPolicy, Layer, Statistics, parts_of
from graft.agents.networks.activation import Activation
from graft.agents.networks.encoders.branches import part_key
from graft.agents.networks.normaliser import CLIP, EPSILON, RESOLUTION
from graft.envs.core.schema import ObservationSchema, Schemas
from graft.errors import GraftError

NATURE = ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))
"""Channels, kernel, stride and padding of the convolutions of `nature_cnn`."""

WIDEST = 4096
"""Numbers of an observation that a policy without hidden layers, or a part without a network, may have."""

SEEN = 1e6
"""Observations that imported statistics count as, where the file does not say: later ones move them slowly."""


class Row(NamedTuple):
    """One line of the table: a tensor of the file, its shape, and where it went."""

    tensor: str
    shape: tuple[int, ...]
    to: str


class EncoderParts(NamedTuple):
    """An encoder by its name and options."""

    name: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]  # by names within the encoder
    rows: list[Row]


class Towers(NamedTuple):
    """Hidden layers of policy and value that no encoder holds, and output layers."""

    policy: tuple[Layer, ...]
    value: tuple[Layer, ...]
    reads: tuple[int, int]  # at which feature the first layer of each begins to read


def deepened(tower: tuple[Layer, ...], depth: int) -> tuple[Layer, ...]:
    """With layers that leave what is not negative as it is, as after ReLU, before the last; at least ``depth``."""
    while len(tower) < depth:
        count = tower[-1].weight.shape[1]
        same = Layer(torch.eye(count), torch.zeros(count), ("", None), "relu")
        # Where there is no hidden layer before, what comes in may be negative: its parts of both signs go on.
        if len(tower) == 1:
            last = tower[-1]
            both = Layer(torch.cat([torch.eye(count), -torch.eye(count)]), torch.zeros(2 * count), ("", None), "relu")
            tower = (both, last._replace(weight=torch.cat([last.weight, -last.weight], 1)))
        else:
            tower = (*tower[:-1], same, tower[-1])
    return tower


def encoder_of(policy: ForeignPolicy, schemas: Schemas) -> tuple[EncoderParts, Towers, Activation | None]:
    """The encoder, what is left for the heads, and the encoder's last activation."""
    parts = parts_of(schemas.observation)
    if WHOLE not in parts:
        return _branches(policy, parts)
    extractor, part = policy.extractors[WHOLE], parts[WHOLE]
    if any(layer.convolves for layer in extractor):
        return _convolutions(extractor, part, policy), _after(policy.trunk, policy), extractor[-1].activation
    trunk = (*extractor, *policy.trunk)
    first = trunk[0].activation if trunk else None
    shared = _run_of(trunk, first)
    if shared:
        return _mlp([[layer] for layer in shared], part, policy), _after(trunk[len(shared) :], policy), first
    policy_tower, value_tower = policy.policy, policy.value
    if any(layer.activation is None for layer in policy_tower[:-1]):
        raise GraftError("The file's policy has a hidden layer without an activation, which is not read.")
    if len(policy_tower) == 1:
        if policy_tower[0].weight.shape[1] > WIDEST:
            raise GraftError(f"A policy without hidden layers reads at most {WIDEST} numbers.")
        policy_tower = deepened(policy_tower, 2)
        value_tower = deepened(value_tower, 2) if value_tower else ()
    first = policy_tower[0].activation
    own = _run_of(policy_tower[:-1], first)
    sides = [[layer] for layer in own]
    if value_tower:
        sides = [list(pair) for pair in zip(own, value_tower[: len(own)], strict=True)]
    encoder = _mlp(sides, part, policy)
    towers = Towers(policy_tower[len(own) :], value_tower[len(own) :], (0, own[-1].outputs if value_tower else 0))
    return encoder, towers, first


def _after(rest: tuple[Layer, ...], policy: ForeignPolicy) -> Towers:
    """Of the trunk's layers that no encoder holds: each head has its own of these."""
    return Towers((*rest, *policy.policy), (*rest, *policy.value) if policy.value else (), (0, 0))


def _run_of(layers: Sequence[Layer], activation: Activation | None) -> tuple[Layer, ...]:
    """The first layers, as far as they have this activation; none of those without one."""
    return tuple(itertools.takewhile(lambda layer: activation is not None and layer.activation == activation, layers))


def _side_by_side(layers: Sequence[Layer], place: str, first: bool) -> tuple[Tensor, Tensor, list[Row]]:
    """Weight and bias of layers next to each other, which read the same (``first``) or each its own."""
    weights = [layer.weight for layer in layers]
    weight = torch.cat(weights) if first else torch.block_diag(*weights)  # type: ignore[no-untyped-call]
    rows, top, left = [], 0, 0
    for layer in layers:
        down, right = top + layer.outputs, left + layer.weight.shape[1]
        at = "" if len(layers) == 1 else f"{top}:{down}", ":" if first else f"{left}:{right}"
        rows += rows_of(layer, place, *at)
        top, left = down, right
    return weight, torch.cat([layer.bias for layer in layers]), rows


def rows_of(layer: Layer, place: str, rows: str = "", columns: str = ":") -> list[Row]:
    """Where weight and bias went: whole, or into these ``rows`` and ``columns``."""
    at = (f"[{rows}, {columns}]", f"[{rows}]") if rows else ("", "")
    places = ((layer.names[0], layer.weight, f"weight{at[0]}"), (layer.names[1], layer.bias, f"bias{at[1]}"))
    return [Row(name, tuple(tensor.shape), f"{place}.{to}") for name, tensor, to in places if name]


def _mlp(
    sides: Sequence[Sequence[Layer]], part: ObservationSchema, policy: ForeignPolicy, name: str = WHOLE
) -> EncoderParts:
    """The encoder ``mlp`` from layers side by side."""
    tensors: dict[str, Tensor] = {}
    rows: list[Row] = []
    for index, layers in enumerate(sides):
        place = f"blocks.{index}.1"
        weight, bias, found = _side_by_side(layers, place, first=index == 0)
        if index == 0 and part.kind == "pixels" and policy.pixels != 255.0:
            weight = weight * (255.0 / policy.pixels)
        tensors |= {f"{place}.weight": weight, f"{place}.bias": bias}
        rows += found
    options: dict[str, Any] = {"widths": [sum(layer.outputs for layer in layers) for layers in sides]}
    options["activation"] = sides[0][0].activation
    if (known := policy.statistics.get(name)) is not None:
        statistics, more = _statistics(known, math.prod(part.shape))
        tensors |= {f"blocks.0.0.{n}": t for n, t in statistics.items()}
        options |= {"normalise": True, **more}
        rows += [Row(n, (math.prod(part.shape),), "blocks.0.0") for n in known.names]
    return EncoderParts("mlp", options, tensors, rows)


def _statistics(known: Statistics, size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Buffers of a `Normaliser` that does what ``known`` says, and the options that it needs."""
    if known.mean.shape != (size,) or known.divisor.shape != (size,):
        raise GraftError(f"The statistics have {known.mean.numel()} means, the observation {size} numbers.")
    if not (known.mean.isfinite().all() and known.divisor.isfinite().all() and (known.divisor > 0).all()):
        raise GraftError("The statistics are not finite, or have a deviation of 0.")
    least = 1.1 * (RESOLUTION * known.mean.double().abs().clamp(min=1)).square()
    variance = torch.maximum(known.divisor.double().square() - EPSILON, least)
    tensors = {
        "running_mean": known.mean.float(),
        "running_var": variance.float(),
        "running_count": torch.full((size,), SEEN),
    }
    clip = min(known.clip, float(torch.finfo(torch.float32).max))
    return tensors, {} if clip == CLIP else {"clip": clip}


def _convolutions(layers: Sequence[Layer], part: ObservationSchema, policy: ForeignPolicy) -> EncoderParts:
    """`nature_cnn` where the layers are its, else `grid_cnn`."""
    *convolutions, last = layers
    if last.convolves or any(not layer.convolves for layer in convolutions) or len(part.shape) != 3:
        raise GraftError("Convolutions must read a picture or a board, and one linear layer must follow them.")
    if len(kinds := {layer.activation for layer in layers}) > 1 or None in kinds:
        raise GraftError(f"The convolutions and their linear layer have several activations ({listed(list(kinds))}).")
    sizes = tuple((c.outputs, c.weight.shape[2], c.stride, c.padding) for c in convolutions)
    if any(c.weight.shape[2] != c.weight.shape[3] for c in convolutions):
        raise GraftError("Convolutions with kernels that are not square are not read.")
    nature = sizes == NATURE and part.kind == "pixels" and min(part.shape[1:]) >= 36
    options: dict[str, Any] = {"features": last.outputs, "activation": last.activation}
    if not nature:
        names = ("channels", "kernels", "strides", "paddings")
        options |= {name: list(values) for name, values in zip(names, zip(*sizes, strict=True), strict=True)}
        options["pools"] = [1] * len(sizes)
    tensors: dict[str, Tensor] = {}
    rows: list[Row] = []
    for index, layer in enumerate(layers):
        place = f"blocks.{index}.{1 if index == len(convolutions) else 0}"
        weight = layer.weight
        if index == 0 and part.kind == "pixels" and policy.pixels != 255.0:
            weight = weight * (255.0 / policy.pixels)
        tensors |= {f"{place}.weight": weight, f"{place}.bias": layer.bias}
        rows += rows_of(layer, place)
    return EncoderParts("nature_cnn" if nature else "grid_cnn", options, tensors, rows)


def _branches(
    policy: ForeignPolicy, parts: Mapping[str, ObservationSchema]
) -> tuple[EncoderParts, Towers, Activation | None]:
    """An encoder for each part, and the first layers that read all of them as the one layer of `branches`."""
    trunk = policy.trunk
    sides = [trunk[0]] if trunk else [policy.policy[0], *policy.value[:1]]
    activation = sides[0].activation
    if activation is None:
        raise GraftError("A policy over several parts of an observation needs a hidden layer.")
    weight, bias, joined = _side_by_side(sides, "joins.*", first=True)
    tensors: dict[str, Tensor] = {"blocks.0.bias": bias}
    rows: list[Row] = []
    encoders: dict[str, Any] = {}
    begins = 0
    for name, layers in policy.extractors.items():
        part, width = parts[name], features(parts[name], layers)
        columns = weight[:, begins : begins + width]
        begins += width
        if any(layer.convolves for layer in layers):
            inner = _convolutions(layers, part, policy)
        elif layers:
            inner = _mlp([[layer] for layer in layers], part, policy, name)
        else:
            inner, columns = _as_it_is(part, policy, name), torch.cat([columns, -columns], 1)
        encoders[name] = {"encoder": inner.name, "options": inner.options}
        place = f"blocks.0.parts.{part_key(name)}"
        tensors |= {f"{place}.{n}": t for n, t in inner.tensors.items()}
        tensors[f"blocks.0.joins.{part_key(name)}.weight"] = columns
        rows += [row._replace(to=f"{place}.{row.to}") for row in inner.rows]
    rows += [row._replace(to=f"blocks.0.{row.to.replace('joins.*.bias', 'bias')}") for row in joined]
    options = {"features": len(weight), "encoders": encoders, "activation": activation}
    encoder = EncoderParts("branches", options, tensors, rows)
    if trunk:
        return encoder, _after(trunk[1:], policy), activation
    reads = (0, policy.policy[0].outputs if policy.value else 0)
    return encoder, Towers(policy.policy[1:], policy.value[1:], reads), activation


def _as_it_is(part: ObservationSchema, policy: ForeignPolicy, name: str) -> EncoderParts:
    """A part without a network: what of it is above zero and what below, as ReLU gives both."""
    count = math.prod(part.shape)
    if count > WIDEST:
        raise GraftError(f"Part {name!r} has {count} numbers and no network of its own; at most {WIDEST} are read.")
    same = Layer(torch.eye(count), torch.zeros(count), ("", None))
    both = deepened((same,), 2)[0]
    return _mlp([[both]], part, policy, name)
