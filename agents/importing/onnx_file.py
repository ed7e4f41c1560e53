"""An ONNX file after checks: its nodes in order, what each value depends on, and the numbers it stores."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.agents.importing.files import read_bytes
from graft.errors import GraftError

LARGEST = 80 << 20  # bytes of a file
MOST_NODES = 2_000
MOST_ENDS = 64  # inputs or outputs, of the graph and of a node
MOST_TENSORS = 4_000
MOST_NUMBERS = 1 << 24  # in all tensors that the file stores, and again in all that are computed from them
LONGEST_NAME = 200
OPSETS = range(8, 26)  # versions of ONNX's operators; those of others may mean something else

Array = NDArray[Any]


def printable(text: str) -> str:
    """At most 80 characters, none of which a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])


class OnnxFile:
    """A graph without loops, functions, parts in other files or sizes that are not there.

    Attributes:
        inputs, outputs: names. producers: value -> node. origin: value -> the stored tensor that it rearranges.
    """

    def __init__(self, path: Path) -> None:
        if find_spec("onnx") is None or find_spec("onnxruntime") is None:
            raise GraftError("ONNX files need onnx and onnxruntime: pip install 'graft-rl[export]'.")
        import onnx

        self.what = str(path)
        data = read_bytes(path, LARGEST)
        check_size(data, self.what)
        try:
            self.model = onnx.load_model_from_string(data)
        except Exception as error:  # of protobuf
            raise GraftError(f"{path} is not an ONNX file ({printable(str(error))}).") from error
        self._check_counts()
        graph = self.model.graph
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {given.name: given for given in graph.input if given.name not in self._stored}
        self.outputs = [given.name for given in graph.output]
        self.producers: dict[str, Any] = {}
        self.origin = {name: name for name in self._stored}
        self._depends = {name: 1 << i for i, name in enumerate(self.inputs)} | dict.fromkeys(self._stored, 0)
        self._numbers: dict[str, Array] = {}
        self._computed = 0
        for node in graph.node:
            self._enter(node)
        self._check_tensors()
        for name in [*self.inputs, *self.outputs, *self._stored, *self.producers]:
            if not name or len(name) > LONGEST_NAME or not name.isprintable():
                raise GraftError(f"{path} has a name that is empty, long or not printable: {printable(name)!r}.")
        for name in self.outputs:
            if name not in self._depends:
                raise GraftError(f"{path} says that it gives {name!r}, which no node makes.")

    @property
    def producer_name(self) -> str:
        return printable(f"{self.model.producer_name} {self.model.producer_version}".strip())

    @property
    def tensors(self) -> list[str]:
        """Names of the tensors that the file stores and that are more than a number."""
        return [name for name, tensor in self._stored.items() if math.prod(tensor.dims) > 1]

    def depends(self, name: str) -> set[str]:
        """Inputs that a value depends on."""
        return {given for i, given in enumerate(self.inputs) if self._depends[name] >> i & 1}

    def fixed(self, name: str) -> bool:
        """Whether a value depends on no input."""
        return self._depends[name] == 0

    def numbers(self, name: str) -> Array:
        """Of a value that depends on no input; raises GraftError where they are not finite, or computed otherwise than
        by moving, casting, negating, inverting or taking roots.
        """
        found = self._found(name, 0)
        if found is None or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
            raise GraftError(f"{self.what}: {name!r} is not made of finite numbers that the file stores.")
        return found

    def attributes(self, node: Any) -> dict[str, Any]:
        import onnx

        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def _check_counts(self) -> None:
        import onnx

        graph, what = self.model.graph, self.what
        counts = {
            "nodes": (len(graph.node), MOST_NODES),
            "inputs": (len(graph.input) - len(graph.initializer), MOST_ENDS),
            "outputs": (len(graph.output), MOST_ENDS),
            "tensors": (len(graph.initializer), MOST_TENSORS),
        }
        for name, (count, most) in counts.items():
            if count > most or (name in ("nodes", "outputs") and not count):
                raise GraftError(f"{what} has {count:,} {name}; 1 to {most:,} are read.")
        if len(graph.input) > MOST_ENDS + MOST_TENSORS:
            raise GraftError(f"{what} has {len(graph.input):,} inputs; 1 to {MOST_ENDS} are read.")
        if len(self.model.functions) or len(graph.sparse_initializer) or len(self.model.training_info):
            raise GraftError(f"{what} has functions of its own, sparse tensors or training steps, which are not read.")
        versions = [o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")]
        if len(versions) != 1 or versions[0] not in OPSETS:
            raise GraftError(
                f"{what} has operators of version {versions}; {OPSETS.start} to {OPSETS.stop - 1} are read."
            )
        for given in graph.input:
            if given.type.WhichOneof("value") != "tensor_type" or given.type.tensor_type.elem_type not in (
                onnx.TensorProto.FLOAT,
                onnx.TensorProto.UINT8,
            ):
                raise GraftError(f"{what}: input {printable(given.name)!r} is not a tensor of float32 or uint8.")

    def _enter(self, node: Any) -> None:
        """Note what a node gives; raises GraftError for what comes before its origin, so also for loops."""
        import onnx

        at = f"{self.what}: a node {printable(node.op_type)}"
        if len(node.input) > MOST_ENDS or not 1 <= len(node.output) <= MOST_ENDS:
            raise GraftError(f"{at} has {len(node.input):,} inputs and {len(node.output):,} outputs.")
        if len({a.name for a in node.attribute}) != len(node.attribute):
            raise GraftError(f"{at} says an attribute twice.")
        for attribute in node.attribute:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise GraftError(f"{at} with a graph of its own is not read.")
        for name in node.input:
            if name and name not in self._depends:
                raise GraftError(f"{at} reads {printable(name)!r}, which nothing before it gives.")
        bits = 0
        for name in node.input:
            bits |= self._depends[name] if name else 0
        for name in filter(None, node.output):
            if name in self._depends:
                raise GraftError(f"{self.what} gives {printable(name)!r} twice.")
            self._depends[name], self.producers[name] = bits, node
        if node.op_type == "Constant" and not node.domain:
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.type == onnx.AttributeProto.TENSOR:
                    self._stored[node.output[0]] = attribute.t
                    self.origin[node.output[0]] = node.output[0]

    def _check_tensors(self) -> None:
        import onnx

        total = 0
        for name, tensor in self._stored.items():
            if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data):
                raise GraftError(f"{self.what} keeps {printable(name)!r} in another file, which is not read.")
            if len(tensor.dims) > 8 or any(size < 0 for size in tensor.dims):
                raise GraftError(f"{self.what}: {printable(name)!r} has a shape that is none.")
            total += math.prod(tensor.dims)
        if total > MOST_NUMBERS:
            raise GraftError(f"{self.what} says that it stores {total:,} numbers; at most {MOST_NUMBERS:,} are read.")

    def _found(self, name: str, depth: int) -> Array | None:
        if name in self._numbers:
            return self._numbers[name]
        found: Array | None = None
        if name in self._stored:
            from onnx import numpy_helper

            try:
                found = np.asarray(numpy_helper.to_array(self._stored[name]))
            except Exception as error:  # of numpy
                raise GraftError(f"Tensor {name!r} of {self.what} is damaged ({printable(str(error))}).") from error
        elif (node := self.producers.get(name)) is not None and not node.domain and depth < 16:
            found = self._compute(node, depth)
        if found is not None:
            self._numbers[name] = found
        return found

    def _compute(self, node: Any, depth: int) -> Array | None:
        import onnx

        attributes = self.attributes(node)
        if node.op_type == "Constant":
            (key, value), *_ = [*attributes.items(), ("", None)]
            return np.asarray(value) if key in ("value_float", "value_int", "value_floats", "value_ints") else None
        functions: dict[str, Any] = {"Identity": _same, "Transpose": _same, "Cast": _same}
        functions |= {"Sqrt": np.sqrt, "Reciprocal": np.reciprocal, "Neg": np.negative}
        if node.op_type not in functions or len(node.input) != 1 or set(attributes) - {"perm", "to"}:
            return None
        given = self._found(node.input[0], depth + 1)
        if given is None:
            return None
        if node.op_type == "Cast":
            kinds = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64}
            if given.dtype.kind != "f" or attributes.get("to") not in kinds:
                return None
            found = given.astype(kinds[attributes["to"]])
        elif node.op_type == "Transpose":
            order = list(attributes.get("perm", range(given.ndim)[::-1]))
            if sorted(order) != list(range(given.ndim)):
                return None
            found = given.transpose(order)
        else:
            if node.op_type != "Identity" and given.dtype.kind != "f":
                return None
            with np.errstate(all="ignore"):
                found = functions[node.op_type](given)
        if found is not given:
            self._computed += found.size
            if self._computed > MOST_NUMBERS:
                raise GraftError(f"{self.what} computes more than {MOST_NUMBERS:,} numbers from its tensors.")
        if (origin := self.origin.get(node.input[0])) is not None:
            self.origin[node.output[0]] = origin
        return found


