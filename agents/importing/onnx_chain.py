"""From an output of an ONNX graph back to an input: the nodes on the way as layers, each with the shape it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.importing.foreign import Layer
from graft.agents.importing.onnx_file import READ, OnnxFile
from graft.agents.networks.activation import Activation
from graft.errors import GraftError, printable

MASK = "action_masks"
"""ML-Agents' input that is 1 for each allowed action."""

BLOCKED = 1e6  # what a forbidden action's logit must at least lose

LARGEST_VALUE = 1 << 20  # numbers between two nodes, for one observation
LARGEST_STEP = 64  # of strides and paddings

_ACTIVATIONS: dict[str, Activation] = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Elu": "elu",
    "LeakyRelu": "leaky_relu",
    "Gelu": "gelu",
    "Silu": "silu",
}
_ALPHA = {"Elu": 1.0, "LeakyRelu": 0.01}

MASKING = frozenset({"Add", "Sub", "Mul", "Neg", "Identity", "Cast", "Slice"})
"""Operators over masks."""

Array = NDArray[Any]


@dataclass
class Chain:
    """What lies between an input and an output.

    Attributes:
        output: its name. source: name of the input, or of the value that joins several.
        shape: of one observation, after the last node so far; largest: the most numbers of any so far.
        scale, shift: of the input, before the first layer. clip: of what they give. statistics: names of their tensors.
        layers: in order. bound: where a clip ends it; ``thirds``: whether a division by 3 follows, as in ML-Agents.
        scores: what softmax or argmax orders, where one follows. chosen: whether an argmax does.
        mask: 0 without, 1 where forbidden actions are multiplied away, 2 where they also lose by a large number.
        used: tensors of the file that are in it.
    """

    output: str
    source: str
    shape: tuple[int, ...]
    picture: tuple[int, ...]
    largest: int = 1
    uint8: bool = False
    scale: Array | None = None
    shift: Array | None = None
    clip: float = math.inf
    statistics: list[str] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    bound: tuple[float, float] | None = None
    thirds: bool = False
    scores: str | None = None
    chosen: bool = False
    mask: int = 0
    used: set[str] = field(default_factory=set)


