"""Networks of earlier checkpoints, whose encoders had other default options than today's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.envs.core.schema import ObservationSchema

KEY, DEFAULTS = "encoder_defaults", 2
"""Entry of manifests, and its value for the defaults of today."""

GRID_CNN = {"channels": [32, 32], "strides": [1, 2]}
"""Defaults of `grid_cnn` in checkpoints without the entry, as far as they were others."""


def with_old_defaults(network: Mapping[str, Any], observation: dict[str, Any]) -> dict[str, Any]:
    """``network`` of a manifest without `KEY`, with the options that were its encoder's defaults."""
    schema = ObservationSchema.from_json(observation).plain
    if schema.kind == "parts" and network["encoder"] in (None, "branches"):
        chosen = {name: _filled(chosen, part) for name, part, chosen in _branches(network, schema)}
        return {**network, "options": {**network["options"], **({"encoders": chosen} if chosen else {})}}
    return {**network, **_filled(network, schema)}


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
