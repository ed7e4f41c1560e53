"""ONNX files of ML-Agents, Stable-Baselines3 and others: chains of Gemm, MatMul, Conv and activations, read back.

Nodes become layers one by one; what is not known ends with a sentence. The same nodes are run by onnxruntime for the
comparison with the network, so that a mistake of this reading would be seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast, get_args

import numpy as np
import torch

from graft.agents.importing.foreign import ForeignPolicy, Kind, Layer, Statistics, Units, parts_of
from graft.agents.importing.onnx_chain import MASK, Chain, ChainReader
from graft.agents.importing.onnx_file import OnnxFile
from graft.agents.importing.onnx_run import FLOAT, OnnxRun, declared
from graft.agents.importing.source import FORMATS, Format, Request
from graft.errors import GraftError, printable, some, unknown

OUTPUTS = {
    "box": ("deterministic_continuous_actions", "continuous_actions"),
    "discrete": ("deterministic_discrete_actions", "discrete_actions"),
    "multi": ("deterministic_discrete_actions", "discrete_actions"),
}
"""Outputs of ML-Agents by kind of action; else there must be one that is no value."""

VALUES = ("value", "values", "value_estimate")
KEYS = ("kind", "policy", "value", "units", "library")
UNUSED = "no part of the policy: the file computes other outputs with it"


@FORMATS.register("onnx")
class Onnx(Format):
    """``.onnx`` files; ``--names`` may hold ``policy`` and ``value`` (names of outputs), ``kind`` and ``units``."""

    def fits(self, request: Request) -> bool:
        return request.path.suffix == ".onnx"

    def read(self, request: Request) -> ForeignPolicy:
        request.words(KEYS)
        if request.activation is not None:
            raise GraftError("--activation is not for ONNX files: their graphs say which activations they have.")
        file = OnnxFile(request.path)
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused
                return _Reader(file, request).policy()
        except GraftError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise GraftError(f"{request.path} has a graph that is not understood ({type(error).__name__}).") from error


class _Reader:
    """Turns the graph of a policy into layers."""

    def __init__(self, file: OnnxFile, request: Request) -> None:
        self.file, self.request = file, request
        self.actions = request.schemas.action
        self.chains = ChainReader(file, len(self.actions.names) if self.actions.kind == "discrete" else 0)

    def policy(self) -> ForeignPolicy:
        names = self.request.names
        read = _Reading(self, self._output(names.get("policy")))
        kind, units = self._kind(read.chain, names.get("kind")), self._units(read.chain, names)
        bounded = self.actions.kind == "box" and read.chain.layers[-1].activation == "tanh"
        layers = self._action_layers(read.chain)
        value, why = self._value(names.get("value"), read)
        others, shared = value.chain.layers if value else [], 0
        for mine, theirs in zip(layers[:-1], others[:-1], strict=False):
            if not _same(mine, theirs):
                break
            shared += 1
        used = read.used | (value.used if value else set())
        unused = {name: why or UNUSED for name in self.file.tensors if name not in used}
        return ForeignPolicy(
            kind=kind,
            policy=tuple(layers[shared:]),
            value=tuple(others[shared:]),
            trunk=tuple(layers[:shared]),
            extractors=read.extractors,
            units=units,
            pixels=read.pixels,
            statistics=read.statistics,
            unused=unused,
            origin={"library": printable(names.get("library", "")) or self.file.producer_name or None},
            run=OnnxRun(self.file, self.request.schemas, read.inputs, read.chain, bounded, read.statistics),
        )

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Input of the graph -> part of the observation: by their names, or obs_0, obs_1 ... in the order of parts."""
        parts = parts_of(self.request.schemas.observation)
        given = [name for name in self.file.inputs if name != MASK]
        if len(parts) == 1:
            return dict.fromkeys(given, next(iter(parts)))
        if set(parts) <= set(given):
            return {name: name for name in parts}
        counted = [f"obs_{i}" for i in range(len(parts))]
        if set(counted) <= set(given) and not set(parts) & set(given):
            return dict(zip(counted, parts, strict=True))
        raise GraftError(
            f"The file's inputs ({some(given)}) are not the parts of the task's observation "
            f"({some(parts)}), and not obs_0, obs_1 ... in their order."
        )

    def _output(self, given: str | None) -> str:
        outputs = self.file.outputs
        if given is not None:
            if given not in outputs:
                raise unknown("output of the ONNX file", printable(given), outputs[:12])
            return given
        if usual := [name for name in OUTPUTS[self.actions.kind] if name in outputs]:
            return usual[0]
        others = [name for name in outputs if name not in VALUES and name != self.request.names.get("value")]
        if len(others) != 1:
            raise GraftError(f"The file has the outputs {some(outputs)}; say policy: NAME with --names.")
        return others[0]

    def _kind(self, chain: Chain, given: str | None) -> Kind:
        if given is not None and given not in get_args(Kind):
            raise unknown("kind", printable(str(given)), get_args(Kind))
        if self.actions.kind != "box":
            if self.actions.kind == "multi" and chain.scores is not None:
                raise GraftError("The file chooses among all outputs at once, the task's agent takes several choices.")
            return cast(Kind, given or "categorical")
        found: Kind = "squashed" if chain.layers[-1].activation == "tanh" else "gaussian"
        if given not in (None, found) and not (given == "squashed" and chain.bound is None):
            raise GraftError(f"kind is {given}, the file's output is that of {found}.")
        return cast(Kind, given or found)

    def _units(self, chain: Chain, names: Mapping[str, str]) -> Units:
        given, actions = names.get("units"), self.actions
        if given not in (None, *get_args(Units)):
            raise unknown("units", printable(str(given)), get_args(Units))
        if actions.kind != "box":
            if given is not None:
                raise GraftError("units are of box actions; the task has others.")
            return "environment"
        own = set(zip(actions.low, actions.high, strict=True))
        if chain.layers[-1].activation == "tanh" or names.get("kind") == "squashed" or chain.thirds:
            if given == "environment" and own != {(-1.0, 1.0)}:
                raise GraftError(
                    "The file's actions are from -1 to 1, and the task's bounds are others: units is scaled."
                )
            if not np.isfinite([*actions.low, *actions.high]).all():
                raise GraftError("The file's actions are from -1 to 1, the task's have no bounds.")
            return "scaled"
        bounds = {(-1.0, 1.0)} if given == "scaled" else own
        if chain.bound is not None and bounds != {chain.bound}:
            raise GraftError(
                f"The file clips actions to {chain.bound[0]:g} and {chain.bound[1]:g}, the task's bounds are others."
            )
        return cast(Units, given or "environment")

    def _action_layers(self, chain: Chain) -> list[Layer]:
        """Those of the policy, whose last tanh bounds an action."""
        last = chain.layers[-1]
        if last.convolves:
            raise GraftError("The file's policy ends with a convolution, which is not read.")
        if last.activation is not None and (last.activation != "tanh" or self.actions.kind != "box"):
            raise GraftError(f"{self.file.what}: {last.activation} ends the policy, which is not read.")
        layers = [*chain.layers[:-1], last._replace(activation=None)]
        if chain.thirds:
            layers[-1] = layers[-1]._replace(weight=last.weight / 3, bias=last.bias / 3)
        return layers

    def _value(self, given: str | None, policy: _Reading) -> tuple[_Reading | None, str]:
        """The value, where it reads observations as the policy does; else why it is left."""
        names = [given] if given is not None else [n for n in VALUES if n in self.file.outputs]
        if not names:
            return None, ""
        output = self._output(names[0])
        try:
            read = _Reading(self, output)
        except GraftError as error:
            if given is not None:
                raise
            return None, f"no part of the policy; the value is not read ({str(error)[:200]})"
        chain, why = read.chain, ""
        if chain.layers[-1].activation is not None or chain.bound is not None or chain.scores or chain.mask:
            why = "something follows the value's last layer"
        elif list(read.extractors) != list(policy.extractors) or not _same(policy.extractors, read.extractors):
            why = "the value's first layers are not the policy's"
        elif not _same(policy.statistics, read.statistics) or policy.pixels != read.pixels:
            why = "the value normalises observations otherwise than the policy"
        if why and given is not None:
            raise GraftError(f"{self.file.what}: {why}, which is not read.")
        return (None, why) if why else (read, "")


