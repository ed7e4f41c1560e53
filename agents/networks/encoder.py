"""Base class of encoders, which are built by name, frozen in part, and transplanted by channel name."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Self, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from graft.agents.networks.activation import layer_gains
from graft.agents.networks.normaliser import Normaliser, normalisers
from graft.envs.core.parts import modules_of
from graft.envs.core.registry import Registry
from graft.envs.core.schema import ObservationSchema
from graft.errors import GraftError, shown, unknown


class Stem(NamedTuple):
    """A tensor indexed by observation names: index ``j * group + k`` of dimension ``dim`` of the parameter ``name``
    belongs to ``names[j]``, of the observation or of its parts.

    ``attributes`` are those of the names. ``board``: shape of a name's values, where ``group`` counts their cells.
    ``dim`` 0: the parameter holds observation statistics. ``within``: it belongs to a part of the observation, whose
    features another stem reads.
    """

    name: str
    group: int
    names: tuple[str, ...]
    attributes: tuple[tuple[str, ...], ...]
    board: tuple[int, ...] = ()
    dim: int = 1
    within: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stem:
        attributes = tuple(map(tuple, data["attributes"]))
        return cls(**{**data, "names": tuple(data["names"]), "attributes": attributes, "board": tuple(data["board"])})

    @classmethod
    def of(cls, name: str, group: int, schema: ObservationSchema, dim: int = 1) -> Stem:
        return cls(name, group, schema.names, schema.attributes, schema.shape[1:], dim)


class Encoder(nn.Module):
    """Observation -> features: a chain of blocks, of which the first few may be frozen.

    A subclass sets ``blocks`` (from the input up), ``out_dim`` and ``stems``. Its constructor takes the observation
    schema, then keyword options with defaults, which an experiment's config may set.
    """

    kinds: tuple[str, ...] = ()  # observation kinds it accepts
    least: int = 1  # the fewest rows and columns of a picture or a board
    default_for: tuple[str, ...] = ()  # observation kinds whose default encoder it is, where they are large enough

    blocks: nn.ModuleList
    out_dim: int
    stems: tuple[Stem, ...]
    highest: float = 1.0  # what raw observations are divided by: see `highest`

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self.frozen_blocks = 0
        self.holds_statistics: bool | None = None

    def scale(self, obs: torch.Tensor) -> torch.Tensor:
        """Raw observations -> float input of the first block, same shape."""
        return obs.float() if self.highest == 1.0 else obs.float() / self.highest

    def prefix(self, obs: torch.Tensor, depth: int) -> torch.Tensor:
        """Output of the first ``depth`` blocks on raw observations (N, *obs_shape); depth 0 gives these."""
        if depth == 0:
            return obs
        hidden = self.scale(obs)
        for block in self.blocks[:depth]:
            hidden = block(hidden)
        return hidden

    def suffix(self, hidden: torch.Tensor, depth: int) -> torch.Tensor:
        """Features (N, out_dim) from the output of `prefix` at the same depth."""
        if depth == 0:
            hidden = self.scale(hidden)
        for block in self.blocks[depth:]:
            hidden = block(hidden)
        return hidden

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Features (N, out_dim) of raw observations (N, *obs_shape)."""
        return self.suffix(obs, 0)

    def freeze(self, depth: int | None = None) -> None:
        """Freeze the first ``depth`` blocks (None: all; GraftError for too many): no gradients, always eval mode."""
        depth = len(self.blocks) if depth is None else depth
        if not 0 <= depth <= len(self.blocks):
            raise GraftError(
                f"depth {depth} is not allowed; this encoder has 0 to {len(self.blocks)} blocks to freeze."
            )
        self.frozen_blocks = depth
        for index, block in enumerate(self.blocks):
            block.requires_grad_(index >= depth)
        self.train(self.training)

    def copy_freezing(self, other: Encoder) -> None:
        """Freeze what is frozen in ``other``, an encoder of the same architecture."""
        self.frozen_blocks = other.frozen_blocks
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            mine.requires_grad_(theirs.requires_grad)

    def hold_statistics(self, hold: bool = True) -> None:
        """Keep running statistics (modules with buffers stay in eval mode) although their blocks train, except those of
        observations that were never seen.

        False: observation statistics (`Normaliser`) are updated, also in frozen blocks. Default: where blocks train.
        """
        self.holds_statistics = hold
        self.train(self.training)

    def show_only(self, names: Collection[str]) -> None:
        """From now on count no observation statistics of features but those of these observation names."""
        for stem in self.stems:
            path, _, kind = stem.name.rpartition(".")
            if kind == "running_count":
                absent = torch.tensor([name not in names for name in stem.names]).repeat_interleave(stem.group)
                normaliser = self.get_submodule(path)
                assert isinstance(normaliser, Normaliser)
                normaliser.absent.copy_(absent)

    def train(self, mode: bool = True) -> Self:
        """As in torch, but frozen blocks stay in eval mode, so that their statistics are kept."""
        super().train(mode)
        for block in self.blocks[: self.frozen_blocks]:
            block.eval()
        if self.holds_statistics:
            for module in self.modules():
                unused = isinstance(module, Normaliser) and not module.running_count.any()
                if next(module.buffers(recurse=False), None) is not None and not unused:
                    module.eval()
        elif self.holds_statistics is False:
            for normaliser in normalisers(self):
                normaliser.train(mode)
        return self

    def gains(self) -> dict[nn.Module, float]:
        """Layer -> gain of its orthogonal weights, for the layers that an activation function follows."""
        return layer_gains(self)

    @property
    def unread(self) -> tuple[str, ...]:
        """Prefixes of parameters without effect, because the weights that read their outputs are zero."""
        return ()

    @property
    def still_blocks(self) -> int:
        """How many blocks, from the input up, do not change in training unless they are unfrozen."""
        return 0 if self.holds_statistics is False and normalisers(self) else self.frozen_blocks


