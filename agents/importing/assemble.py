"""Layers of another library -> a network of Graft that plays the same, and where each tensor went.

Where policy and value have towers of their own over the same input, their layers become one: side by side, with zeros
between them. So both are exact, and the whole tower is the encoder, which a transfer carries.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graft.agents.importing.foreign import WHOLE, ForeignPolicy, Layer, Statistics, parts_of
from graft.agents.networks.activation import Activation
from graft.agents.networks.box_units import from_units
from graft.agents.networks.encoders.branches import part_key
from graft.agents.networks.normaliser import CLIP, EPSILON, RESOLUTION
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, can_play
from graft.envs.core.schema import ObservationSchema, Schemas
from graft.errors import GraftError

NATURE = ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))
"""Channels, kernel, stride and padding of the convolutions of `nature_cnn`."""

WIDEST = 4096
"""Numbers of an observation that a policy without hidden layers, or a part without a network, may have."""

LARGEST = 1 << 25
"""Weights of a network that is made, with the zeros between towers side by side."""

SPREAD = -2.0
"""log standard deviation of squashed actions where the file has none: TD3 explores by noise of its training."""

SEEN = 1e6
"""Observations that imported statistics count as, where the file does not say: later ones move them slowly."""


class Row(NamedTuple):
    """One line of the table: a tensor of the file, its shape, and where it went."""

    tensor: str
    shape: tuple[int, ...]
    to: str


@dataclass
class Assembly:
    """The result.

    Attributes:
        network: with the file's weights.
        rows: a tensor of the file each. unused: tensor or file -> why it has no place.
        made: tensor of the network -> where it is from, if not from the file.
    """

    network: PolicyNetwork
    rows: list[Row]
    unused: dict[str, str]
    made: dict[str, str]


class _Encoder(NamedTuple):
    name: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]  # by names within the encoder
    rows: list[Row]


class _Towers(NamedTuple):
    """Hidden layers of policy and value that no encoder holds, and output layers."""

    policy: tuple[Layer, ...]
    value: tuple[Layer, ...]
    reads: tuple[int, int]  # at which feature the first layer of each begins to read


@dataclass
class _Notes:
    unused: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)

    def leave(self, layers: Sequence[Layer], why: str) -> None:
        for layer in layers:
            self.unused |= {name: why for name in layer.names if name}


def assemble(policy: ForeignPolicy, schemas: Schemas) -> Assembly:
    """The network for ``schemas`` whose greedy actions are those of ``policy``.

    Raises:
        GraftError: layers that do not fit the schemas or each other, or that no encoder of Graft can express.
    """
    _check(policy, schemas)
    _check_size(policy, schemas)
    notes = _Notes(dict(policy.unused), dict(policy.made))
    policy = _with_matching_value(policy, notes)
    encoder, towers, inner = _encoder(policy, schemas, notes)
    head = tuple(max(p.outputs, v.outputs) for p, v in _pairs(towers))
    hidden = [layer.activation for layer in (*towers.policy[:-1], *towers.value[:-1])]
    if len(set(hidden)) > 1:
        raise GraftError(f"The hidden layers of the file have several activations in a row ({_listed(hidden)}).")
    config = NetworkConfig(
        encoder=encoder.name,
        options=encoder.options,
        head=head,
        distribution={"greedy": "greedy", "squashed": "squashed"}.get(policy.kind),  # type: ignore[arg-type]
        activation=hidden[0] if hidden else inner or "tanh",
    )
    if not can_play(config.distribution, schemas.action):
        raise GraftError(f"The file's agent ({policy.kind}) cannot play the {schemas.action.kind} actions of the task.")
    network = PolicyNetwork(schemas, config, seed=0)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    rows = [row._replace(to=f"encoder.{row.to}") for row in encoder.rows]
    for name, tensor in encoder.tensors.items():
        if state[f"encoder.{name}"].shape != tensor.shape:
            raise GraftError(
                f"The file's layers do not fit the task's observations of shape {schemas.observation.plain.shape}: "
                f"{tuple(tensor.shape)} where {tuple(state[f'encoder.{name}'].shape)} is needed."
            )
        state[f"encoder.{name}"] = tensor
    _heads(policy, towers, schemas, state, rows, notes)
    network.load_exactly(state)
    network.eval()
    return Assembly(network, rows, notes.unused, notes.made)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, dict.fromkeys(values)))


def _check(policy: ForeignPolicy, schemas: Schemas) -> None:
    count, last = len(schemas.action.names), policy.policy[-1]
    if last.outputs != count or last.activation is not None:
        raise GraftError(
            f"The file's policy has {last.outputs} outputs, the task {count} actions "
            f"({', '.join(schemas.action.names)})."
        )
    if (policy.kind in ("gaussian", "squashed")) != (schemas.action.kind == "box"):
        raise GraftError(f"The file's agent ({policy.kind}) cannot play the {schemas.action.kind} actions of the task.")
    if policy.value and policy.value[-1].outputs != 1:
        raise GraftError(f"The file's value has {policy.value[-1].outputs} outputs; 1 is needed.")
    parts = parts_of(schemas.observation)
    if set(policy.extractors) != set(parts):
        raise GraftError(
            f"The file's policy reads {_listed(list(policy.extractors)) or 'one observation'}, the task shows "
            f"{_listed(list(parts)) or 'one observation'}."
        )
    for name, layers in policy.extractors.items():
        if name in policy.statistics and (parts[name].kind == "pixels" or any(layer.convolves for layer in layers)):
            raise GraftError("Statistics of pictures are not read; pixels are divided by 255.")
    width = sum(_features(parts[name], layers) for name, layers in policy.extractors.items())
    for tower in (policy.policy, policy.value):
        for layer in (*policy.trunk, *tower)[:1]:
            if layer.convolves or layer.weight.shape[1] != width:
                raise GraftError(
                    f"Tensor {layer.names[0]!r} of the file reads {layer.weight.shape[1]} numbers, the task's "
                    f"observations give {width} ({_listed(schemas.observation.plain.names[:8])} ...)."
                )
    for chain in ((*policy.trunk, *policy.policy), (*policy.trunk, *policy.value)):
        for before, after in itertools.pairwise(chain):
            if after.weight.dim() != 2 or after.weight.shape[1] != before.outputs:
                raise GraftError(f"Tensor {after.names[0]!r} of the file does not follow {before.names[0]!r}.")
    hidden = policy.policy[-1].weight.shape[1]
    if policy.spread is not None and tuple(policy.spread.weight.shape) != (count, hidden):
        raise GraftError(
            f"Tensor {policy.spread.names[0]!r} of deviations has the shape {tuple(policy.spread.weight.shape)}; "
            f"({count}, {hidden}) is needed."
        )
    if policy.spread is not None and policy.kind != "squashed":
        raise GraftError(f"Only squashed actions have deviations that depend on the state (spread), not {policy.kind}.")
    if policy.log_std is not None:
        name, log_std = policy.log_std
        if policy.kind != "gaussian":
            raise GraftError(f"Tensor {name!r} has deviations, which {policy.kind} actions do not have here.")
        if log_std.numel() != count or not log_std.isfinite().all():
            raise GraftError(f"Tensor {name!r} needs {count} finite deviations; it has {log_std.numel()} numbers.")
    if not (math.isfinite(policy.pixels) and policy.pixels > 0):
        raise GraftError(f"Pixels are divided by {policy.pixels:g}; a number above 0 is needed.")


def _check_size(policy: ForeignPolicy, schemas: Schemas) -> None:
    """Raise GraftError where the network would have more than `LARGEST` weights, before any is made.

    Two towers side by side have all pairs of their widths, and a tower that is deepened repeats its last width.
    """
    own = sum(layer.weight.numel() for layer in policy.layers())
    depth = max(len(policy.policy), len(policy.value))
    sides = [_hidden(tower, depth) for tower in (policy.policy, policy.value) if tower]
    widths = [sum(level) for level in zip(*sides, strict=True)]
    made = sum(before * after for before, after in itertools.pairwise(widths))
    parts = parts_of(schemas.observation)
    if WHOLE not in parts:
        bare = [math.prod(parts[name].shape) for name, layers in policy.extractors.items() if not layers]
        made += sum(2 * count * (count + widths[0]) for count in bare)
    if own + made > LARGEST:
        raise GraftError(
            f"The file's network would have {own + made:,} weights here, with zeros between policy and value; at most "
            f"{LARGEST:,} are read."
        )


def _hidden(tower: Sequence[Layer], depth: int) -> list[int]:
    """Numbers that each layer reads, and the output; of ``depth`` layers, as `_deepened` makes them."""
    first, widths = tower[0].weight.shape[1], [layer.weight.shape[1] for layer in tower]
    if len(tower) == 1:
        widths += [2 * first]
    return [*widths, *[widths[-1]] * max(depth - len(widths), 0), tower[-1].outputs]


def _features(part: ObservationSchema, layers: Sequence[Layer]) -> int:
    """Numbers that an extractor gives of a part."""
    return layers[-1].outputs if layers else math.prod(part.shape)


def _with_matching_value(policy: ForeignPolicy, notes: _Notes) -> ForeignPolicy:
    """With a value of as many hidden layers as the policy, or without one."""
    mine, value = policy.policy, policy.value
    if not value:
        notes.made["value"] = "the file has no value of a state; fresh"
        return policy
    kinds = {layer.activation for layer in (*mine[:-1], *value[:-1])}
    if len(kinds) > 1:
        why = "the value has another activation than the policy"
    elif len(mine) != len(value) and kinds != {"relu"}:
        why = f"the value has {len(value) - 1} hidden layers, the policy {len(mine) - 1}"
    else:
        return replace(policy, policy=_deepened(mine, len(value)), value=_deepened(value, len(mine)))
    notes.leave(value, f"{why}, and both must have the same here")
    notes.made["value"] = "fresh, see what was not used"
    return replace(policy, value=())


def _deepened(tower: tuple[Layer, ...], depth: int) -> tuple[Layer, ...]:
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


def _pairs(towers: _Towers) -> list[tuple[Layer, Layer]]:
    """Hidden layers of both heads; the policy's twice where there is no value."""
    return list(zip(towers.policy[:-1], (towers.value or towers.policy)[:-1], strict=True))


