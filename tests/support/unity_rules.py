"""The checks of Unity's ML-Agents when it loads a model (2.x and 3.x), by name and shape, on an ONNX file.

Of its package com.unity.ml-agents: the tensors that a model must have, its version, inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

NEWEST = 3
DISCRETE, CONTINUOUS = "discrete_action_output_shape", "continuous_action_output_shape"
OPSETS = range(7, 16)  # that every version of the engine reads


def constants(model: Any) -> dict[str, Any]:
    """Initialisers and outputs of Constant nodes, by name: what the engine finds as constants."""
    found = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return found


def failed_checks(
    data: bytes,
    sensors: Sequence[tuple[int, ...]],
    branches: Sequence[int],
    continuous: int,
    deterministic: bool = False,
) -> list[str]:
    """What the engine would complain about: nothing for a model that fits.

    Args:
        sensors: shapes of an agent's sensors, pictures as (C, H, W).
        branches, continuous: sizes of its action spec.
        deterministic: whether it plays the greedy outputs.
    """
    model = onnx.load_model_from_string(data)
    inputs = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    kinds = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    outputs, known = {o.name for o in model.graph.output}, constants(model)
    failed = [f"opset {o.version}" for o in model.opset_import if o.domain or o.version not in OPSETS]
    for name in ("version_number", "memory_size"):
        if name not in known or known[name].dtype != np.float32:
            return [*failed, f"required constant {name}"]
    version, memory = int(known["version_number"].flat[0]), int(known["memory_size"].flat[0])
    if version != NEWEST:
        failed.append(f"version {version}")
    prefix = "deterministic_" if deterministic else ""
    has_discrete = f"{prefix}discrete_actions" in outputs and known.get(DISCRETE, np.zeros(1)).sum() > 0
    has_continuous = f"{prefix}continuous_actions" in outputs and known.get(CONTINUOUS, np.zeros(1)).flat[0] > 0
    if not has_discrete and not has_continuous:
        failed.append("no action output")
    allowed = {"action_masks", "recurrent_in", *(f"obs_{i}" for i in range(len(sensors)))}
    failed += [f"unexpected input {name}" for name in inputs.keys() - allowed]
    failed += [f"input {name} is no float" for name, kind in kinds.items() if kind != onnx.TensorProto.FLOAT]
    for number, shape in enumerate(sensors):
        if inputs.get(f"obs_{number}", [0])[1:] != list(shape):
            failed.append(f"obs_{number} is {inputs.get(f'obs_{number}')}, the sensor shows {shape}")
    if memory > 0 and not {"recurrent_in", "recurrent_out"} <= inputs.keys() | outputs:
        failed.append("memory without recurrent_in and recurrent_out")
    if has_discrete and inputs.get("action_masks", [0, 0])[1:] != [sum(branches)]:
        failed.append("no action_masks")
    sizes = [int(n) for n in known.get(DISCRETE, np.zeros(0)).ravel()]
    if sizes != list(branches):
        failed.append(f"branches {sizes}, the agent has {list(branches)}")
    count = int(known[CONTINUOUS].flat[0]) if CONTINUOUS in known else 0
    if count != continuous:
        failed.append(f"{count} continuous actions, the agent has {continuous}")
    return failed