ENCODERS: Registry[type[Encoder]] = Registry("encoder", "graft.agents.networks.encoders", Encoder, "graft.encoders")


PIXEL = 255.0  # the highest value of a pixel


def highest(schema: ObservationSchema) -> float:
    """What an encoder divides observations by: pixels become numbers from 0 to 1, others stay."""
    return PIXEL if schema.kind == "pixels" else 1.0


def encoders_for(schema: ObservationSchema) -> list[str]:
    """Names of the encoders that take such observations, the default one first; every kind has one at any size.

    The default is one of Graft's, whatever other distributions offer.
    """
    schema = schema.plain
    fitting = {name: encoder for name, encoder in ENCODERS.items() if fits(encoder, schema)}
    return sorted(fitting, key=lambda n: schema.kind not in fitting[n].default_for or bool(modules_of(fitting[n])))


def fits(encoder: type[Encoder], schema: ObservationSchema) -> bool:
    """Whether the encoder takes such observations."""
    return schema.kind in encoder.kinds and min(schema.shape[1:], default=encoder.least) >= encoder.least


def build_encoder(name: str, schema: ObservationSchema, options: Mapping[str, Any]) -> Encoder:
    """The encoder ``name``; raises GraftError for an unknown name or option, a wrong type, or an unfit observation."""
    kind, schema = ENCODERS[name], schema.plain  # flags of forbidden actions are for the policy head
    if not fits(kind, schema):
        raise GraftError(
            f"Encoder '{name}' cannot take a {schema.kind} observation of shape {schema.shape}; "
            f"allowed here: {', '.join(encoders_for(schema))}."
        )
    allowed, types = list(inspect.signature(kind).parameters)[1:], get_type_hints(kind.__init__)
    checked = {}
    for option, value in options.items():
        if option not in allowed:
            raise unknown(f"option of encoder {name}", option, allowed)
        try:
            checked[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise GraftError(f"encoder {name}: {option}={shown(value)} is not allowed: {reason}.") from error
    return kind(schema, **checked)


def has_option(name: str, option: str) -> bool:
    """Whether the encoder ``name`` takes the option."""
    return option in inspect.signature(ENCODERS[name]).parameters


def default_encoder(schema: ObservationSchema) -> str:
    """Name of the default encoder for such observations."""
    return encoders_for(schema)[0]
