"""Checkpoints of earlier versions, whose policies played boxes in the environment's numbers, in the units of today."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from graft.agents.networks.box_units import Affine, from_units
from graft.envs.core.schema import ActionSchema

ROWS = ("policy.out.weight", "policy.out.bias", "policy.log_std")
LATERAL = "laterals.policy_out.out.weight"
EARLIER = "earlier."
MEMORY = ("action", "taken", "log_std")

_STORED = re.compile(
    r"^(?P<prefix>(?:\d+/)?(?:(?P<kind>anchor|theta|start|omega|total|heads|memory)\.)?\d+\.)(?P<name>[a-z].+)$"
)
"""A tensor of a method's state, perhaps of a method in a chain, or of the heads of a task."""

Groups = Mapping[str, Mapping[str, Tensor]]


def scaled(manifest: Mapping[str, Any], groups: Groups, weights: str) -> dict[str, Mapping[str, Tensor]]:
    """Tensors by file, converted so that the policy's actions are what they were; its distribution is the same.

    Converted are the network, and of a method's state the anchors, importances, memories and heads of tasks, whose
    bounds count as this task's.

    Args:
        weights: name of the file with the network's tensors.
    """
    converted: dict[str, Mapping[str, Tensor]] = {
        weights: _network(manifest["network"], manifest["action"], groups[weights])
    }
    units = _units(manifest["network"], manifest["action"])
    for name, tensors in groups.items():
        if name != weights:
            converted[name] = _stored(tensors, units) if units else tensors
    return converted


def _units(network: Mapping[str, Any], action: dict[str, Any]) -> Affine | None:
    """From the numbers of the environment to the policy's; None where these are the same."""
    schema = ActionSchema.from_json(action)
    if schema.kind != "box" or network.get("distribution") is not None:
        return None
    units = from_units(schema).inverse()
    return None if units.identity else units


def _network(network: Mapping[str, Any], action: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors, those of its earlier columns by their own actions."""
    converted, units = dict(tensors), _units(network, action)
    if units is not None:
        converted |= {name: units.of_rows(name, tensors[name]) for name in ROWS if name in tensors}
        if LATERAL in tensors:
            converted[LATERAL] = units.of_weights(tensors[LATERAL])
    earlier = network.get("parts", {}).get("earlier")
    if earlier is not None:
        own = {name.removeprefix(EARLIER): t for name, t in tensors.items() if name.startswith(EARLIER)}
        moved = _network(earlier["network"], earlier["action"], own)
        converted |= {f"{EARLIER}{name}": tensor for name, tensor in moved.items()}
    return converted


def _stored(tensors: Mapping[str, Tensor], units: Affine) -> dict[str, Tensor]:
    """The state of a method, or heads of tasks: what belongs to a box of as many actions."""
    converted = dict(tensors)
    for key, tensor in tensors.items():
        found = _STORED.match(key)
        if found is None:
            continue
        prefix, kind, name = found["prefix"], found["kind"], found["name"]
        spread = tensors.get(f"{prefix}{'log_std' if kind == 'memory' else 'policy.log_std'}")
        if spread is None or spread.shape[-1] != len(units.gain):
            continue
        if kind == "memory" and name in MEMORY:
            converted[key] = units.of_log_std(tensor) if name == "log_std" else units.of(tensor)
        elif name in ROWS and kind in ("omega", "total"):
            converted[key] = units.of_importances(name, tensor)
        elif name in ROWS:
            converted[key] = units.of_rows(name, tensor)
    return converted
