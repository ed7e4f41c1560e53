"""Runs the part of an ONNX file that a policy needs, by onnxruntime: what the original gives, whatever was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graft.agents.importing.foreign import ForeignPolicy, Statistics, columns, parts_of, played
from graft.agents.importing.onnx_chain import MASK, Chain
from graft.agents.importing.onnx_file import OnnxFile
from graft.envs.core.schema import Schemas
from graft.errors import GraftError, printable

AT_ONCE = 1 << 24
"""Numbers of the largest value between two nodes, over all observations of one run."""


@dataclass(frozen=True)
class OnnxRun:
    """The original of a `ForeignPolicy`: the file's own graph, as far as its actions depend on it.

    Attributes:
        inputs: input of the graph -> part of the observation. chain: from them to the policy's output.
        bounded: whether a tanh in the graph has brought box actions to -1 to 1.
        statistics: that the graph itself has; others of the policy are applied before it.
    """

    file: OnnxFile
    schemas: Schemas
    inputs: Mapping[str, str]
    chain: Chain
    bounded: bool
    statistics: Mapping[str, Statistics]

    def __call__(self, policy: ForeignPolicy, obs: Tensor, forbidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Actions as the environment takes them, and outputs (N, A), for raw observations (N, *shape)."""
        given = self._given(policy, obs, forbidden)
        fixed = {name: self._shape(name, values) for name, values in given.items()}
        count = 1 if any(batch == 1 for batch, _ in fixed.values()) else max(1, AT_ONCE // self.chain.largest)
        scores = self.chain.scores if self.chain.chosen else None  # by which an action's number was chosen
        names = [self.chain.output] if scores is None else [self.chain.output, scores]
        session = self.file.session(list(given), names)
        pieces: list[list[Any]] = []
        for begin in range(0, len(obs), count):
            feed = {n: v[begin : begin + count].reshape(-1, *fixed[n][1]) for n, v in given.items()}
            try:
                pieces.append(session.run(names, feed))
            except Exception as error:  # of onnxruntime
                raise GraftError(f"onnxruntime cannot run {self.file.what} ({printable(str(error))}).") from error
        first, outputs = (torch.from_numpy(np.concatenate([piece[i] for piece in pieces])) for i in (0, -1))
        if scores is not None:
            return first.reshape(len(obs)).long(), outputs.reshape(len(obs), -1).double()
        outputs = outputs.reshape(len(obs), -1).double()
        known = replace(policy, kind="gaussian", units="scaled") if self.bounded else policy
        return played(known, outputs, self.schemas.action, forbidden), outputs

    def _given(self, policy: ForeignPolicy, obs: Tensor, forbidden: Tensor | None) -> dict[str, Any]:
        """Input -> numbers (N, D)."""
        seen, parts = columns(self.schemas.observation, obs), parts_of(self.schemas.observation)
        given = {}
        for name, part in self.inputs.items():
            x, known = seen[part], policy.statistics.get(part)
            if known is not None and known is not self.statistics.get(part):
                x = known.apply(x)
            kind = self.file.inputs[name].type.tensor_type.elem_type
            if kind != FLOAT and parts[part].kind != "pixels":
                raise GraftError(f"{self.file.what}: input {name!r} takes uint8, which only pictures are.")
            given[name] = x.numpy().astype(np.float32 if kind == FLOAT else np.uint8)
        if self.chain.mask:
            count = len(self.schemas.action.names)
            allowed = torch.ones(len(obs), count) if forbidden is None else (~forbidden).float()
            given[MASK] = allowed.cpu().numpy().astype(np.float32)
        return given

    def _shape(self, name: str, values: Any) -> tuple[int | None, tuple[int, ...]]:
        """How many observations the input takes at once, None for any number, and the shape of one."""
        part = self.inputs.get(name)
        own = (values.shape[1],) if part is None else parts_of(self.schemas.observation)[part].shape
        return declared(self.file, name, own)


FLOAT = 1  # onnx.TensorProto.FLOAT


def declared(file: OnnxFile, name: str, own: Sequence[int]) -> tuple[int | None, tuple[int, ...]]:
    """Observations at once, None for any number, and shape of one, as the file says of an input; ``own`` is the task's.

    Raises GraftError where the two are of another size.
    """
    kind = file.inputs[name].type.tensor_type
    if not kind.HasField("shape"):
        return None, tuple(own)
    sizes = [d.dim_value if d.WhichOneof("value") == "dim_value" else None for d in kind.shape.dim]
    shape = tuple(
        own[i] if size is None and len(sizes) - 1 == len(own) else size or 0 for i, size in enumerate(sizes[1:])
    )
    count = int(np.prod(own))
    if len(shape) == 1 and sizes[1] is None:
        shape = (count,)
    if not sizes or len(shape) > 4 or (shape != tuple(own) and shape != (count,)):
        raise GraftError(
            f"{file.what}: input {name!r} is of shape {tuple(sizes)[:6]}, the task's observations have {tuple(own)}."
        )
    if sizes[0] not in (None, 1):
        raise GraftError(f"{file.what} reads {sizes[0]} observations at once; any number, or 1, is read.")
    return sizes[0], shape
