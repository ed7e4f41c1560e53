"""Several methods composed into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import permutations
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.backend import Batch, Grads
from graft.agents.training.rollouts import Rollouts
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import (
    METHODS,
    PART,
    Built,
    CarriedPart,
    Consolidated,
    FromSource,
    State,
    Step,
    TaskPosition,
    TransferMethod,
    changed_options,
    label,
    parse_method,
)
from graft.transfer.methods.finetune import Finetune
from graft.transfer.state import group, named, without


def _parsed(entries: Any) -> Any:
    return tuple(map(parse_method, entries)) if isinstance(entries, list | tuple) else entries


@METHODS.register("chain")
@dataclass(frozen=True, kw_only=True)
class Chain(TransferMethod):
    """Methods composed in the order given, as in optax's chain: each gets the gradients that the one before it made.

    At most one may build the network in its own way; a transplant option (``heads``, ``rename`` ...) of one holds for
    all. Methods that watch the source's loss come first, and those that zero gradients last. Without members it is
    plain fine-tuning.

    Attributes:
        methods: the members, in a config ``chain: [{frozen: {depth: 1}}, {replay: {strength: 2}}]``.
    Raises:
        GraftError: members that contradict each other.
    """

    methods: Annotated[tuple[TransferMethod, ...], BeforeValidator(_parsed)] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", _parsed(self.methods))
        super().__post_init__()
        for member in self.methods:
            if not member.uses_source or isinstance(member, Chain) or "races" in member.words():
                raise GraftError(f"{label(member)} cannot be part of a chain; list methods that use a source.")
        builders = [m for m in self.methods if _builds(m)]
        if len(builders) > 1:
            raise GraftError(f"{' and '.join(map(label, builders))} contradict each other: both build the network.")
        for first, second in permutations(self.methods, 2):
            for why in (why for word, why in first.conflicts.items() if word in second.words()):
                raise GraftError(f"{label(first)} and {label(second)} contradict each other: the first {why}.")
        object.__setattr__(self, "states", max((m.states for m in self.methods), default=0))
        assert self.members is not None  # raises where options contradict each other

    def words(self) -> frozenset[str]:
        return frozenset().union(*(m.words() for m in self.methods))

    @cached_property
    def members(self) -> tuple[TransferMethod, ...]:
        """The methods in the order in which they act, all with the transplant options that any of them was given."""
        shared: dict[str, Any] = {}
        for member in self.methods:
            for name, value in changed_options(member).items():
                if name in TRANSPLANT and shared.setdefault(name, value) != value:
                    raise GraftError(f"{label(self)}: {name} is both {shared[name]} and {value}; give it once.")
        builder = next((m for m in self.methods if _builds(m)), None)
        for name in shared:
            if builder is not None and name not in _options(builder):
                raise GraftError(f"{label(self)}: {label(builder)} builds the network, and takes no '{name}'.")
        members = [replace(m, **{n: v for n, v in shared.items() if n in _options(m)}) for m in self.methods]
        return tuple(sorted(members or [Finetune()], key=_order))

    def overrides(self, hook: str) -> bool:
        return any(member.overrides(hook) for member in self.members)

    def check(self, source: Schemas) -> None:
        for member in self.members:
            member.check(source)

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        return self._builder.build(source, target, architecture, seed)

    def alternatives(
        self, source: Checkpoint, target: Schemas, architecture: NetworkConfig
    ) -> Mapping[str, TransferMethod]:
        """Those of what builds the network, and for all members alike."""
        methods = self.methods or self.members
        possible = self._builder.alternatives(source, target, architecture)
        return {
            heads: replace(
                self, methods=tuple(replace(m, **{"heads": heads} if "heads" in _options(m) else {}) for m in methods)
            )
            for heads in possible
        }

    def carry_critics(self, source: Checkpoint, network: PolicyNetwork, seed: int) -> CarriedPart:
        return self._builder.carry_critics(source, network, seed)

    def carry_transitions(self, source: Checkpoint, network: PolicyNetwork) -> CarriedPart:
        return self._builder.carry_transitions(source, network)

    @property
    def _builder(self) -> TransferMethod:
        return next((m for m in self.members if _builds(m)), self.members[0])

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """Each member's state, under its number; while the source is learned, of members that watch it."""
        state: dict[str, torch.Tensor] = {} if source is not None else {WATCHING: torch.tensor(True)}
        for i, member in self._acting(state):
            own = source
            if source is not None:
                own = replace(source, parts={**source.parts, PART: _part(source.parts.get(PART, {}), i)})
            state |= named(i, member.init(network, own), "/")
        return state

    def _acting(self, state: State) -> list[tuple[int, TransferMethod]]:
        """The members, numbered; while the source is learned, only those that watch it."""
        return [(i, m) for i, m in enumerate(self.members) if WATCHING not in state or m.watches_source]

    def rates(self, network: PolicyNetwork, state: State) -> Mapping[str, float]:
        rates: dict[str, float] = {}
        for i, member in self._acting(state):
            for name, rate in member.rates(network, _part(state, i)).items():
                rates[name] = rates.get(name, 1.0) * rate
        return rates

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        penalty, after = None, dict(state)
        for i, member in self._acting(state):
            grads, own, added = member.gradients(grads, network, _part(state, i), batch)
            after = _with_part(after, i, own)
            penalty = added if penalty is None else penalty if added is None else penalty + added
        return Step(grads, after, penalty)

    def schedule(self, network: PolicyNetwork, state: State, progress: float) -> State:
        after = dict(state)
        for i, member in self._acting(state):
            after = _with_part(after, i, member.schedule(network, _part(state, i), progress))
        return after

    def finish(self, network: PolicyNetwork, state: State) -> PolicyNetwork:
        for i, member in enumerate(self.members):
            network = member.finish(network, _part(state, i))
        return network

    def measures(self, state: State) -> Mapping[str, float]:
        return {
            tag: value
            for i, member in enumerate(self.members)
            for tag, value in member.measures(_part(state, i)).items()
        }

    def remarks(self, state: State) -> Sequence[str]:
        return [remark for i, member in enumerate(self.members) for remark in member.remarks(_part(state, i))]

    def lasting(self, state: State) -> State:
        after = dict(state)
        for i, member in enumerate(self.members):
            after = _with_part(after, i, member.lasting(_part(state, i)))
        return after

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        """Through all members, each with as many states as it asks for."""
        after: dict[str, torch.Tensor] = {}
        for i, member in enumerate(self.members):
            shown = rollouts.evenly(member.states, member.unroll_states)
            network, own = member.consolidate(network, _part(state, i), shown, where)
            after |= named(i, own, "/")
        return Consolidated(network, after)

    @property
    def unroll_states(self) -> int:
        return max(member.unroll_states for member in self.members)

    @property
    def critic_warmup(self) -> float:
        return max(member.critic_warmup for member in self.members)

    @property
    def learning_rate_limit(self) -> float | None:
        return self._builder.learning_rate_limit

    @property
    def retraining(self) -> int:
        return max(member.retraining for member in self.members)

    @property
    def shares_heads(self) -> bool:
        return any(member.shares_heads for member in self.members)

    def with_shared_heads(self) -> TransferMethod:
        return replace(self, methods=tuple(m.with_shared_heads() for m in self.methods or self.members))

    def view(self, network: PolicyNetwork, state: State, task: int) -> PolicyNetwork:
        for i, member in reversed(list(enumerate(self.members))):
            network = member.view(network, _part(state, i), task)
        return network


def _options(method: TransferMethod) -> set[str]:
    return {option.name for option in fields(method)}


def _order(method: TransferMethod) -> tuple[bool, bool]:
    return not method.watches_source, "zeroes_gradients" in method.words()


def _builds(method: TransferMethod) -> bool:
    """Whether it has a `build` of its own, other than the plain transplant."""
    return type(method).build is not FromSource.build


TRANSPLANT = {option.name for option in fields(FromSource)}

WATCHING = "watching"
"""In the state while the source is being learned."""


def _part(state: State, i: int) -> State:
    """The state of member i."""
    return group(state, i, "/")


def _with_part(state: State, i: int, part: State) -> dict[str, torch.Tensor]:
    """``state`` with ``part`` as the state of member i."""
    return without(state, i, "/") | named(i, part, "/")
