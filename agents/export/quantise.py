"""Weights of an ONNX model as bytes, and how much of the agent is left: equal actions, and the score."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np

from graft.agents.export.parity import Run
from graft.agents.export.ports import Interface
from graft.agents.export.recording import Recording
from graft.agents.onnx_session import packages
from graft.agents.parity import CHUNK, Array
from graft.agents.training.evaluate import play_episodes
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.task import Task
from graft.envs.factory import make

LARGEST = 127  # of a byte with a sign, the same to both sides
LAYERS = ("Gemm", "Conv", "MatMul")


def int8_weights(data: bytes) -> bytes:
    """The model with the weights of its layers in int8, a scale for each output of a layer.

    What is computed stays float32, so that actions do not depend on the rest of the batch, as they would if inputs of
    layers were rounded together.
    """
    onnx, _ = packages()
    model = onnx.load_model_from_string(data)
    graph, nodes = model.graph, []
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for layer in graph.node:
        tensor = weights.pop(layer.input[1], None) if layer.op_type in LAYERS else None
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        transposed = any(a.name == "transB" and a.i for a in layer.attribute)
        axis = 0 if layer.op_type == "Conv" or transposed else 1
        values, scale = _rounded(onnx.numpy_helper.to_array(tensor), axis)
        names = [f"{tensor.name}.int8", f"{tensor.name}.scale", f"{tensor.name}.zero"]
        parts = (values, scale, np.zeros(len(scale), np.int8))
        graph.initializer.extend(onnx.numpy_helper.from_array(p, n) for p, n in zip(parts, names, strict=True))
        nodes.append(onnx.helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
        graph.initializer.remove(tensor)
    together = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(together)
    onnx.checker.check_model(model, full_check=True)
    found: bytes = model.SerializeToString()
    return found


def _rounded(weight: Array, axis: int) -> tuple[Array, Array]:
    """Bytes and the scales along ``axis`` with which they are about ``weight``."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(others)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    return np.round(weight / scale.reshape(shape)).astype(np.int8), scale


def compared_play(
    interface: Interface,
    run: Run,
    recording: Recording,
    schema: ObservationSchema,
    task: Task,
    episodes: int,
    seed: int,
) -> dict[str, Any]:
    """What a model keeps of the agent: the share of states with the same action (of box actions, the mean difference),
    and the mean return of greedy play.

    Raises GraftError where the task cannot be made.
    """

    def choose(obs: Array) -> Array:
        return interface.decode(run(interface.feed(obs)))

    chunks = range(0, len(recording.observations), CHUNK)
    actions = np.concatenate([choose(recording.observations[i : i + CHUNK]) for i in chunks])
    if np.issubdtype(actions.dtype, np.floating):
        same = {"mean_difference": float(np.abs(actions - recording.actions).mean())}
    else:
        equal = (actions == recording.actions).reshape(len(actions), -1).all(1)
        same = {"agreement": float(equal.mean())}
    with closing(make(task, min(8, episodes), seed, observation=schema)) as env:
        returns = play_episodes(choose, env, episodes, seed=seed).returns  # more, where a batch plays more
    return {**same, "return_mean": float(returns.mean()), "episodes": len(returns)}