def _encoder(policy: ForeignPolicy, schemas: Schemas, notes: _Notes) -> tuple[_Encoder, _Towers, Activation | None]:
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
        policy_tower = _deepened(policy_tower, 2)
        value_tower = _deepened(value_tower, 2) if value_tower else ()
    first = policy_tower[0].activation
    own = _run_of(policy_tower[:-1], first)
    sides = [[layer] for layer in own]
    if value_tower:
        sides = [list(pair) for pair in zip(own, value_tower[: len(own)], strict=True)]
    encoder = _mlp(sides, part, policy)
    towers = _Towers(policy_tower[len(own) :], value_tower[len(own) :], (0, own[-1].outputs if value_tower else 0))
    return encoder, towers, first


def _after(rest: tuple[Layer, ...], policy: ForeignPolicy) -> _Towers:
    """Of the trunk's layers that no encoder holds: each head has its own of these."""
    return _Towers((*rest, *policy.policy), (*rest, *policy.value) if policy.value else (), (0, 0))


def _run_of(layers: Sequence[Layer], activation: Activation | None) -> tuple[Layer, ...]:
    """The first layers, as far as they have this activation; none of those without one."""
    return tuple(itertools.takewhile(lambda layer: activation is not None and layer.activation == activation, layers))


def _side_by_side(layers: Sequence[Layer], place: str, first: bool) -> tuple[Tensor, Tensor, list[Row]]:
    """Weight and bias of layers next to each other, which read the same (``first``) or each its own."""
    weights = [layer.weight for layer in layers]
    weight = torch.cat(weights) if first else torch.block_diag(*weights)
    rows, top, left = [], 0, 0
    for layer in layers:
        down, right = top + layer.outputs, left + layer.weight.shape[1]
        at = "" if len(layers) == 1 else f"{top}:{down}", ":" if first else f"{left}:{right}"
        rows += _rows(layer, place, *at)
        top, left = down, right
    return weight, torch.cat([layer.bias for layer in layers]), rows