def _same(values: Array) -> Array:
    return values


MOST_FIELDS = 200_000
"""Fields of a file outside of lists of numbers: a parser needs up to a hundred bytes for each, whatever its size."""

_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "leaf", 14: "leaf"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "annotation", 16: "leaf"},
    "node": {5: "attribute", 9: "leaf"},
    "attribute": {5: "tensor", 10: "tensor"},
    "tensor": {13: "leaf", 16: "leaf"},
    "value": {2: "type", 4: "leaf"},
    "type": {1: "kind"},
    "kind": {2: "shape"},
    "shape": {1: "leaf"},
    "annotation": {2: "leaf"},
    "leaf": {},
}
"""Message of ONNX -> its fields that are messages, as far as they are read; by the numbers in onnx.proto."""

_REFUSED = {
    "model": {20, 25, 26},
    "graph": {15},
    "node": {10},
    "attribute": {6, 11, 14, 15, 22, 23},
    "type": {4, 5, 7, 8, 9},
}
"""Training, functions, devices, sparse tensors, graphs within nodes, types of no tensor: refused before parsing."""

_LISTS = {
    ("attribute", 7): 4,
    ("attribute", 8): 1,
    ("tensor", 1): 1,
    ("tensor", 5): 1,
    ("tensor", 7): 1,
    ("tensor", 11): 1,
}
"""Lists whose numbers take more memory than the bytes of a number that are given here."""