class ChainReader:
    """Reads chains of one file; ``mask``: number of actions where masks may be read, else 0."""

    def __init__(self, file: OnnxFile, actions: int) -> None:
        import onnx

        self.file, self.actions = file, actions
        self._context = onnx.checker.C.CheckerContext()
        self._context.ir_version, self._context.opset_imports = 8, {"": file.opset}
        self._steps: dict[str, Callable[[Chain, Any, dict[str, Any]], None]] = {
            "Identity": lambda chain, node, attributes: None,
            "Dropout": self._dropout,
            "Cast": self._cast,
            "Flatten": self._flatten,
            "Reshape": self._reshape,
            "Squeeze": self._squeeze,
            "Concat": self._concat,
            "Gemm": self._linear,
            "MatMul": self._linear,
            "Conv": self._conv,
            **dict.fromkeys(_ACTIVATIONS, self._activate),
            **dict.fromkeys(("Add", "Sub", "Mul", "Div"), self._affine),
            "Clip": self._clip,
            **dict.fromkeys(("Softmax", "LogSoftmax", "ArgMax"), self._order),
        }

    def refuse(self, what: str) -> GraftError:
        return GraftError(f"{self.file.what}: {what}.")

    def back(self, output: str) -> tuple[str, list[tuple[str, Any]]]:
        """The input, or the value that a Concat joins, that ``output`` comes from, and the nodes in between."""
        steps: list[tuple[str, Any]] = []
        at = output
        while at not in self.file.inputs:
            node = self.file.producers.get(at)
            data = [] if node is None else self._data(node)
            if node is None or not data:
                raise self.refuse(f"{at!r} depends on no observation")
            if node.output[0] != at:
                raise self.refuse(f"the second output of {printable(node.op_type)} is not read")
            if node.op_type == "Concat" and len(node.input) > 1:
                return at, steps[::-1]
            kind = node.op_type
            if kind == "Mul" and len(data) == 2:
                kind, data = "Silu", [self._silu(data)]
            if len(data) != 1:
                raise self.refuse(f"a node {printable(kind)} of {len(data)} values is not read")
            steps.append((kind, node))
            at = data[0]
        return at, steps[::-1]

    def branches(self, joint: str) -> list[str]:
        """The values that a Concat joins, in its order."""
        node = self.file.producers[joint]
        if self._checked(node).get("axis") not in (1, -1):
            raise self.refuse("Concat along another axis than 1 is not read")
        if len(self._data(node)) != len(node.input):
            raise self.refuse("Concat of an observation and numbers of the file is not read")
        return list(node.input)

    def forward(self, output: str, source: str, steps: list[tuple[str, Any]], chain: Chain) -> Chain:
        """``chain`` after these nodes."""
        chain.largest = max(chain.largest, math.prod(chain.shape))
        for kind, node in steps:
            attributes = self._checked(node)
            if (step := self._steps.get(kind)) is None:
                raise self.refuse(f"a node {printable(kind)} is not read")
            if chain.uint8 and kind not in ("Cast", "Identity"):
                raise self.refuse(f"{kind} of uint8 numbers is not read")
            step(chain, node, attributes)
            chain.largest = max(chain.largest, math.prod(chain.shape))
            if chain.largest > LARGEST_VALUE:
                raise self.refuse(f"{kind} gives {chain.largest:,} numbers; at most {LARGEST_VALUE:,} are read")
        if chain.uint8:
            raise self.refuse("uint8 numbers go into no layer")
        if chain.mask == 1:
            raise self.refuse("forbidden actions keep a logit of 0, which is not read")
        return chain

    def _checked(self, node: Any) -> dict[str, Any]:
        """The attributes of a node with such inputs and attributes as its operator has."""
        import onnx

        kind = printable(node.op_type)
        if node.op_type not in READ or node.domain:
            raise self.refuse(f"a node {kind} is not read")
        try:
            onnx.checker.check_node(node, self._context)
        except onnx.checker.ValidationError as error:
            raise self.refuse(f"a node {kind} is not read ({printable(str(error), 200)})") from error
        return self.file.attributes(node)

    def _data(self, node: Any) -> list[str]:
        """Inputs of a node that depend on observations."""
        return [name for name in node.input if name and self.file.depends(name) - {MASK}]

    def _silu(self, data: list[str]) -> str:
        """The input x of x * sigmoid(x)."""
        for x, gate in (data, data[::-1]):
            before = self.file.producers.get(gate)
            if before is not None and before.op_type == "Sigmoid" and list(before.input) == [x]:
                self._checked(before)
                return x
        raise self.refuse("a product of two values is not read")

    def numbers(self, chain: Chain, name: str) -> Array:
        """Of a value that depends on nothing, noted as used."""
        found = self.file.numbers(name)
        chain.used.add(self.file.origin(name))
        return found.astype(np.float64)

    def _whole(self, chain: Chain, name: str) -> list[int]:
        found = self.numbers(chain, name)
        if found.ndim > 1 or found.size > 8 or (found != np.floor(found)).any() or (np.abs(found) > 1 << 31).any():
            raise self.refuse(f"{name!r} is no list of whole numbers")
        return [int(value) for value in found.reshape(-1)]

    def _dropout(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        if any(node.input[1:]):
            raise self.refuse("Dropout with a ratio that is computed is not read")

    def _cast(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        import onnx

        kinds = onnx.TensorProto
        allowed = {kinds.FLOAT} | ({kinds.INT32, kinds.INT64} if chain.chosen else set())
        if attributes.get("to") not in allowed:
            raise self.refuse("Cast to another type than float32 is not read")
        chain.uint8 = False

    def _flatten(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        if attributes.get("axis", 1) != 1:
            raise self.refuse("Flatten of another axis than 1 is not read")
        chain.shape = (math.prod(chain.shape),)

    def _reshape(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        batch, *sizes = self._whole(chain, node.input[1]) or [0]
        count, open_ends = math.prod(chain.shape), sizes.count(-1)
        fits = (batch == -1 and not open_ends) or (batch in (0, 1) and open_ends <= 1)
        if fits and open_ends and (rest := math.prod(s for s in sizes if s != -1)) > 0:
            sizes = [count // rest if size == -1 else size for size in sizes]
        if not fits or not sizes or min(sizes) < 1 or math.prod(sizes) != count or attributes.get("allowzero", 0):
            raise self.refuse("Reshape that mixes observations, or that is computed, is not read")
        chain.shape = tuple(sizes)

    def _squeeze(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        axes = self._whole(chain, node.input[1]) if len(node.input) > 1 and node.input[1] else attributes.get("axes")
        rank = len(chain.shape)
        if not axes or any(not (1 <= axis <= rank or -rank <= axis <= -1) for axis in axes):
            raise self.refuse("Squeeze of unnamed axes, or of the first, is not read")
        gone = {(axis - 1) if axis > 0 else rank + axis for axis in axes}
        if any(chain.shape[axis] != 1 for axis in gone):
            raise self.refuse("Squeeze of an axis that is longer than 1 is not read")
        chain.shape = tuple(size for axis, size in enumerate(chain.shape) if axis not in gone)

    def _concat(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        if attributes.get("axis") not in (1, -1):
            raise self.refuse("Concat along another axis than 1 is not read")

    def _before_layer(self, chain: Chain, node: Any) -> None:
        kind = node.op_type
        if chain.bound is not None or chain.scores is not None or chain.mask:
            raise self.refuse(f"{kind} after the bounds or the choice of an action is not read")
        if self.file.fixed(node.input[0]) or not self.file.fixed(node.input[1]):
            raise self.refuse(f"{kind} with a weight that is computed, or before the values, is not read")

    def _linear(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        self._before_layer(chain, node)
        weight = self.numbers(chain, node.input[1])
        if weight.ndim != 2 or not weight.size or attributes.get("transA", 0):
            raise self.refuse(f"{node.op_type} of a weight of shape {weight.shape} is not read")
        weight = weight if attributes.get("transB", 0) else weight.T
        if chain.shape != weight.shape[1:]:
            raise self.refuse(
                f"{node.op_type} reads {weight.shape[1]} numbers, and has {' x '.join(map(str, chain.shape))}"
            )
        named, bias = None, np.zeros(len(weight))
        if len(node.input) > 2 and node.input[2]:
            given = self.numbers(chain, node.input[2])
            named = self.file.origin(node.input[2])
            bias = self._spread(given, len(weight), node.op_type) * attributes.get("beta", 1.0)
        weight = weight * attributes.get("alpha", 1.0)
        names = (self.file.origin(node.input[1]), named)
        chain.layers.append(Layer(_tensor(weight), _tensor(bias), names))
        chain.shape = (len(weight),)

    def _spread(self, values: Array, size: int, kind: str) -> Array:
        """One number for each of ``size``, of numbers that broadcast to (N, size)."""
        if values.ndim > 2 or (values.size != 1 and values.shape not in ((size,), (1, size))):
            raise self.refuse(f"{kind} of numbers of shape {values.shape} to {size} values is not read")
        return np.broadcast_to(values.reshape(-1), (size,))

    def _conv(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        self._before_layer(chain, node)
        weight = self.numbers(chain, node.input[1])
        if weight.ndim != 4 or not weight.size or len(chain.shape) != 3 or chain.shape[0] != weight.shape[1]:
            raise self.refuse(f"Conv of a weight of shape {weight.shape} and values of shape {chain.shape} is not read")
        if any(not layer.convolves for layer in chain.layers) or (not chain.layers and chain.shape != chain.picture):
            raise self.refuse("Conv of what is not the picture or the board of the task is not read")
        strides, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0, 0, 0, 0])
        plain = (
            attributes.get("dilations", [1, 1]) == [1, 1]
            and attributes.get("group", 1) == 1
            and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
            and attributes.get("kernel_shape", list(weight.shape[2:])) == list(weight.shape[2:])
        )
        if not plain or not strides or strides != strides[:1] * 2 or not pads or pads != pads[:1] * 4:
            raise self.refuse("only convolutions with one stride and one padding, without dilation, are read")
        stride, pad = strides[0], pads[0]
        if not 1 <= stride <= LARGEST_STEP or not 0 <= pad <= LARGEST_STEP:
            raise self.refuse(f"Conv with a stride of {stride} and a padding of {pad} is not read")
        sizes = [(size + 2 * pad - k) // stride + 1 for size, k in zip(chain.shape[1:], weight.shape[2:], strict=True)]
        if min(sizes) < 1:
            raise self.refuse(f"Conv of {chain.shape} by a kernel of {weight.shape[2:]} gives nothing")
        named, bias = None, np.zeros(len(weight))
        if len(node.input) > 2 and node.input[2]:
            bias, named = self.numbers(chain, node.input[2]), self.file.origin(node.input[2])
            if bias.shape != weight.shape[:1]:
                raise self.refuse(f"Conv with a bias of shape {bias.shape} is not read")
        names = (self.file.origin(node.input[1]), named)
        chain.layers.append(Layer(_tensor(weight), _tensor(bias), names, None, stride, pad))
        chain.shape = (len(weight), *sizes)

    def _activate(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        kind = "Silu" if node.op_type == "Mul" else node.op_type
        if kind in _ALPHA:
            alpha = attributes.get("alpha", _ALPHA[kind])
            if not math.isclose(alpha, _ALPHA[kind], rel_tol=1e-6):
                raise self.refuse(f"{kind} with alpha={alpha:g} is not read; {_ALPHA[kind]:g} is")
        if attributes.get("approximate", b"none") != b"none":
            raise self.refuse("Gelu that is approximated is not read")
        if not chain.layers or chain.layers[-1].activation is not None or chain.bound or chain.scores or chain.mask:
            raise self.refuse(f"{kind} that does not follow a layer is not read")
        chain.layers[-1] = chain.layers[-1]._replace(activation=_ACTIVATIONS[kind])

    def _affine(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        """Numbers that are added or multiplied: of the input they are statistics, of a layer they are its own."""
        kind = node.op_type
        place = 0 if not self.file.depends(node.input[0]) - {MASK} else 1
        name = node.input[place]
        if not self.file.fixed(name):
            return self._masked(chain, kind, place, name)
        numbers = self.numbers(chain, name)
        if kind == "Div" and (place == 0 or (numbers == 0).any()):
            raise self.refuse("a division by what the policy computes, or by 0, is not read")
        if chain.bound is not None:
            thirds = kind == "Div" and numbers.size == 1 and float(numbers.reshape(-1)[0]) == 3.0 and numbers.ndim < 3
            if chain.thirds or chain.bound != (-3.0, 3.0) or not thirds:
                raise self.refuse(f"{kind} after the bounds of an action is not read")
            chain.thirds = True
            return None
        if chain.scores is not None or chain.mask:
            raise self.refuse(f"{kind} after the choice of an action is not read")
        scale, shift = np.ones(1), np.zeros(1)
        if kind in ("Mul", "Div"):
            scale = numbers if kind == "Mul" else 1 / numbers
        else:
            shift = -numbers if kind == "Sub" and place == 1 else numbers
            scale = -scale if kind == "Sub" and place == 0 else scale
        if chain.layers:
            return self._fold(chain, scale, shift, name, kind)
        return self._normalise(chain, scale, shift, numbers, name)

    def _normalise(self, chain: Chain, scale: Array, shift: Array, numbers: Array, name: str) -> None:
        shape = chain.shape
        whole = numbers.ndim <= len(shape) + 1 and (numbers.size == 1 or numbers.shape in (shape, (1, *shape)))
        if not whole or math.isfinite(chain.clip):
            raise self.refuse(f"{name!r} of shape {numbers.shape} before the first layer is not read")
        scale, shift = scale.reshape(-1), shift.reshape(-1)
        chain.scale = scale if chain.scale is None else chain.scale * scale
        chain.shift = shift if chain.shift is None else chain.shift * scale + shift
        chain.statistics.append(self.file.origin(name))
        if not np.isfinite(chain.scale).all() or not np.isfinite(chain.shift).all():
            raise self.refuse("the numbers before the first layer are too large")

    def _fold(self, chain: Chain, scale: Array, shift: Array, name: str, kind: str) -> None:
        """One vector that is added is the bias of a layer without one; else one number for all is read."""
        last = chain.layers[-1]
        if last.activation is not None or last.convolves or len(chain.shape) != 1:
            raise self.refuse(f"{kind} after an activation or a convolution is not read")
        if scale.size != 1 or (shift.size != 1 and (kind != "Add" or last.names[1] is not None)):
            raise self.refuse(f"{kind} of several numbers after a layer with a bias is not read")
        gain, more = (_tensor(self._spread(values, last.outputs, kind)) for values in (scale, shift))
        own = last.names[1] is None and kind == "Add"
        names = (last.names[0], self.file.origin(name)) if own else last.names
        weight, bias = last.weight * gain.view(-1, 1), last.bias * gain + more
        if not weight.isfinite().all() or not bias.isfinite().all():
            raise self.refuse(f"{kind} by {name!r} gives numbers that are too large")
        chain.layers[-1] = last._replace(weight=weight, bias=bias, names=names)

    def _clip(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        ends = [float(attributes.get("min", -math.inf)), float(attributes.get("max", math.inf))]
        for i, name in enumerate(node.input[1:]):
            if name:
                values = self.numbers(chain, name)
                if values.size != 1:
                    raise self.refuse("Clip by several numbers is not read")
                ends[i] = float(values.reshape(-1)[0])
        low, high = ends
        if not low < high or chain.scores is not None or chain.bound is not None or chain.mask:
            raise self.refuse(f"Clip to {low:g} and {high:g} after another one, or after a choice, is not read")
        if not chain.layers:
            if low != -high or not math.isfinite(high) or math.isfinite(chain.clip):
                raise self.refuse(f"observations that are clipped to {low:g} and {high:g} are not read")
            chain.clip = high
        elif chain.layers[-1].activation is None:
            chain.bound = (low, high)
        elif chain.layers[-1].activation != "tanh" or low > -1 or high < 1:
            raise self.refuse("Clip after an activation is not read")

    def _order(self, chain: Chain, node: Any, attributes: dict[str, Any]) -> None:
        """Softmax and argmax over all outputs, which change no order."""
        kind = node.op_type
        if not self.actions or not chain.layers or chain.bound is not None or chain.chosen or len(chain.shape) != 1:
            raise self.refuse(f"{kind} is read at the end of discrete actions only")
        usual = 0 if kind == "ArgMax" else 1 if self.file.opset < 13 else -1
        if attributes.get("axis", usual) not in (1, -1) or attributes.get("select_last_index", 0):
            raise self.refuse(f"{kind} along another axis than that of actions, or of the last of equals, is not read")
        if kind != "ArgMax" and chain.scores is not None:
            raise self.refuse(f"{kind} after another choice is not read")
        if chain.scores is None:
            chain.scores = next(name for name in node.input if name)
        if kind == "ArgMax":
            chain.chosen = True
            chain.shape = (1,) if attributes.get("keepdims", 1) else ()

    def _masked(self, chain: Chain, kind: str, place: int, name: str) -> None:
        """What ML-Agents does with forbidden actions: logits * mask, then less a large number where it is 0."""
        last = chain.layers[-1] if chain.layers else None
        count = self.actions
        if not count or last is None or last.activation is not None or chain.shape != (count,):
            raise self.refuse("masks are read at the end of discrete actions only")
        if chain.bound is not None or chain.scores is not None:
            raise self.refuse("masks after the choice of an action are not read")
        given = np.concatenate([np.ones((1, count)), np.eye(count), np.random.default_rng(0).random((32, count)) < 0.5])
        found = self._of_mask(chain, name, given)
        free = given == 1
        if found.shape != given.shape:
            raise self.refuse("masks of another shape than the actions are not read")
        lost = {"Sub": found, "Add": -found}.get(kind) if place == 1 or kind == "Add" else None
        if kind == "Mul" and chain.mask == 0 and np.array_equal(found, given):
            chain.mask = 1
        elif lost is not None and (lost[free] == 0).all() and (lost[~free] >= BLOCKED).all():
            chain.mask = 2
        else:
            raise self.refuse(f"{kind} with masks that does not forbid actions is not read")

    def _of_mask(self, chain: Chain, name: str, given: Array) -> Array:
        """What the file computes of masks (K, A), by single numbers and slices, run by onnxruntime."""
        waiting, seen = [name], {MASK}
        while waiting:
            if (at := waiting.pop()) in seen:
                continue
            seen.add(at)
            if not self.file.fixed(at):
                node = self.file.producers[at]
                self._checked(node)
                if node.op_type not in MASKING:
                    raise self.refuse(f"{printable(node.op_type)} of masks is not read")
                waiting += filter(None, node.input)
            elif self.numbers(chain, at).size != 1:
                raise self.refuse("masks with several numbers are not read")
        session = self.file.session([MASK], [name])
        return np.concatenate([session.run([name], {MASK: row[None].astype(np.float32)})[0] for row in given])


def _tensor(values: Array) -> torch.Tensor:
    with np.errstate(over="ignore"):
        found = torch.from_numpy(np.ascontiguousarray(values, np.float32).copy())
    if not found.isfinite().all():
        raise GraftError("The file's layers have numbers that are not finite in float32.")
    return found
