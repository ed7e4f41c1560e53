"""Layers of another library -> a network of Graft that plays the same, and where each tensor went.

Where policy and value have towers of their own over the same input, their layers become one: side by side, with zeros
between them. So both are exact, and the whole tower is the encoder, which a transfer carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from graft.agents.importing.encoders import Row, Towers, deepened, encoder_of, rows_of
from graft.agents.importing.fit import check_fit, listed
from graft.agents.importing.foreign import ForeignPolicy, Layer
from graft.agents.networks.box_units import from_units
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, can_play
from graft.envs.core.schema import Schemas
from graft.errors import GraftError

SPREAD = -2.0
"""log standard deviation of squashed actions where the file has none: TD3 explores by noise of its training."""


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
    check_fit(policy, schemas)
    notes = _Notes(dict(policy.unused), dict(policy.made))
    policy = _with_matching_value(policy, notes)
    encoder, towers, inner = encoder_of(policy, schemas)
    others = (towers.value or towers.policy)[:-1]
    head = tuple(max(p.outputs, v.outputs) for p, v in zip(towers.policy[:-1], others, strict=True))
    hidden = [layer.activation for layer in (*towers.policy[:-1], *towers.value[:-1])]
    if len(set(hidden)) > 1:
        raise GraftError(f"The hidden layers of the file have several activations in a row ({listed(hidden)}).")
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
        return replace(policy, policy=deepened(mine, len(value)), value=deepened(value, len(mine)))
    notes.leave(value, f"{why}, and both must have the same here")
    notes.made["value"] = "fresh, see what was not used"
    return replace(policy, value=())


def _heads(
    policy: ForeignPolicy,
    towers: Towers,
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
            rows += rows_of(layer, place, *at)
    if policy.spread is not None:
        weight = torch.zeros_like(state["policy.spread.weight"])
        weight[:, : policy.spread.weight.shape[1]] = policy.spread.weight
        state |= {"policy.spread.weight": weight, "policy.spread.bias": policy.spread.bias}
        rows += rows_of(policy.spread, "policy.spread")
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
