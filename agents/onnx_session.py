"""onnx and onnxruntime, which are optional, and models in onnxruntime on one thread."""

from __future__ import annotations

from typing import Any

from graft.errors import GraftError, printable


def packages() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime; raises GraftError where they are not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise GraftError(
            f"ONNX files need the packages onnx and onnxruntime ({error}): `pip install 'graft-rl[export]'`."
        ) from error
    return onnx, onnxruntime


def session(data: bytes, what: str, as_it_is: bool = False) -> Any:
    """A session of onnxruntime; raises GraftError for what is no model.

    Args:
        as_it_is: without merging nodes, and without memory that is kept for the next run.
    """
    _, onnxruntime = packages()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if as_it_is:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own types, which derive from Exception alone
        raise GraftError(f"{what} cannot be read by onnxruntime ({printable(str(error), 200)}).") from error
