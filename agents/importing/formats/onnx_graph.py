"""ONNX files of ML-Agents, Stable-Baselines3 and others: chains of Gemm, MatMul, Conv and activations, read back.

The graph is read, not run. A node that is not known ends with a sentence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.importing.files import LARGEST_FILE, read_bytes
from graft.agents.importing.foreign import ForeignPolicy, Kind, Layer, Statistics, Units, parts_of
from graft.agents.importing.source import FORMATS, Format, Request
from graft.agents.networks.activation import Activation
from graft.errors import GraftError, unknown

MOST_NODES = 10_000

OUTPUTS = {
    "box": ("deterministic_continuous_actions", "continuous_actions"),
    "discrete": ("deterministic_discrete_actions", "discrete_actions"),
    "multi": ("deterministic_discrete_actions", "discrete_actions"),
}
"""Outputs of ML-Agents by kind of action; of others, the first output counts."""

VALUES = ("value", "values", "value_estimate")
MASKS = ("action_masks",)
KEYS = ("kind", "policy", "value", "units", "unused", "library")
UNUSED = "no part of the policy: the file computes other outputs with it"

_ACTIVATIONS: dict[str, Activation] = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Elu": "elu",
    "LeakyRelu": "leaky_relu",
    "Gelu": "gelu",
}
_DEFAULT_ALPHA = {"Elu": 1.0, "LeakyRelu": 0.01}
_PASSED = (
    "Identity",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Cast",
    "Dropout",
)
_ORDERS = ("Softmax", "LogSoftmax", "ArgMax")  # at the end of a policy of discrete actions; they change no order

Array = NDArray[Any]


@dataclass
class _Chain:
    """What lies between an input and an output.

    Attributes:
        source: name of the input, or the node that joins several.
        scale, shift: of the input, before the first layer; None where there is none. clip: of what they give.
        layers: in order. squashed: whether a tanh ends it. bound: where a clip ends it; ``thirds``: whether a division
            by 3 follows, as in ML-Agents. ordered: whether a softmax or argmax ends it.
    """

    source: str = ""
    scale: Array | None = None
    shift: Array | None = None
    clip: float = math.inf
    layers: list[Layer] = field(default_factory=list)
    squashed: bool = False
    bound: tuple[float, float] | None = None
    thirds: bool = False
    ordered: bool = False

    @property
    def ended(self) -> bool:
        return self.ordered or self.bound is not None


@FORMATS.register("onnx")
class Onnx(Format):
    """``.onnx`` files; ``--names`` may hold ``policy`` and ``value`` (names of outputs), ``kind`` and ``units``."""

    def fits(self, request: Request) -> bool:
        return request.path.suffix == ".onnx"

    def read(self, request: Request) -> ForeignPolicy:
        for key in request.names:
            if key not in KEYS:
                raise unknown("key of --names for ONNX", str(key), KEYS)
        return _Reader(_Graph(read_bytes(request.path), str(request.path)), request).policy()


class _Graph:
    """Nodes by what they give, and the numbers in the file."""

    def __init__(self, data: bytes, what: str) -> None:
        if find_spec("onnx") is None:
            raise GraftError("ONNX files need the package onnx: pip install 'graft-rl[export]'.")
        import onnx

        self.what = what
        try:
            model = onnx.load_model_from_string(data)
        except Exception as error:  # of protobuf
            raise GraftError(f"{what} is not an ONNX file ({str(error)[:100]}).") from error
        graph = model.graph
        if not graph.node or not graph.output or len(graph.node) > MOST_NODES:
            raise GraftError(
                f"{what} has {len(graph.node):,} nodes and {len(graph.output)} outputs; 1 to {MOST_NODES:,} nodes are "
                f"read."
            )
        if len(model.functions) or len(graph.sparse_initializer):
            raise GraftError(f"{what} has functions of its own or sparse tensors, which are not read.")
        self.producer_name = f"{model.producer_name} {model.producer_version}".strip()
        self.inputs = [given.name for given in graph.input if given.name not in {t.name for t in graph.initializer}]
        self.outputs = [given.name for given in graph.output]
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._attributes = onnx.helper.get_attribute_value
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                    raise GraftError(f"{what} has a node {node.op_type} with a graph of its own, which is not read.")
                if node.op_type == "Constant" and attribute.name == "value":
                    self._stored[node.output[0]] = attribute.t
        total = 0
        for tensor in self._stored.values():
            if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data):
                raise GraftError(f"{what} keeps {tensor.name[:80]!r} in another file, which is not read.")
            total += math.prod(tensor.dims) * 8
        if total > 2 * LARGEST_FILE:
            raise GraftError(
                f"{what} says that its tensors have {total:,} bytes; at most {2 * LARGEST_FILE:,} are read."
            )
        self._numbers: dict[str, Array] = {}

    @property
    def tensors(self) -> list[str]:
        """Names of what the file stores as initialisers."""
        return list(self._stored)

    def attribute(self, node: Any, name: str, default: Any) -> Any:
        return next((self._attributes(a) for a in node.attribute if a.name == name), default)

    def stored(self, name: str) -> bool:
        """Whether a tensor is an initialiser that counts as the policy's: more than a number."""
        return name in self._stored and math.prod(self._stored[name].dims) > 1

    def constant(self, name: str, depth: int = 0) -> Array | None:
        """The numbers of ``name`` where no input has a part in them."""
        if name in self._numbers:
            return self._numbers[name]
        found: Array | None = None
        if name in self._stored:
            from onnx import numpy_helper

            try:
                found = np.asarray(numpy_helper.to_array(self._stored[name]))
            except Exception as error:  # of numpy
                raise GraftError(f"Tensor {name[:80]!r} of {self.what} is damaged ({str(error)[:100]}).") from error
        elif (node := self.producers.get(name)) is not None and depth < 16:
            found = self._computed(node, depth)
        if found is not None:
            self._numbers[name] = found
        return found

    def _computed(self, node: Any, depth: int) -> Array | None:
        """Of nodes that rearrange numbers of the file."""
        if node.op_type == "Constant":
            value = next((self._attributes(a) for a in node.attribute if a.name.startswith("value_")), None)
            return None if value is None or isinstance(value, bytes) else np.asarray(value)
        if node.op_type not in ("Identity", "Cast", "Transpose", "Sqrt", "Reciprocal", "Neg", "Unsqueeze", "Squeeze"):
            return None
        given = self.constant(node.input[0], depth + 1)
        if given is None:
            return None
        if node.op_type == "Transpose":
            return given.transpose(self.attribute(node, "perm", None))
        functions = {"Sqrt": np.sqrt, "Reciprocal": np.reciprocal, "Neg": np.negative}
        return functions[node.op_type](given) if node.op_type in functions else given.squeeze()

    def sources(self, name: str) -> set[str]:
        """Inputs that ``name`` depends on."""
        found, waiting, known = set(), [name], {name}
        while waiting:
            at = waiting.pop()
            if at in self.inputs:
                found.add(at)
            node = self.producers.get(at)
            for before in [] if node is None else node.input:
                if before not in known:
                    known.add(before)
                    waiting.append(before)
        return found


