"""Base class of transfer methods, the hooks that they may override, and their registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.algorithm import NotNegative, Positive
from graft.agents.training.backend import Batch, Grads
from graft.agents.training.rollouts import Rollouts
from graft.envs.core.options import build_options
from graft.envs.core.registry import Registry
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.transplant import NewChannels, carried_critics, carried_transitions, heads_fit, transplant
from graft.transfer.transplant_report import TensorRow, TransplantReport

State = Mapping[str, torch.Tensor]
"""What a method remembers: tensors by name, so that a checkpoint can hold them."""


Heads = Literal["auto", "fresh", "by_name", "shared"]


class Built(NamedTuple):
    """A network ready to train on the target, and what was carried into it (None where nothing was to be)."""

    network: PolicyNetwork
    report: TransplantReport | None


class CarriedPart(NamedTuple):
    """A part of the source's checkpoint for the target's training, such as critics (`CriticState`) or transitions
    (`TransitionTensors`), and its rows of the report; both empty where there is nothing to carry.
    """

    tensors: State
    rows: tuple[TensorRow, ...]


NOTHING = CarriedPart({}, ())


class Step(NamedTuple):
    """Gradients to train with, the method's new state, and the value, a scalar, of the penalty whose gradient was added
    (None where there is none or it was not computed).
    """

    grads: Grads
    state: State
    penalty: torch.Tensor | None = None


class TaskPosition(NamedTuple):
    """Index of a task in its sequence, 0 = the first, and how many tasks there will be."""

    task: int
    tasks: int


class Consolidated(NamedTuple):
    """After the end of a task: the network to go on with, and the method's state."""

    network: PolicyNetwork
    state: State


@dataclass(frozen=True, kw_only=True)
class TransferMethod:
    """How knowledge is carried over; the fields of a subclass are its options in a config.

    Every function but `build` defaults to plain training. `TransferSession` calls `build` and `init`; `rates`,
    `schedule`, `gradients` and `measures` during training; `finish`, `lasting` and `remarks` after it; and, where
    another task follows, `consolidate` before the next `build`. Checkpoints hold the state as the part `PART`.
    """

    uses_source: ClassVar[bool] = True
    """False for controls that never see the source: they are trained once, whatever the source."""

    states: ClassVar[int] = 0
    """States of an ended task that `consolidate` is given."""

    provides: ClassVar[frozenset[str]] = frozenset()
    """Properties that other code asks for. Any word is allowed; these have a meaning:

    - ``control``: every experiment runs it without being asked. ``baseline``: all others are compared with it.
    - ``watches_source``: its hooks run while the source, or the first task of a sequence, is learned.
    - ``fresh_weights``: the network does not start as the source's weights under the source's names.
    - ``needs_source_weights``: its state is about these weights.
    - ``remembers_tasks``: it protects what earlier tasks depend on by its state.
    - ``zeroes_gradients``: it keeps weights from moving, so that its gradients must be the last ones.
    - ``rewrites_weights``: it changes weights by other means than gradients.
    - ``needs_task``: `view` differs between tasks even where they share their heads: the task must be known.
    - ``trains_again``: it has `retraining`.
    - ``races``: a stage tries several methods, and trains one of them (`experiments/stages/race.py`).
    - ``reference``: forgetting in a sequence is compared with that of this method.
    """

    conflicts: ClassVar[Mapping[str, str]] = {}
    """Property of another method -> why the two cannot be chained: what follows "the first ..."."""

    def __post_init__(self) -> None:
        """Check the options against their annotations."""
        kind: Any = type(self)  # a class is hashable, which mypy doubts of dataclasses
        for option, checker in _checkers(kind).items():
            try:
                checker.validate_python(getattr(self, option))
            except ValidationError as error:
                value, message = getattr(self, option), error.errors()[0]["msg"]
                why = f"{message[0].lower()}{message[1:]}"
                raise GraftError(f"{type(self).__name__}: {option}={value!r} is not allowed: {why}.") from error

    def __str__(self) -> str:
        return label(self)

    def overrides(self, hook: str) -> bool:
        """Whether the method has a ``hook`` of its own; others are not called."""
        return getattr(type(self), hook) is not getattr(TransferMethod, hook)

    def words(self) -> frozenset[str]:
        """Its properties under its options."""
        return self.provides | ({"trains_again"} if self.retraining else set())

    @property
    def critic_warmup(self) -> float:
        """As of `Hooks`, in transfers."""
        return 0.0

    @property
    def learning_rate_limit(self) -> float | None:
        """The most that the algorithm's learning rate may be in transfers; None: whatever it is."""
        return None

    @property
    def watches_source(self) -> bool:
        return "watches_source" in self.words()

    @property
    def baseline(self) -> bool:
        return "baseline" in self.words()

    def check(self, source: Schemas) -> None:
        """Raises GraftError where a method that watches its source cannot learn from such a task."""

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

    def alternatives(
        self, source: Checkpoint, target: Schemas, architecture: NetworkConfig
    ) -> Mapping[str, TransferMethod]:
        """By name, the methods that this one may become: of several, that whose network plays best before training.

        Args: as of `build`. Empty where there is nothing to decide.
        """
        return {}

    def carry_critics(self, source: Checkpoint, network: PolicyNetwork, seed: int) -> CarriedPart:
        """Of the source, for a target whose algorithm has critics beside the network; by default none.

        Args:
            network: as `build` made it. seed: as given to `build`.
        """
        return NOTHING

    def carry_transitions(self, source: Checkpoint, network: PolicyNetwork) -> CarriedPart:
        """Of the source, for a target whose algorithm has a replay buffer; by default none. ``network``: as above."""
        return NOTHING

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """The state before training: by default that of `consolidate`, from the source.

        Args:
            network: as `build` made it from ``source``; for a method that watches the source learn, a fresh one.
            source: None where there is none.
        """
        return {} if source is None else dict(source.parts.get(PART, {}))

    def rates(self, network: PolicyNetwork, state: State) -> Mapping[str, float]:
        """Parameter name -> factor of its learning rate, for those where it is not 1; ``state`` is that of `init`."""
        return {}

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        """Gradients to train with, from those of the algorithm's loss, before clipping."""
        return Step(grads, state)

    def schedule(self, network: PolicyNetwork, state: State, progress: float) -> State:
        """Called before each rollout with the share of the budget spent, in [0, 1)."""
        return state

    def finish(self, network: PolicyNetwork, state: State) -> PolicyNetwork:
        """The network to keep when training on a task has ended; a checkpoint must be able to build it again."""
        return network

    def measures(self, state: State) -> Mapping[str, float]:
        """What it measured of itself during training, tag -> number: every evaluation records it."""
        return {}

    def remarks(self, state: State) -> Sequence[str]:
        """What users should know when training on a task has ended, in sentences."""
        return ()

    def lasting(self, state: State) -> State:
        """What of the state outlives the training on a task; the rest is in snapshots, not in checkpoints."""
        return state

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        """Called at the end of a task.

        Args:
            network: as trained; it may be changed in place.
            rollouts: ``states`` states of the task under the trained policy, over whole episodes.
            where: which task of how many.
        """
        return Consolidated(network, state)

    @property
    def shares_heads(self) -> bool:
        """Whether one pair of heads serves every task; otherwise each task keeps its own."""
        return False

    def with_shared_heads(self) -> TransferMethod:
        """The same method with one pair of heads for every task; raises GraftError where it gives each its own."""
        if self.uses_source:
            raise GraftError(f"{label(self)} gives every task its own heads, so they cannot be shared.")
        return self

    @property
    def unroll_states(self) -> int:
        """States in a row that `consolidate` is given together."""
        return 1

    @property
    def retraining(self) -> int:
        """Env steps of training on the same task after `consolidate`, with the same hooks."""
        return 0

    def view(self, network: PolicyNetwork, state: State, task: int) -> PolicyNetwork:
        """The encoder as it serves the task of index ``task``, 0 = the first; its heads may be of another task."""
        return network


