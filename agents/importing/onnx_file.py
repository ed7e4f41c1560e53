"""An ONNX file after checks: its nodes in order, what each value depends on, and the numbers it stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.agents.importing.files import read_bytes
from graft.agents.importing.onnx_size import check_size
from graft.agents.onnx_session import packages, session
from graft.errors import GraftError, printable

LARGEST = 80 << 20  # bytes of a file
MOST_NODES = 2_000
MOST_ENDS = 64  # inputs or outputs, of the graph and of a node
MOST_TENSORS = 4_000
MOST_NUMBERS = 1 << 24  # in all tensors that the file stores, and again in all that are computed from them
LONGEST_NAME = 200
OPSETS = range(8, 26)  # versions of ONNX's operators; those of others may mean something else

Array = NDArray[Any]

MOVING = ("Identity", "Transpose")
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "Identity": lambda values: values,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Neg": np.negative,
}
"""Operators over stored numbers; those of `MOVING` are of any kind of numbers."""

READ = frozenset(
    {"Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Concat", "Slice", "Gemm", "MatMul", "Conv"}
    | {"Relu", "Tanh", "Sigmoid", "Elu", "LeakyRelu", "Gelu", "Add", "Sub", "Mul", "Div", "Neg", "Clip"}
    | {"Softmax", "LogSoftmax", "ArgMax"}
)
"""Operators between observations and actions; whatever else a node has is not read."""

RUN = READ | {"Constant", "Transpose", "Sqrt", "Reciprocal"}
"""Operators that may run."""


class OnnxFile:
    """A graph without loops, functions, parts in other files or sizes that are not there.

    Attributes:
        inputs, outputs: names. producers: value -> node. opset: version of the operators.
    """

    def __init__(self, path: Path) -> None:
        onnx, _ = packages()
        self.what = str(path)
        data = read_bytes(path, LARGEST)
        check_size(data, self.what)
        try:
            self.model = onnx.load_model_from_string(data)
        except Exception as error:  # of protobuf
            raise GraftError(f"{path} is not an ONNX file ({printable(str(error))}).") from error
        if not _is_text(self.model):
            raise GraftError(f"{path} is not an ONNX file (a text in it is not UTF-8).")
        graph = self.model.graph
        self._stored: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs: dict[str, Any] = {given.name: given for given in graph.input if given.name not in self._stored}
        self.outputs: list[str] = [given.name for given in graph.output]
        self.producers: dict[str, Any] = {}
        self._origin: dict[str, str] = {name: name for name in self._stored}
        self._depends = {name: 1 << i for i, name in enumerate(self.inputs)} | dict.fromkeys(self._stored, 0)
        self._numbers: dict[str, Array] = {}
        self._computed = 0
        self._check_counts()
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

    def origin(self, name: str) -> str:
        """The stored tensor that a value rearranges; its own name where it is none."""
        return self._origin.get(name, name)

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

    def session(self, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        """Of onnxruntime, with the nodes that ``outputs`` need, and no others."""
        import onnx

        needed, nodes = set(outputs), []
        for node in reversed(self.model.graph.node):
            if needed.intersection(filter(None, node.output)):
                if node.domain or node.op_type not in RUN:
                    raise GraftError(f"{self.what}: a node {printable(node.op_type)} is not read.")
                nodes.append(node)
                needed.update(node.input)
        graph = self.model.graph
        part = onnx.helper.make_graph(
            nodes[::-1],
            "policy",
            [self.inputs[name] for name in inputs if name in needed],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [tensor for tensor in graph.initializer if tensor.name in needed],
        )
        model = onnx.helper.make_model(part, opset_imports=[onnx.helper.make_opsetid("", self.opset)], ir_version=8)
        return session(model.SerializeToString(), self.what, as_it_is=True)

    def _check_counts(self) -> None:
        import onnx

        graph, what = self.model.graph, self.what
        counts = {
            "nodes": (len(graph.node), MOST_NODES),
            "inputs": (len(self.inputs), MOST_ENDS),
            "outputs": (len(graph.output), MOST_ENDS),
            "tensors": (len(graph.initializer), MOST_TENSORS),
        }
        for name, (count, most) in counts.items():
            if count > most or (name in ("nodes", "outputs") and not count):
                raise GraftError(f"{what} has {count:,} {name}; 1 to {most:,} are read.")
        versions = [o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")]
        if len(versions) != 1 or versions[0] not in OPSETS:
            raise GraftError(
                f"{what} has operators of version {versions}; {OPSETS.start} to {OPSETS.stop - 1} are read."
            )
        self.opset = versions[0]
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
        for name in node.input:
            if name and name not in self._depends:
                raise GraftError(f"{at} reads {printable(name)!r}, which nothing before it gives.")
        if node.domain == "ai.onnx":
            node.domain = ""  # which is the same
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
                    self._origin[node.output[0]] = node.output[0]

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

        kind, attributes = node.op_type, self.attributes(node)
        if kind == "Constant":
            (key, value), *_ = [*attributes.items(), ("", None)]
            return np.asarray(value) if key in ("value_float", "value_int", "value_floats", "value_ints") else None
        given = self._found(node.input[0], depth + 1) if len(node.input) == 1 else None
        if given is None or set(attributes) - {"perm", "to"} or (given.dtype.kind != "f" and kind not in MOVING):
            return None
        if kind == "Cast":
            kinds = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64}
            if attributes.get("to") not in kinds:
                return None
            found: Array = given.astype(kinds[attributes["to"]])
        elif kind == "Transpose":
            found = given.transpose(attributes.get("perm"))
        elif kind in FUNCTIONS:
            with np.errstate(all="ignore"):
                found = FUNCTIONS[kind](given)
        else:
            return None
        if found is not given:
            self._computed += found.size
            if self._computed > MOST_NUMBERS:
                raise GraftError(f"{self.what} computes more than {MOST_NUMBERS:,} numbers from its tensors.")
        if node.input[0] in self._origin:
            self._origin[node.output[0]] = self._origin[node.input[0]]
        return found


def _is_text(message: Any) -> bool:
    """Whether all texts in a protobuf message are: what is not UTF-8 is read as bytes."""
    for field, value in message.ListFields():
        entries = [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
        if field.type == field.TYPE_STRING and any(isinstance(entry, bytes) for entry in entries):
            return False
        if field.type == field.TYPE_MESSAGE and not all(_is_text(entry) for entry in entries):
            return False
    return True