class _Reading:
    """What leads to one output.

    Attributes:
        chain: after the point where parts of the observation are joined. inputs: input -> part. extractors, statistics:
            by part, in the order in which they are joined. pixels: what pictures are divided by. used: tensors.
    """

    def __init__(self, reader: _Reader, output: str) -> None:
        self.reader, self.chains = reader, reader.chains
        self.extractors: dict[str, tuple[Layer, ...]] = {}
        self.statistics: dict[str, Statistics] = {}
        self.inputs: dict[str, str] = {}
        self._divided: set[float] = set()
        parts = parts_of(reader.request.schemas.observation)
        source, steps = self.chains.back(output)
        if source in reader.file.inputs:
            self.chain = self._from_input(output, source, steps)
            self.used = self.chain.used
            self._single(parts)
        else:
            self._joined(parts, output, source, steps)
        if not self.chain.layers:
            raise GraftError(f"Output {output!r} of the file has no layers after its inputs.")
        if set(self.inputs.values()) != set(parts) or len(self.inputs) != len(parts):
            raise GraftError(
                f"The file's policy reads {len(self.inputs)} inputs, the task's observation has {len(parts)} parts."
            )
        if len(self._divided) > 1:
            raise GraftError("The file scales its pictures in several ways, which is not read.")
        self.pixels = self._divided.pop() if self._divided else 255.0

    def _from_input(self, output: str, source: str, steps: list[tuple[str, Any]]) -> Chain:
        file = self.reader.file
        if source not in self.reader.inputs:
            raise GraftError(f"Input {source!r} of the file is no part of the task's observation.")
        part = self.reader.inputs[source]
        if source in self.inputs:
            raise GraftError(f"The file joins input {source!r} more than once, which is not read.")
        self.inputs[source] = part
        own = parts_of(self.reader.request.schemas.observation)[part].shape
        shape = declared(file, source, own)[1]
        chain = Chain(output, source, shape, tuple(own))
        chain.uint8 = file.inputs[source].type.tensor_type.elem_type != FLOAT
        return self.chains.forward(output, source, steps, chain)

    def _single(self, parts: Mapping[str, Any]) -> None:
        """Of an observation without parts: its convolutions and the linear layer after them come before the rest."""
        name = next(iter(parts))
        layers, count = self.chain.layers, sum(layer.convolves for layer in self.chain.layers)
        if count and len(layers) < count + 2:
            raise GraftError("Convolutions are read with a linear layer after them, before the output.")
        self.extractors[name] = tuple(layers[: count + 1]) if count else ()
        self.chain.layers = layers[count + 1 :] if count else layers
        self._note(name, parts[name], self.chain)

    def _joined(self, parts: Mapping[str, Any], output: str, joint: str, steps: list[tuple[str, Any]]) -> None:
        width, largest, self.used = 0, 1, set()
        for value in self.chains.branches(joint):
            source, before = self.chains.back(value)
            if source not in self.reader.file.inputs:
                raise GraftError("The file joins parts of its observation more than once, which is not read.")
            branch = self._from_input(value, source, before)
            if branch.bound or branch.scores or branch.mask or len(branch.shape) != 1:
                raise GraftError("The file joins parts of its observation that are not flat, or bounded.")
            if branch.layers and len({layer.activation for layer in branch.layers} | {None}) != 2:
                raise GraftError("The file's layers before parts are joined must have one activation, and all of them.")
            if any(layer.activation is None for layer in branch.layers):
                raise GraftError("The file has a layer without an activation before parts are joined.")
            name = self.inputs[source]
            self.extractors[name] = tuple(branch.layers)
            self._note(name, parts[name], branch)
            width, largest = width + branch.shape[0], max(largest, branch.largest)
            self.used |= branch.used
        self.chain = self.chains.forward(output, joint, steps, Chain(output, joint, (width,), (), largest))
        if self.chain.scale is not None or self.chain.shift is not None or math.isfinite(self.chain.clip):
            raise GraftError("The file has numbers between the joined parts and the first layer, which are not read.")
        self.used |= self.chain.used

    def _note(self, name: str, part: Any, branch: Chain) -> None:
        if part.kind == "pixels":
            self._divided.add(_pixels(branch))
        elif branch.scale is not None or branch.shift is not None or math.isfinite(branch.clip):
            self.statistics[name] = _statistics(branch, math.prod(part.shape))