def _rows(layer: Layer, place: str, rows: str = "", columns: str = ":") -> list[Row]:
    """Where weight and bias went: whole, or into these ``rows`` and ``columns``."""
    at = (f"[{rows}, {columns}]", f"[{rows}]") if rows else ("", "")
    places = ((layer.names[0], layer.weight, f"weight{at[0]}"), (layer.names[1], layer.bias, f"bias{at[1]}"))
    return [Row(name, tuple(tensor.shape), f"{place}.{to}") for name, tensor, to in places if name]


def _mlp(
    sides: Sequence[Sequence[Layer]], part: ObservationSchema, policy: ForeignPolicy, name: str = WHOLE
) -> _Encoder:
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
    return _Encoder("mlp", options, tensors, rows)


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


def _convolutions(layers: Sequence[Layer], part: ObservationSchema, policy: ForeignPolicy) -> _Encoder:
    """`nature_cnn` where the layers are its, else `grid_cnn`."""
    *convolutions, last = layers
    if last.convolves or any(not layer.convolves for layer in convolutions) or len(part.shape) != 3:
        raise GraftError("Convolutions must read a picture or a board, and one linear layer must follow them.")
    if len(kinds := {layer.activation for layer in layers}) > 1 or None in kinds:
        raise GraftError(f"The convolutions and their linear layer have several activations ({_listed(list(kinds))}).")
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
        rows += _rows(layer, place)
    return _Encoder("nature_cnn" if nature else "grid_cnn", options, tensors, rows)