FRESH_WEIGHTS = {"needs_source_weights": "does not start from the source's weights, which the other is about"}
"""The conflicts of methods that provide ``fresh_weights``."""

PART = "method"
"""The part of a checkpoint that holds the state."""

_ARBITRARY = ConfigDict(arbitrary_types_allowed=True)


@cache
def _checkers(kind: type[Any]) -> dict[str, TypeAdapter[Any]]:
    """What checks each option; kept, as making one takes far longer than using it."""
    hints = get_type_hints(kind, include_extras=True)
    return {option.name: TypeAdapter(hints[option.name], config=_ARBITRARY) for option in fields(kind)}


@dataclass(frozen=True, kw_only=True)
class FromSource(TransferMethod):
    """Options of every method that starts from the source's weights.

    Attributes:
        heads: ``fresh`` heads; the source's, carried by action name (``by_name``); by default (``auto``) carried where
            they play clearly better than fresh ones before training, which an experiment finds by evaluating both
            (elsewhere: where they can be carried); or ``shared``: carried by name, and one pair of heads serves every
            task, so that what protects the encoder protects the policy head as well.
        new_channels: what an observation that the source never had starts from, see `transplant`.
        rename: target name -> name it had in the source, for observations and actions.
        strict: whether any loss in the transplant is an error.
        statistics: whether running statistics of observations (``normalise``) ``go_on`` or ``freeze``; by default
            they go on where the first block trains.
        critic_warmup: with ``sac``, how long only the critics train, so that fresh ones do not mislead the network:
            below 1 a share of the budget, else env steps, after the algorithm's ``learning_starts``. Carried heads
            come with the source's critics and temperature, and need none.
        carried_learning_rate: the most that the algorithm's learning rate may be where heads are carried and not
            shared: larger ones unlearn the behaviour before they improve it.
    """

    heads: Heads = "auto"
    new_channels: NewChannels = "attributes"
    rename: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    statistics: Literal["go_on", "freeze"] | None = None
    critic_warmup: NotNegative = 0.0
    carried_learning_rate: Positive = 5e-4

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """The source's network for the target's names; everything trains."""
        assert source is not None, "a method that uses a source is always given one"
        network, report = transplant(
            source,
            target,
            heads="by_name" if self._carries_heads(source, target, architecture) else "fresh",
            new_channels=self.new_channels,
            rename=self.rename,
            strict=self.strict,
            seed=seed,
            distribution=architecture.distribution,
        )
        if self.statistics is not None:
            network.encoder.hold_statistics(self.statistics == "freeze")
        return Built(network, report)

    def alternatives(
        self, source: Checkpoint, target: Schemas, architecture: NetworkConfig
    ) -> Mapping[str, TransferMethod]:
        if self.heads != "auto":
            return {}
        possible: list[Heads] = ["fresh", "by_name"] if self._carries_heads(source, target, architecture) else ["fresh"]
        return {heads: replace(self, heads=heads) for heads in possible}

    def _carries_heads(self, source: Checkpoint, target: Schemas, architecture: NetworkConfig) -> bool:
        if self.heads == "auto":
            return heads_fit(source, target, self.rename, self.strict, architecture.distribution)
        return self.heads != "fresh"

    def carry_critics(self, source: Checkpoint, network: PolicyNetwork, seed: int) -> CarriedPart:
        if not self._carries_heads(source, network.schemas, network.config):
            return NOTHING
        moved = carried_critics(source, network, new_channels=self.new_channels, rename=self.rename)
        return CarriedPart(*moved)

    def carry_transitions(self, source: Checkpoint, network: PolicyNetwork) -> CarriedPart:
        if not self._carries_heads(source, network.schemas, network.config):
            return NOTHING
        return CarriedPart(*carried_transitions(source, network.schemas, self.rename))

    @property
    def learning_rate_limit(self) -> float | None:
        return self.carried_learning_rate if self.heads in ("auto", "by_name") else None

    @property
    def shares_heads(self) -> bool:
        return self.heads == "shared"

    def with_shared_heads(self) -> TransferMethod:
        return replace(self, heads="shared")