def _same(mine: Any, theirs: Any) -> bool:
    """Equality of layers and of statistics, whose tensors are compared by their numbers."""
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(_same(mine[name], theirs[name]) for name in mine)
    if isinstance(mine, tuple):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    return torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else bool(mine == theirs)


def _pixels(branch: Chain) -> float:
    """What pictures are divided by."""
    if (branch.shift is not None and np.any(branch.shift != 0)) or math.isfinite(branch.clip):
        raise GraftError("The file shifts or clips its pictures, which is not read.")
    if branch.scale is None:
        return 1.0
    if branch.scale.size != 1 or branch.scale[0] <= 0:
        raise GraftError("The file scales its pictures by several numbers, or by 0, which is not read.")
    return float(1 / branch.scale[0])


def _statistics(branch: Chain, size: int) -> Statistics:
    """Of observations that become scale * x + shift."""
    scale = np.ones(1) if branch.scale is None else branch.scale
    shift = np.zeros(1) if branch.shift is None else branch.shift
    if {scale.size, shift.size} - {1, size} or (scale <= 0).any():
        raise GraftError("The file normalises observations by numbers of another size, or not above 0.")
    divisor = np.broadcast_to(1 / scale, (size,)).copy()
    mean = np.broadcast_to(-shift / scale, (size,)).copy()
    if not np.isfinite(divisor).all() or not np.isfinite(mean).all():
        raise GraftError("The file normalises observations by numbers that are too large.")
    names = tuple(dict.fromkeys(branch.statistics))
    return Statistics(torch.from_numpy(mean), torch.from_numpy(divisor), branch.clip, names)