class _Reader:
    """Turns the graph of a policy into layers."""

    def __init__(self, graph: _Graph, request: Request) -> None:
        self.graph, self.request, self.used = graph, request, set[str]()
        self.masks = {name for name in graph.inputs if name in MASKS}
        self.shape = request.schemas.observation.plain.shape

    def policy(self) -> ForeignPolicy:
        names, actions = self.request.names, self.request.schemas.action
        output = self._output(names.get("policy"), OUTPUTS[actions.kind])
        chain, extractors, statistics, pixels = self._read(output)
        chain = self._action_chain(chain)
        value = self._value(names.get("value"))
        shared = 0
        for mine, theirs in zip(chain.layers[:-1], value[:-1], strict=False):
            if mine.names != theirs.names or mine.activation != theirs.activation:
                break
            shared += 1
        layers, units = tuple(chain.layers), self._units(chain, names.get("units"))
        if chain.thirds:
            layers = (*layers[:-1], layers[-1]._replace(weight=layers[-1].weight / 3, bias=layers[-1].bias / 3))
        kind = self._kind(chain, names.get("kind"))
        found = ForeignPolicy(
            kind=kind,
            policy=layers[shared:],
            value=tuple(value[shared:]),
            trunk=layers[:shared],
            extractors=extractors,
            units=units,
            pixels=pixels,
            statistics=statistics,
            origin={"library": names.get("library") or self.graph.producer_name or None},
        )
        left = [name for name in self.graph.tensors if self.graph.stored(name) and name not in self.used]
        return replace(found, unused=dict.fromkeys(left, UNUSED))

    def _output(self, given: Any, usual: tuple[str, ...]) -> str:
        if given is not None:
            if given not in self.graph.outputs:
                raise unknown("output of the ONNX file", str(given), self.graph.outputs)
            return str(given)
        return next((name for name in usual if name in self.graph.outputs), self.graph.outputs[0])

    def _value(self, given: Any) -> list[Layer]:
        names = [self._output(given, ())] if given is not None else [n for n in VALUES if n in self.graph.outputs]
        return self._read(names[0])[0].layers if names else []

    def _kind(self, chain: _Chain, given: Any) -> Kind:
        if given is not None:
            if given not in ("categorical", "greedy", "gaussian", "squashed"):
                raise unknown("kind", str(given), ("categorical", "greedy", "gaussian", "squashed"))
            kind: Kind = given
            return kind
        if self.request.schemas.action.kind != "box":
            return "categorical"
        return "squashed" if chain.squashed else "gaussian"

    def _units(self, chain: _Chain, given: Any) -> Units:
        if given not in (None, "environment", "scaled"):
            raise unknown("units", str(given), ("environment", "scaled"))
        actions = self.request.schemas.action
        if chain.thirds and actions.kind == "box":
            return "scaled"
        own = set(zip(actions.low, actions.high, strict=True))
        if chain.bound is not None and actions.kind == "box" and given != "scaled" and own != {chain.bound}:
            raise GraftError(f"The file clips actions to {chain.bound}, the task's bounds are other ones.")
        units: Units = given or "environment"
        return units

    def _read(self, output: str) -> tuple[_Chain, dict[str, tuple[Layer, ...]], dict[str, Statistics], float]:
        """Chain to an output, extractors and statistics of each part, and what pixels are divided by."""
        parts = parts_of(self.request.schemas.observation)
        chain = self._chain(output)
        if chain.source in self.graph.inputs:
            branches = [chain]
        else:
            branches = [self._chain(name) for name in self.graph.producers[chain.source].input]
            branches.sort(key=lambda branch: self.graph.inputs.index(branch.source))
        if len(branches) != len(parts):
            raise GraftError(
                f"The file's policy reads {len(branches)} inputs, the task's observation has {len(parts)} parts."
            )
        extractors: dict[str, tuple[Layer, ...]] = {}
        statistics: dict[str, Statistics] = {}
        divided: set[float] = set()
        for (name, part), branch in zip(parts.items(), branches, strict=True):
            if branch.source not in self.graph.inputs:
                raise GraftError("The file joins parts of its observation more than once, which is not read.")
            extractors[name] = () if branch is chain else tuple(branch.layers)
            if branch is chain and any(layer.convolves for layer in chain.layers):
                first = next((i for i, layer in enumerate(chain.layers) if not layer.convolves), 0)
                extractors[name], chain.layers = tuple(chain.layers[: first + 1]), chain.layers[first + 1 :]
            if part.kind == "pixels":
                divided.add(_pixels(branch))
            elif branch.scale is not None or branch.shift is not None or math.isfinite(branch.clip):
                statistics[name] = _statistics(branch, math.prod(part.shape))
        if not chain.layers:
            raise GraftError(f"Output {output!r} of the file has no layers after its inputs.")
        if len(divided) > 1:
            raise GraftError("The file scales its pictures in several ways, which is not read.")
        return chain, extractors, statistics, divided.pop() if divided else 255.0

    def _chain(self, output: str) -> _Chain:
        """From ``output`` back to an input, or to a node that joins several, then built forwards."""
        steps: list[tuple[str, Any]] = []
        at = output
        while at not in self.graph.inputs:
            node = self.graph.producers.get(at)
            if node is None or len(steps) > MOST_NODES:
                raise GraftError(f"{self.graph.what} has a value {at[:80]!r} without an origin.")
            data = self._data_inputs(node)
            if node.op_type == "Concat" and len(data) > 1:
                break
            if node.op_type == "Concat" or (len(data) == 1 and len(self._given(node)) > 1 and self._masks(node)):
                at = data[0]  # a single part, or an operation with masks: those are Graft's to apply
                continue
            silu = self._silu(node, data)
            if silu is not None:
                steps.append(("silu", node))
                at = silu
                continue
            if len(data) != 1:
                raise GraftError(f"{self.graph.what}: a node {node.op_type} with {len(data)} inputs is not read.")
            steps.append((node.op_type, node))
            at = data[0]
        chain = _Chain(source=at)
        for kind, node in reversed(steps):
            self._step(chain, kind, node)
        return chain

    def _action_chain(self, chain: _Chain) -> _Chain:
        """The chain of an output, whose last tanh bounds an action."""
        last = chain.layers[-1]
        if last.activation is not None and last.activation != "tanh":
            raise GraftError(f"{self.graph.what}: {last.activation} ends the policy, which is not read.")
        chain.squashed = last.activation == "tanh"
        chain.layers[-1] = last._replace(activation=None)
        return chain

    def _given(self, node: Any) -> list[str]:
        return [name for name in node.input if name and self.graph.constant(name) is None]

    def _data_inputs(self, node: Any) -> list[str]:
        """Inputs of a node that depend on observations."""
        return [name for name in self._given(node) if self.graph.sources(name) - self.masks]

    def _masks(self, node: Any) -> bool:
        return any(self.graph.sources(name) <= self.masks for name in self._given(node))

    def _silu(self, node: Any, data: list[str]) -> str | None:
        """The input x of x * sigmoid(x)."""
        if node.op_type != "Mul" or len(data) != 2:
            return None
        for x, gate in (data, data[::-1]):
            before = self.graph.producers.get(gate)
            if before is not None and before.op_type == "Sigmoid" and before.input[0] == x:
                return x
        return None

    def _step(self, chain: _Chain, kind: str, node: Any) -> None:
        if chain.ended and kind not in (*_PASSED, *_ORDERS, "Div"):
            raise GraftError(f"{self.graph.what}: {kind} after the bounds or the choice of an action is not read.")
        if kind in ("Gemm", "MatMul", "Conv"):
            chain.layers.append(self._layer(kind, node))
        elif kind == "silu" or kind in _ACTIVATIONS:
            self._activate(chain, kind, node)
        elif kind in ("Add", "Sub", "Mul", "Div"):
            self._affine(chain, kind, node)
        elif kind == "Clip":
            self._clip(chain, node)
        elif kind in _ORDERS:
            if not chain.layers or self.request.schemas.action.kind == "box":
                raise GraftError(f"{self.graph.what}: {kind} is read at the end of discrete actions only.")
            chain.ordered = True
        elif kind not in _PASSED:
            raise GraftError(f"{self.graph.what}: a node {kind} is not read.")

    def _numbers(self, name: str) -> Array:
        found = self.graph.constant(name)
        if found is None or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
            raise GraftError(f"{self.graph.what}: {name[:80]!r} is not made of finite numbers.")
        self.used.add(name)
        producer = self.graph.producers.get(name)
        while producer is not None and producer.input:
            self.used.add(producer.input[0])
            producer = self.graph.producers.get(producer.input[0])
        return found.astype(np.float64)

    def _layer(self, kind: str, node: Any) -> Layer:
        get = self.graph.attribute
        if self.graph.constant(node.input[1]) is None:
            raise GraftError(f"{self.graph.what}: {kind} with a weight that is computed is not read.")
        weight = self._numbers(node.input[1])
        stride = padding = 0
        if kind == "Conv":
            stride, padding = self._geometry(node, weight)
        elif weight.ndim != 2 or (kind == "Gemm" and get(node, "transA", 0)):
            raise GraftError(f"{self.graph.what}: {kind} of a weight of shape {weight.shape} is not read.")
        elif kind == "MatMul" or not get(node, "transB", 0):
            weight = weight.T
        bias = self._numbers(node.input[2]).reshape(-1) if len(node.input) > 2 and node.input[2] else None
        if kind == "Gemm":
            weight = weight * get(node, "alpha", 1.0)
            bias = None if bias is None else bias * get(node, "beta", 1.0)
        if bias is not None and bias.shape != weight.shape[:1]:
            bias = np.broadcast_to(bias, weight.shape[:1]) if bias.size == 1 else None
            if bias is None:
                raise GraftError(f"{self.graph.what}: {kind} has a bias of another size than its weight.")
        names = (node.input[1], node.input[2] if len(node.input) > 2 and node.input[2] else None)
        return Layer(
            _tensor(weight), _tensor(np.zeros(len(weight)) if bias is None else bias), names, None, stride or 1, padding
        )

    def _geometry(self, node: Any, weight: Array) -> tuple[int, int]:
        get = self.graph.attribute
        strides, pads = list(get(node, "strides", [1, 1])), list(get(node, "pads", [0, 0, 0, 0]))
        plain = list(get(node, "dilations", [1, 1])) == [1, 1] and get(node, "group", 1) == 1
        automatic = get(node, "auto_pad", b"NOTSET")
        if (
            weight.ndim != 4
            or not plain
            or automatic not in (b"NOTSET", b"VALID")
            or len({*strides}) > 1
            or len({*pads}) > 1
        ):
            raise GraftError(
                f"{self.graph.what}: only convolutions with one stride and one padding, without dilation, are read."
            )
        return int(strides[0]), int(pads[0])

    def _activate(self, chain: _Chain, kind: str, node: Any) -> None:
        if kind in _DEFAULT_ALPHA:
            alpha = self.graph.attribute(node, "alpha", _DEFAULT_ALPHA[kind])
            if not math.isclose(alpha, _DEFAULT_ALPHA[kind], rel_tol=1e-6):
                raise GraftError(
                    f"{self.graph.what}: {kind} with alpha={alpha:g} is not read; {_DEFAULT_ALPHA[kind]:g} is."
                )
        if not chain.layers or chain.layers[-1].activation is not None:
            raise GraftError(f"{self.graph.what}: {kind} that does not follow a layer is not read.")
        name: Activation = "silu" if kind == "silu" else _ACTIVATIONS[kind]
        chain.layers[-1] = chain.layers[-1]._replace(activation=name)

    def _affine(self, chain: _Chain, kind: str, node: Any) -> None:
        """Numbers that are added or multiplied: of the input they are statistics, of a layer they are its own."""
        place = 0 if self.graph.constant(node.input[0]) is not None else 1
        numbers = self._numbers(node.input[place]).reshape(-1)
        if place == 0 and kind == "Div":
            raise GraftError(f"{self.graph.what}: a division by what the policy computes is not read.")
        scale, shift = np.ones(1), np.zeros(1)
        if kind in ("Mul", "Div"):
            scale = numbers if kind == "Mul" else 1 / numbers
        else:
            shift = -numbers if kind == "Sub" and place == 1 else numbers
            scale = -scale if kind == "Sub" and place == 0 else scale
        if chain.ended:
            if chain.thirds or chain.bound != (-3.0, 3.0) or kind != "Div" or not np.allclose(numbers, 3.0):
                raise GraftError(f"{self.graph.what}: {kind} after the bounds of an action is not read.")
            chain.thirds = True
        elif not chain.layers:
            if math.isfinite(chain.clip):
                raise GraftError(f"{self.graph.what}: {kind} after a clip of observations is not read.")
            chain.scale = scale if chain.scale is None else chain.scale * scale
            chain.shift = shift if chain.shift is None else chain.shift * scale + shift
        else:
            self._fold(chain, scale, shift, node.input[place], kind)

    def _fold(self, chain: _Chain, scale: Array, shift: Array, name: str, kind: str) -> None:
        last = chain.layers[-1]
        if last.activation is not None or max(scale.size, shift.size) not in (1, last.outputs):
            raise GraftError(f"{self.graph.what}: {kind} after an activation is not read.")
        gain, more = (_tensor(np.broadcast_to(values, (last.outputs,))) for values in (scale, shift))
        weight = last.weight * gain.view(-1, *[1] * (last.weight.dim() - 1))
        named = last.names if last.names[1] is not None or kind != "Add" else (last.names[0], name)
        chain.layers[-1] = last._replace(weight=weight, bias=last.bias * gain + more, names=named)

    def _clip(self, chain: _Chain, node: Any) -> None:
        low, high = (
            float(self._numbers(node.input[i]).reshape(-1)[0])
            if len(node.input) > i and node.input[i]
            else float(self.graph.attribute(node, ("", "min", "max")[i], (0, -math.inf, math.inf)[i]))
            for i in (1, 2)
        )
        if not chain.layers:
            if low != -high:
                raise GraftError(
                    f"{self.graph.what}: observations that are clipped to {low:g} and {high:g} are not read."
                )
            chain.clip = high
        elif chain.layers[-1].activation == "tanh" and low <= -1 and high >= 1:
            return
        elif chain.layers[-1].activation is not None:
            raise GraftError(f"{self.graph.what}: a clip after an activation is not read.")
        else:
            chain.bound = (low, high)


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32).copy())


def _pixels(branch: _Chain) -> float:
    """What pictures are divided by."""
    if (branch.shift is not None and np.any(branch.shift != 0)) or math.isfinite(branch.clip):
        raise GraftError("The file shifts or clips its pictures, which is not read.")
    if branch.scale is None:
        return 1.0
    if branch.scale.size != 1 or branch.scale[0] <= 0:
        raise GraftError("The file scales its pictures by several numbers, which is not read.")
    return float(1 / branch.scale[0])


def _statistics(branch: _Chain, size: int) -> Statistics:
    """Of observations that become scale * x + shift."""
    scale = np.ones(1) if branch.scale is None else branch.scale
    shift = np.zeros(1) if branch.shift is None else branch.shift
    if {scale.size, shift.size} - {1, size} or (scale <= 0).any():
        raise GraftError("The file normalises observations by numbers of another size, or below 0.")
    divisor = np.broadcast_to(1 / scale, (size,)).copy()
    mean = np.broadcast_to(-shift / scale, (size,)).copy()
    return Statistics(
        torch.from_numpy(mean), torch.from_numpy(divisor), branch.clip, ("numbers before the first layer",)
    )
