"""The method seam: a frozen dataclass that says how knowledge is carried over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

from agents.backend import Batch, Grads
from agents.checkpoint import Checkpoint
from agents.network import NetworkConfig, PolicyNetwork
from envs.errors import GraftError
from envs.registry import Registry
from envs.schema import Schemas
from transfer.transplant import Heads, NewChannels, TransplantReport, transplant

State = Mapping[str, torch.Tensor]
"""What a method remembers: tensors by name, so that a checkpoint can hold them."""


class Built(NamedTuple):
    """A network ready to train on the target, and what was carried into it (None where nothing was to be)."""

    network: PolicyNetwork
    report: TransplantReport | None


@dataclass(frozen=True, kw_only=True)
class TransferMethod:
    """How knowledge is carried over; the fields of a subclass are its options in a config.

    Every function but `build` defaults to plain training.
    """

    uses_source: ClassVar[bool] = True
    """False for controls that never see the source: they are trained once, whatever the source."""

    control: ClassVar[bool] = False
    """True for a method that every experiment runs without being asked."""

    baseline: ClassVar[bool] = False
    """True for the one control that every other method is compared with."""

    def __post_init__(self) -> None:
        """Check the options against their annotations, however the method was made."""
        hints = get_type_hints(type(self), include_extras=True)
        for option in fields(self):
            try:
                TypeAdapter(hints[option.name]).validate_python(getattr(self, option.name))
            except ValidationError as error:
                value, message = getattr(self, option.name), error.errors()[0]["msg"]
                raise GraftError(
                    f"{type(self).__name__}: {option.name}={value!r} is not allowed: {message[0].lower()}{message[1:]}."
                ) from error

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """Surgery and freezing.

        Args:
            source: what to carry over; None where ``uses_source`` is False.
            target: schemas of the target task.
            architecture: of networks that are made from nothing.
            seed: of all fresh weights.
        Raises:
            GraftError: source and target do not fit, or the options do not fit the network.
        """
        raise NotImplementedError

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """What it must remember before training starts."""
        return {}

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Grads:
        """Gradients to train with, from those of the algorithm's loss, before clipping."""
        return grads

    def schedule(self, network: PolicyNetwork, state: State, progress: float) -> State:
        """Called before each rollout with the share of the budget spent, in [0, 1)."""
        return state

    def consolidate(self, network: PolicyNetwork, state: State, rollouts: Batch) -> State:
        """What it remembers of a task that ends, from states and actions of the trained policy on it.

        Of use in sequences of tasks; an experiment with one target per transfer has none.
        """
        return state

    def view(self, network: PolicyNetwork, state: State, task: int) -> PolicyNetwork:
        """The network as it serves the task of index ``task``, 0 = the first."""
        return network


@dataclass(frozen=True, kw_only=True)
class FromSource(TransferMethod):
    """Options of every method that starts from the source's weights.

    Attributes:
        heads: ``fresh`` heads, or the source's, carried by action name (``by_name``).
        new_channels: what an observation that the source never had starts from (`transfer.transplant.transplant`).
        rename: target name -> name it had in the source, for observations and actions.
        strict: whether any loss in the transplant is an error.
    """

    heads: Heads = "fresh"
    new_channels: NewChannels = "attributes"
    rename: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """The source's network for the target's names; everything trains."""
        assert source is not None, "a method that uses a source is always given one"
        return Built(
            *transplant(
                source,
                target,
                heads=self.heads,
                new_channels=self.new_channels,
                rename=self.rename,
                strict=self.strict,
                seed=seed,
            )
        )


METHODS: Registry[type[TransferMethod]] = Registry("method", "transfer.methods")


def method_name(method: TransferMethod) -> str:
    """The name a method is registered under."""
    return next(name for name, kind in METHODS.items() if kind is type(method))


def changed_options(method: TransferMethod) -> dict[str, Any]:
    """Its options that differ from their defaults."""
    changed = {}
    for option in fields(method):
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if getattr(method, option.name) != default:
            changed[option.name] = getattr(method, option.name)
    return changed


def label(method: TransferMethod) -> str:
    """Its name in tables and plots: ``finetune(heads=by_name)``."""
    options = ", ".join(f"{name}={value}" for name, value in changed_options(method).items())
    return f"{method_name(method)}({options})" if options else method_name(method)
