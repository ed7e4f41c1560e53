"""Networks of earlier checkpoints, whose encoders had other default options than today's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.envs.core.schema import ObservationSchema

GRID_CNN = {"channels": [32, 32], "strides": [1, 2]}
"""Defaults of `grid_cnn` in manifests without the entry `DEFAULTS`, as far as they were others."""


def with_old_defaults(network: Mapping[str, Any], observation: dict[str, Any]) -> dict[str, Any]:
    """``network`` of a manifest without `DEFAULTS`, and its earlier columns, with what was their encoders' defaults."""
    schema = ObservationSchema.from_json(observation).plain
    if schema.kind == "parts" and network["encoder"] in (None, "branches"):
        chosen = {name: _filled(chosen, part) for name, part, chosen in _branches(network, schema)}
        filled = {**network, "options": {**network["options"], **({"encoders": chosen} if chosen else {})}}
    else:
        filled = _filled(network, schema)
    if earlier := network.get("parts", {}).get("earlier"):
        column = with_old_defaults(earlier["network"], earlier["observation"])
        filled["parts"] = {**network["parts"], "earlier": {**earlier, "network": column}}
    return filled


def _branches(network: Mapping[str, Any], schema: ObservationSchema) -> list[tuple[str, ObservationSchema, Any]]:
    """Name, observation and choices of each part; those of parts that the task does not have are left out."""
    given = network["options"].get("encoders") or {}
    return [(name, part, given.get(name, {})) for name, part in schema.parts]


def _filled(chosen: Mapping[str, Any], schema: ObservationSchema) -> dict[str, Any]:
    """Encoder and options of one observation, as far as they are given or must be."""
    encoder = chosen.get("encoder")
    if encoder == "grid_cnn" or (encoder is None and schema.kind == "planes"):
        return {**chosen, "options": {**GRID_CNN, **chosen.get("options", {})}}
    return dict(chosen)
