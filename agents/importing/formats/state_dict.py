"""Files of tensors, by ``torch.save`` or safetensors, with a mapping in YAML that says which tensor is what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from graft.agents.importing.files import load_safe, load_torch, plain_tensors, read_bytes
from graft.agents.importing.foreign import (
    WHOLE,
    ForeignPolicy,
    Kind,
    Statistics,
    Units,
    layer_at,
    numbered,
    parts_of,
    read_layers,
)
from graft.agents.importing.source import FORMATS, Format, Request
from graft.agents.networks.activation import Activation
from graft.errors import GraftError, some

SUFFIXES = (".pt", ".pth", ".safetensors")

Places = str | list[str]
"""Layers by name: a list, or the name of an ``nn.Sequential``, whose layers are taken in the order of their numbers."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Convolution(_Strict):
    """A convolution by the name of its layer."""

    place: str
    stride: Annotated[int, Field(ge=1, le=64)] = 1
    padding: Annotated[int, Field(ge=0, le=64)] = 0


class StatisticsNames(_Strict):
    """Tensors of observation statistics: ``var`` or ``std``; ``epsilon`` is added to the variance or the deviation."""

    mean: str
    var: str | None = None
    std: str | None = None
    epsilon: Annotated[float, Field(ge=0)] = 1e-8
    epsilon_of: Literal["variance", "deviation"] | None = None
    clip: Annotated[float, Field(gt=0)] | None = None


class Names(_Strict):
    """The file of ``--names``.

    Attributes:
        kind: of actions. policy, value: layers up to the output. trunk: those that both share, before them.
        convolutions: of a picture, before ``features``, their linear layers.
        log_std, std: a tensor of deviations that do not depend on the state. spread: the layer of those that do.
        activation: of the hidden layers; ``convolution_activation`` in convolutions and ``features``.
        units: whether means are in the environment's numbers (where None), or from -1 to 1 between its bounds; after
            a tanh they always are the latter.
        unused: beginnings of names of tensors that have no place in the network.
        library: which one the file is from.
    """

    kind: Kind
    policy: Places
    value: Places = []
    trunk: Places = []
    convolutions: list[Convolution] = []
    features: Places = []
    log_std: str | None = None
    std: str | None = None
    spread: str | None = None
    activation: Activation = "tanh"
    convolution_activation: Activation = "relu"
    units: Units | None = None
    pixels: Annotated[float, Field(gt=0)] = 255.0
    statistics: StatisticsNames | None = None
    unused: list[str] = []
    library: str | None = None


@FORMATS.register("state_dict")
class StateDict(Format):
    """Tensors by name: what ``torch.save(model.state_dict(), file)`` writes, also inside of other mappings."""

    def fits(self, request: Request) -> bool:
        return request.path.is_file() and (bool(request.names) or request.path.suffix in SUFFIXES)

    def read(self, request: Request) -> ForeignPolicy:
        what = str(request.path)
        names = parse_names(request)
        data = read_bytes(request.path)
        safe = request.path.suffix == ".safetensors"
        tensors = load_safe(data, what) if safe else plain_tensors(load_torch(data, what), what)
        return named_policy(tensors, names, request, what)


def parse_names(request: Request) -> Names:
    """The mapping of ``--names``; raises GraftError for keys or values that are not allowed."""
    if not request.names:
        raise GraftError(f"{request.path} holds tensors without saying what they are; give a mapping with --names.")
    try:
        return Names.model_validate(dict(request.names))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise GraftError(
            f"--names: {place[:80]}: {first['msg'][:200].lower()}; keys are {', '.join(Names.model_fields)}."
        ) from error


def named_policy(tensors: Mapping[str, Tensor], names: Names, request: Request, what: str) -> ForeignPolicy:
    """The policy that ``names`` find in ``tensors``; raises GraftError for tensors that are missing or left over."""
    if WHOLE not in parts_of(request.schemas.observation):
        raise GraftError("Observations of several parts are not read from a file of tensors.")
    if names.kind == "squashed" and names.units == "environment":
        raise GraftError(
            "--names: units: environment does not go with kind: squashed, whose tanh is scaled to the actions' bounds."
        )
    activation = request.activation or names.activation
    trunk = read_layers(tensors, _places(tensors, names.trunk), activation, last=True)
    extractor = [
        layer_at(tensors, c.place, names.convolution_activation, c.stride, c.padding) for c in names.convolutions
    ]
    extractor += read_layers(tensors, _places(tensors, names.features), names.convolution_activation, last=True)
    policy = ForeignPolicy(
        kind=names.kind,
        policy=read_layers(tensors, _places(tensors, names.policy), activation),
        value=read_layers(tensors, _places(tensors, names.value), activation),
        trunk=trunk,
        extractors={WHOLE: tuple(extractor)},
        log_std=_deviations(tensors, names),
        spread=None if names.spread is None else layer_at(tensors, names.spread, None),
        units=names.units or "environment",
        pixels=names.pixels,
        statistics={} if names.statistics is None else {WHOLE: _statistics(tensors, names.statistics)},
        origin={"library": names.library},
    )
    if not policy.policy:
        raise GraftError(f"--names: policy: {names.policy!r} names no layers of {what}.")
    used = policy.names()
    left = [name for name in tensors if name not in used]
    strange = [name for name in left if not name.startswith(tuple(names.unused))]
    if strange:
        raise GraftError(
            f"--names says nothing of {len(strange)} tensors of {what}, beginning with {strange[0]!r}; name them, or "
            f"list beginnings of their names under unused."
        )
    return replace(policy, unused=dict.fromkeys(left, "said to be unused (--names)"))


def _places(tensors: Mapping[str, Tensor], places: Places) -> list[str]:
    if isinstance(places, list):
        return places
    if f"{places}.weight" in tensors:
        return [places]
    if not (found := numbered(tensors, places)):
        raise GraftError(f"--names: the file has no layers {places}.0, {places}.1 ...; it has {some(tensors)}.")
    return found


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise GraftError(f"--names: the file has no tensor {name!r}; it has {some(tensors)}.")
    return tensors[name].flatten()


def _deviations(tensors: Mapping[str, Tensor], names: Names) -> tuple[str, Tensor] | None:
    if names.std is not None:
        std = _tensor(tensors, names.std)
        if not (std > 0).all():
            raise GraftError(f"Tensor {names.std!r} has deviations that are not above 0.")
        return names.std, std.log()
    return None if names.log_std is None else (names.log_std, _tensor(tensors, names.log_std))


def _statistics(tensors: Mapping[str, Tensor], names: StatisticsNames) -> Statistics:
    given = [name for name in (names.var, names.std) if name is not None]
    if len(given) != 1:
        raise GraftError("--names: statistics: give either var or std.")
    spread, mean = _tensor(tensors, given[0]).double(), _tensor(tensors, names.mean).double()
    if (spread < 0).any():
        raise GraftError(f"Tensor {given[0]!r} of the statistics is negative.")
    inside = (names.epsilon_of or ("variance" if names.var else "deviation")) == "variance"
    variance = spread if names.var else spread.square()
    divisor = (variance + names.epsilon).sqrt() if inside else variance.sqrt() + names.epsilon
    return Statistics(mean, divisor, names.clip or float("inf"), (names.mean, given[0]))
