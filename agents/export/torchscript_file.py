"""TorchScript: traced from a module, and run again."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from graft.agents.export.parity import Run
from graft.agents.export.ports import Arrays, Interface
from graft.errors import GraftError

Array = NDArray[Any]


def to_torchscript(interface: Interface) -> bytes:
    """The traced module of an interface; what the tracer warns of, `check` finds. Raises GraftError."""
    inputs = tuple(torch.zeros(2, *port.shape, dtype=getattr(torch, port.dtype)) for port in interface.inputs)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # which TorchScript as a whole is
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        try:
            traced = torch.jit.trace(interface.module.eval(), inputs, check_trace=False)  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # of an encoder of one's own
            raise GraftError(f"This agent cannot be traced ({str(error).strip().splitlines()[0]}).") from error
        torch.jit.save(traced, buffer)
    return buffer.getvalue()


def runner(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> Run:
    """A saved module, called with its inputs in order; raises GraftError where it is none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise GraftError(f"The model is no TorchScript file ({str(error).splitlines()[0]}).") from error

    def run(given: Mapping[str, Array]) -> Arrays:
        with torch.no_grad():
            found = module(*(torch.from_numpy(given[name]) for name in inputs))
        found = found if isinstance(found, tuple) else (found,)
        return {name: tensor.numpy() for name, tensor in zip(outputs, found, strict=True)}

    return run