def _branches(
    policy: ForeignPolicy, parts: Mapping[str, ObservationSchema]
) -> tuple[_Encoder, _Towers, Activation | None]:
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
        part, width = parts[name], _features(parts[name], layers)
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
    encoder = _Encoder("branches", options, tensors, rows)
    if trunk:
        return encoder, _after(trunk[1:], policy), activation
    reads = (0, policy.policy[0].outputs if policy.value else 0)
    return encoder, _Towers(policy.policy[1:], policy.value[1:], reads), activation


def _as_it_is(part: ObservationSchema, policy: ForeignPolicy, name: str) -> _Encoder:
    """A part without a network: what of it is above zero and what below, as ReLU gives both."""
    count = math.prod(part.shape)
    if count > WIDEST:
        raise GraftError(f"Part {name!r} has {count} numbers and no network of its own; at most {WIDEST} are read.")
    same = Layer(torch.eye(count), torch.zeros(count), ("", None))
    both = _deepened((same,), 2)[0]
    return _mlp([[both]], part, policy, name)


def _heads(
    policy: ForeignPolicy,
    towers: _Towers,
    schemas: Schemas,
    state: dict[str, Tensor],
    rows: list[Row],
    notes: _Notes,
) -> None:
    """Fill both heads."""
    for head, layers, begins in (("policy", towers.policy, towers.reads[0]), ("value", towers.value, towers.reads[1])):
        if not layers:
            continue
        for index, layer in enumerate(layers):
            place = f"{head}.out" if index == len(layers) - 1 else f"{head}.hidden.{2 * index}"
            weight, bias = torch.zeros_like(state[f"{place}.weight"]), torch.zeros_like(state[f"{place}.bias"])
            left = begins if index == 0 else 0
            weight[: layer.outputs, left : left + layer.weight.shape[1]] = layer.weight
            bias[: layer.outputs] = layer.bias
            state |= {f"{place}.weight": weight, f"{place}.bias": bias}
            whole = weight.shape == layer.weight.shape
            at = "" if whole else f":{layer.outputs}", f"{left}:{left + layer.weight.shape[1]}"
            rows += _rows(layer, place, *at)
    if policy.spread is not None:
        weight = torch.zeros_like(state["policy.spread.weight"])
        weight[:, : policy.spread.weight.shape[1]] = policy.spread.weight
        state |= {"policy.spread.weight": weight, "policy.spread.bias": policy.spread.bias}
        rows += _rows(policy.spread, "policy.spread")
    elif "policy.spread.weight" in state:
        state["policy.spread.weight"].zero_()
        state["policy.spread.bias"].fill_(SPREAD)
        notes.made["policy.spread"] = f"the file has no deviations; exp({SPREAD:g}) was taken"
    if policy.log_std is not None:
        name, tensor = policy.log_std
        state["policy.log_std"] = tensor
        rows.append(Row(name, tuple(tensor.shape), "policy.log_std"))
    elif "policy.log_std" in state:
        notes.made["policy.log_std"] = "the file has no deviations that do not depend on the state; zeros"
    if policy.kind == "gaussian" and policy.units == "environment":
        units = from_units(schemas.action).inverse()
        for name in ("policy.out.weight", "policy.out.bias", "policy.log_std"):
            state[name] = units.of_rows(name, state[name])