METHODS: Registry[type[TransferMethod]] = Registry("method", "graft.transfer.methods", TransferMethod, "graft.methods")


def method_name(method: TransferMethod) -> str:
    """The name a method, or a class that it is derived from, is registered under; ``module:Class`` of one's own."""
    return METHODS.name_of(type(method))


def parse_method(entry: Any) -> TransferMethod:
    """A method from a config: ``frozen``, ``{frozen: {depth: 2}}``, or a list for a method with one option.

    Raises:
        GraftError: no such method or option (with the nearest valid name), or a value that is not allowed.
    """
    if isinstance(entry, TransferMethod):
        return entry
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise GraftError(f"A method is a name, or one name with its options, got {entry!r}.")
    name, options = next(iter(entry.items()))
    kind = METHODS[name]
    if isinstance(options, list) and len(fields(kind)) == 1:
        options = {fields(kind)[0].name: options}
    if not isinstance(options, Mapping | None):
        raise GraftError(f"A method is a name, or one name with its options, got {entry!r}.")
    return build_options(f"method {name}", kind, options or {})


def kinds_of(method: TransferMethod) -> list[type[TransferMethod]]:
    """Its class and those of methods among its options, such as the members of a chain."""
    values = [getattr(method, option.name) for option in fields(method)]
    inner = [value for entry in values for value in (entry if isinstance(entry, tuple | list) else [entry])]
    return [type(method), *(kind for value in inner if isinstance(value, TransferMethod) for kind in kinds_of(value))]


def _plain(value: Any) -> Any:
    if isinstance(value, TransferMethod):
        return to_json(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return dict(value) if isinstance(value, Mapping) else value


def to_json(method: TransferMethod) -> dict[str, Any]:
    """Its name and all its options as plain JSON values."""
    return {"name": method_name(method)} | {f.name: _plain(getattr(method, f.name)) for f in fields(method)}


def changed_options(method: TransferMethod) -> dict[str, Any]:
    """Its options that differ from their defaults."""
    defaults = {o.name: o.default if o.default_factory is MISSING else o.default_factory() for o in fields(method)}
    return {name: getattr(method, name) for name, default in defaults.items() if getattr(method, name) != default}


def label(method: TransferMethod) -> str:
    """Its name in tables and plots: ``finetune(heads=by_name)``; methods within it come with their own labels."""
    parts = []
    for name, value in changed_options(method).items():
        nested = isinstance(value, tuple) and all(isinstance(v, TransferMethod) for v in value)
        parts.append(", ".join(map(label, value)) if nested else f"{name}={value}")
    return f"{method_name(method)}({', '.join(parts)})" if parts else method_name(method)
