"""ONNX models: written from a module, read back, and run by onnxruntime."""

from __future__ import annotations

import io
import statistics
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from graft.agents.export.parity import Run
from graft.agents.export.ports import Arrays, Interface
from graft.agents.onnx_session import packages, session
from graft.agents.parity import Array
from graft.errors import GraftError

OPSET = 15
"""The newest that Unity's engine reads in all its versions; onnxruntime reads it too."""

WARM, TIMED = 20, 200  # runs of `latency`


def to_onnx(interface: Interface) -> bytes:
    """The model of an interface, with a batch axis of any length and its constants.

    It is traced by torch's TorchScript exporter: the newer one has no operators below opset 18.
    What the tracer warns of, such as sizes that it takes for constants, `check` finds.

    Raises:
        GraftError: a network that cannot be traced, or has an operator that ONNX lacks at this opset.
    """
    onnx, _ = packages()
    inputs = tuple(torch.zeros(2, *port.shape, dtype=getattr(torch, port.dtype)) for port in interface.inputs)
    try:
        model = onnx.load_model_from_string(_traced(interface, inputs))
        _tidy(onnx, model, interface)
        onnx.checker.check_model(model, full_check=True)
    except GraftError:
        raise
    except Exception as error:  # torch's, onnx's, and those of an encoder of one's own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise GraftError(f"This agent cannot be written as ONNX, opset {OPSET} ({reason}).") from error
    data: bytes = model.SerializeToString()
    return data


def _traced(interface: Interface, inputs: tuple[torch.Tensor, ...]) -> bytes:
    buffer, ports = io.BytesIO(), (*interface.inputs, *interface.outputs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.onnx.export(
            interface.module.eval(),
            inputs,
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=[port.name for port in interface.inputs],
            output_names=[port.name for port in interface.outputs],
            dynamic_axes={port.name: {0: "batch"} for port in ports},
        )
    return buffer.getvalue()


def _tidy(onnx: Any, model: Any, interface: Interface) -> None:
    """Names every input and the sizes of all outputs, and adds the constants as nodes called as their outputs are.

    The tracer drops inputs that nothing reads, and of parameters that are outputs it makes copies by other names.
    """
    graph, kinds = model.graph, {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
    kinds["uint8"] = onnx.TensorProto.UINT8
    info = onnx.helper.make_tensor_value_info
    for part, ports in ((graph.input, interface.inputs), (graph.output, interface.outputs)):
        del part[:]
        part.extend(info(port.name, kinds[port.dtype], ["batch", *port.shape]) for port in ports)
    for name, value in interface.constants.items():
        tensor = onnx.numpy_helper.from_array(value, name)
        graph.node.append(onnx.helper.make_node("Constant", [], [name], name=name, value=tensor))
        graph.output.append(info(name, kinds[str(value.dtype)], value.shape))
    del graph.value_info[:]


def runner(data: bytes, what: str = "The model") -> Run:
    """A model in onnxruntime on one thread; raises GraftError where it is no model."""
    made = session(data, what)
    known = {given.name for given in made.get_inputs()}
    names = [given.name for given in made.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> Arrays:
        found = made.run(names, {name: value for name, value in inputs.items() if name in known})
        return dict(zip(names, found, strict=True))

    return run


def described(data: bytes) -> dict[str, Any]:
    """Opset and version of the file format; inputs, outputs (name -> [type, *sizes]), constants among the outputs."""
    onnx, _ = packages()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise GraftError(f"The model is no ONNX file, or a part of one ({type(error).__name__}).") from error

    def of(values: Any) -> dict[str, list[Any]]:
        found = {}
        for value in values:
            tensor = value.type.tensor_type
            dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
            found[value.name] = [dtype, *(d.dim_param or d.dim_value for d in tensor.shape.dim)]
        return found

    shown = {value.name for value in model.graph.output}
    constants = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t).tolist()
        for node in model.graph.node
        if node.op_type == "Constant" and node.output[0] in shown
    }
    opset = next((o.version for o in model.opset_import if not o.domain), None)
    return {
        "opset": opset,
        "ir_version": model.ir_version,
        "inputs": of(model.graph.input),
        "outputs": of(model.graph.output),
        "constants": constants,
    }


def latency(run: Run, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Median microseconds of a call."""
    for _ in range(WARM):
        run(inputs)
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        run(inputs)
        times.append(time.perf_counter() - start)
    return {"batch": 1, "median_us": round(1e6 * statistics.median(times), 1), "runs": TIMED, "threads": 1}