def check_size(data: bytes, what: str) -> None:
    """Raise GraftError for a file that would need much more memory than its own size once it is parsed.

    Walks protobuf's fields without making anything of them: https://protobuf.dev/programming-guides/encoding
    """
    waiting, count = [("model", 0, len(data))], 0
    while waiting:
        kind, at, end = waiting.pop()
        while at < end:
            count += 1
            key, at = _number(data, at, end, what)
            field, wire = key >> 3, key & 7
            if field in _REFUSED.get(kind, ()):
                raise GraftError(
                    f"{what} has training steps, functions of its own, sparse tensors or a node with a graph of its "
                    f"own, which is not read."
                )
            if wire == 0:
                _, at = _number(data, at, end, what)
            elif wire == 2:
                size, at = _number(data, at, end, what)
                if (inner := _INSIDE[kind].get(field)) is not None:
                    waiting.append((inner, at, min(at + size, end)))
                count += size // _LISTS[kind, field] if (kind, field) in _LISTS else 0
                at += size
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise GraftError(f"{what} is not an ONNX file (field {field} of kind {wire}).")
            if at > end:
                raise GraftError(f"{what} is not an ONNX file (it ends within a field).")
            if count > MOST_FIELDS:
                raise GraftError(f"{what} has more than {MOST_FIELDS:,} fields, which is more than a policy needs.")


def _number(data: bytes, at: int, end: int, what: str) -> tuple[int, int]:
    """A number of variable length at ``at``, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise GraftError(f"{what} is not an ONNX file (it ends within a number).")
