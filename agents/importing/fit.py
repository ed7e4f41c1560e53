"""Whether the layers of a file fit the task and each other, before a network is made of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from graft.agents.importing.foreign import WHOLE, ForeignPolicy, Layer, parts_of
from graft.envs.core.schema import ObservationSchema, Schemas
from graft.errors import GraftError

LARGEST = 1 << 25
"""Weights of a network that is made, with the zeros between towers side by side."""


def check_fit(policy: ForeignPolicy, schemas: Schemas) -> None:
    """Raise GraftError for layers that do not fit the schemas or each other, or that would need too much memory."""
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
            f"The file's policy reads {listed(list(policy.extractors)) or 'one observation'}, the task shows "
            f"{listed(list(parts)) or 'one observation'}."
        )
    for name, layers in policy.extractors.items():
        if name in policy.statistics and (parts[name].kind == "pixels" or any(layer.convolves for layer in layers)):
            raise GraftError("Statistics of pictures are not read; pixels are divided by 255.")
    width = sum(features(parts[name], layers) for name, layers in policy.extractors.items())
    for tower in (policy.policy, policy.value):
        for layer in (*policy.trunk, *tower)[:1]:
            if layer.convolves or layer.weight.shape[1] != width:
                raise GraftError(
                    f"Tensor {layer.names[0]!r} of the file reads {layer.weight.shape[1]} numbers, the task's "
                    f"observations give {width} ({listed(schemas.observation.plain.names[:8])} ...)."
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
    _check_size(policy, schemas)


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


def features(part: ObservationSchema, layers: Sequence[Layer]) -> int:
    """Numbers that an extractor gives of a part."""
    return layers[-1].outputs if layers else math.prod(part.shape)


def listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, dict.fromkeys(values)))
