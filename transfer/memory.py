"""Base class of A-GEM, replay and CLEAR: a memory of states of earlier tasks, and of the policy's outputs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NEVER, Outputs, PolicyNetwork
from graft.agents.training.algorithm import Count
from graft.agents.training.rollouts import Rollouts
from graft.envs.core.schema import ObservationSchema, Schemas
from graft.errors import GraftError
from graft.transfer.divergence import evaluating, kl, policy_outputs, rows_of
from graft.transfer.method import Consolidated, FromSource, State, TaskPosition
from graft.transfer.state import Tensors, group, named
from graft.transfer.transplant import action_units, match_names

STATES = 10_000
"""The most states that are kept of a task."""

DRAWS = "draws"
"""Name in the state: how many minibatches were drawn, which seeds the next one."""

SEED = 0x5EED << 32


class Drawn(NamedTuple):
    """A minibatch of one task: raw observations (n, *obs_shape) and the stored policy's outputs, which actions it knew
    (A,), its heads by name (empty where all tasks share them), and the sizes of its choices, as in `ActionSchema`;
    the task's index, and which of its states they are (n,).
    """

    observations: torch.Tensor
    outputs: Outputs
    known: torch.Tensor
    heads: Mapping[str, torch.Tensor]
    sizes: tuple[int, ...]
    task: int
    rows: torch.Tensor


class Replayed(NamedTuple):
    """A minibatch of one task, and the outputs of the policy now and of the stored one, on the network's device.

    ``known``: (A,) the actions that the stored policy knew; None for all.
    """

    drawn: Drawn
    now: Outputs
    then: Outputs
    known: torch.Tensor | None


class _Heads(nn.Module):
    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor) -> Outputs:
        return self.network.heads(features)


@dataclass(frozen=True, kw_only=True)
class Memory(FromSource):
    """Fine-tuning with a memory of the tasks before: states, the policy's outputs there, and each task's policy head.

    The state holds, for every task k (a number), ``memory.<k>.observations`` (M, *obs_shape) in the environment's
    dtype, ``memory.<k>.action`` (M, A), ``memory.<k>.log_std`` (A,) or (M, A) of a box, ``memory.<k>.sizes`` of several
    choices at once, ``memory.<k>.known`` (A,), and, unless all tasks share their heads, ``heads.<k>.policy.*``; and
    ``draws``, the minibatches drawn so far.

    Attributes:
        memory: states kept of each task, chosen at random from the rollouts.
        batch: states drawn for each minibatch, with replacement, shared out evenly over the tasks.
    """

    memory: Annotated[int, Field(ge=1, le=STATES)] = STATES
    batch: Count = 256

    states: ClassVar[int] = STATES
    stored_heads: ClassVar[tuple[str, ...]] = ("policy.",)
    provides: ClassVar[frozenset[str]] = frozenset({"needs_source_weights", "remembers_tasks"})

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        """Store states of the task with the outputs of the policy in eval mode, on the CPU."""
        generator = torch.Generator().manual_seed(SEED + where.task)
        chosen = self.chosen(rollouts, generator)
        outputs = policy_outputs(network, rollouts.observations[chosen])
        kept = dict(state) | named(f"memory.{where.task}", self.stored(network, rollouts, chosen, outputs))
        kept.setdefault(DRAWS, torch.zeros((), dtype=torch.int64))
        if not self.shares_heads:
            own = network.state_dict()
            heads = {name: t.cpu().clone() for name, t in own.items() if name.startswith(self.stored_heads)}
            kept |= named(f"heads.{where.task}", heads)
        return Consolidated(network, kept)

    def chosen(self, rollouts: Rollouts, generator: torch.Generator) -> torch.Tensor:
        """Indices of the states to store, at random."""
        return torch.randperm(len(rollouts.observations), generator=generator)[: self.memory]

    def stored(self, network: PolicyNetwork, rollouts: Rollouts, chosen: torch.Tensor, outputs: Outputs) -> Tensors:
        """The memory of a task: of the states ``chosen``, which have these ``outputs``.

        Observations are stored without flags of forbidden actions: the outputs say which these are.
        """
        seen = network.split(rollouts.observations[chosen])[0]
        stored = {"observations": seen.cpu(), "action": outputs.action.cpu()}
        if outputs.log_std is not None:
            stored["log_std"] = outputs.log_std.cpu()
        stored["known"] = torch.ones(stored["action"].shape[1], dtype=torch.bool)
        if network.schemas.action.sizes:
            stored["sizes"] = torch.tensor(network.schemas.action.sizes)
        return stored

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """The source's memory in the layout of the target's observations and, where heads are shared, of its actions.

        Raises:
            GraftError: the source was not consolidated, or has heads of another distribution; or as of `aligned`.
        """
        state = dict(super().init(network, source))
        if source is None:
            return state
        if not tasks(state):
            raise GraftError(f"{type(self).__name__} needs a source that it has consolidated.")
        then, now = source.network.distribution, network.config.distribution
        if then != now:
            raise GraftError(
                f"{type(self).__name__} cannot compare policies of different distributions: the source's is "
                f"'{then or 'default'}', the target's '{now or 'default'}'; train both with the same algorithm."
            )
        for task in tasks(state):
            name = f"memory.{task}.observations"
            then_seen, now_seen = source.schemas.observation.plain, network.schemas.observation.plain
            state[name] = aligned(state[name], then_seen, now_seen, self.rename)
            if self.shares_heads:
                stored = _with_actions(group(state, f"memory.{task}"), source.schemas, network.schemas, self.rename)
                state |= named(f"memory.{task}", stored)
        return state

    def divergence(self, network: PolicyNetwork, state: State) -> tuple[torch.Tensor, State]:
        """Mean KL(stored policy || policy), a scalar in nats, on the next minibatch; and the state after the draw.

        The policy is the network's encoder in eval mode under the stored head of each state's task, which is constant,
        or under the network's own where all tasks share it.
        """
        replayed, state = self.replay(network, state)
        total = torch.zeros((), device=next(network.parameters()).device)
        for drawn, now, then, known in replayed:
            total = total + kl(then, now, network.config.distribution, known, drawn.sizes).sum()
        return total / self.batch, {**state, DRAWS: state[DRAWS] + 1}

    def replay(self, network: PolicyNetwork, state: State) -> tuple[list[Replayed], State]:
        """The next minibatch of every task under the policy of `divergence`, and the state with heads where it is."""
        device = next(network.parameters()).device
        state = _on_device(state, device)
        drawn = self._draw(state)
        observations = torch.cat([d.observations for d in drawn]).to(device)
        replayed = []
        with evaluating(network):
            features = network.encoder(observations).split([len(d.observations) for d in drawn])
            for d, hidden in zip(drawn, features, strict=True):
                known = d.known.to(device) if self.shares_heads else None
                now, then = _head_outputs(network, d.heads, hidden), _to_device(d.outputs, device)
                replayed.append(Replayed(d, now.without(_never(then)), then, known))
        return replayed, state

    def _draw(self, state: State) -> list[Drawn]:
        """The next minibatch by task, on the CPU; tasks take turns in having one state more than others."""
        stored, draws = tasks(state), int(state[DRAWS])
        generator = torch.Generator().manual_seed(SEED + draws)
        each, over = divmod(self.batch, len(stored))
        drawn = []
        for index, task in enumerate(stored):
            count = each + ((index + draws) % len(stored) < over)
            if count == 0:
                continue
            memory = group(state, f"memory.{task}")
            rows = self.rows(memory, count, generator)
            of_all = Outputs(memory["action"], memory.get("log_std"), torch.zeros(len(memory["action"])))
            outputs = rows_of(of_all, rows)
            heads = {} if self.shares_heads else group(state, f"heads.{task}")
            sizes = tuple(memory["sizes"].tolist()) if "sizes" in memory else ()
            drawn.append(Drawn(memory["observations"][rows], outputs, memory["known"], heads, sizes, task, rows))
        return drawn

    def rows(self, memory: Mapping[str, torch.Tensor], count: int, generator: torch.Generator) -> torch.Tensor:
        """Which states of a task's memory a minibatch of ``count`` consists of."""
        return torch.randint(len(memory["observations"]), (count,), generator=generator)


def tasks(state: State) -> list[int]:
    """Indices of the tasks in memory, ascending."""
    return sorted(int(name.split(".")[1]) for name in state if name.startswith("memory.") and name.endswith(".known"))


def aligned(
    observations: torch.Tensor, source: ObservationSchema, target: ObservationSchema, rename: Mapping[str, str]
) -> torch.Tensor:
    """Observations (N, *source.shape) in the target's layout (N, *target.shape), by name; zero where a name is new.

    Raises:
        GraftError: another kind of observation or size of board, or no name in common.
    """
    shared = [(old, new) for name, old in source.parts for other, new in target.parts if name == other]
    if source.kind != target.kind or any(a.shape[1:] != b.shape[1:] for a, b in shared or [(source, target)]):
        raise GraftError(
            f"Stored observations cannot be shown to the target: they are {source.kind} of shape {source.shape}, the "
            f"target's {target.kind} of shape {target.shape}; kind and size of the board must be the same."
        )
    match = match_names(source.names, target.names, rename)
    if match.identical:
        return observations
    if not any(match.sources):
        raise GraftError(
            f"Stored observations cannot be shown to the target: none of their names ({', '.join(source.names)}) is "
            f"one of the target's ({', '.join(target.names)}); give 'rename' (target name: source name)."
        )
    if not source.parts:
        return _by_name(observations, match.sources)
    moved, old, new = observations.new_zeros(len(observations), *target.shape), source.places, target.places
    for place, origin in zip(new, match.sources, strict=True):
        if origin:
            moved[:, place] = observations[:, old[origin[0]]]
    return moved


def _by_name(tensor: torch.Tensor, sources: list[list[int]]) -> torch.Tensor:
    """Dimension 1 rearranged: index j from ``sources[j]``, or zero."""
    moved = tensor.new_zeros(len(tensor), len(sources), *tensor.shape[2:])
    for j, origin in enumerate(sources):
        if origin:
            moved[:, j] = tensor[:, origin[0]]
    return moved


def _with_actions(
    stored: Mapping[str, torch.Tensor], source: Schemas, target: Schemas, rename: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """A task's memory with outputs under the target's action names; ``known`` says which the source had."""
    match = match_names(source.action.names, target.action.names, rename)
    units = action_units(source, target, match) if "log_std" in stored else None
    moved = {"action": _by_name(stored["action"], match.sources)}
    moved["known"] = _by_name(stored["known"].unsqueeze(0), match.sources)[0]
    if target.action.sizes:
        moved["sizes"] = torch.tensor(target.action.sizes)
    if "taken" in stored:
        moved["taken"] = _by_name(stored["taken"], match.sources)
    if "log_std" in stored:
        log_std = stored["log_std"]
        moved["log_std"] = _by_name(log_std.view(-1, log_std.shape[-1]), match.sources).view(*log_std.shape[:-1], -1)
    if units is not None:
        of = {"action": units.of, "taken": units.of, "log_std": units.of_log_std}
        moved |= {name: change(moved[name]) for name, change in of.items() if name in moved}
    return moved


def _head_outputs(network: PolicyNetwork, heads: Mapping[str, torch.Tensor], features: torch.Tensor) -> Outputs:
    if not heads:
        return network.heads(features)
    own = network.state_dict()
    replaced = {f"network.{name}": t for name, t in heads.items() if name in own}
    outputs: Outputs = functional_call(_Heads(network), replaced, (features,))
    if outputs.log_std is None and "policy.log_std" in heads:  # a Box before, and now a discrete action
        return outputs._replace(log_std=heads["policy.log_std"])
    return outputs


def _never(outputs: Outputs) -> torch.Tensor | None:
    """Which actions (N, A) were forbidden where a policy has these outputs; None where none was."""
    forbidden = outputs.action <= NEVER if outputs.log_std is None else None
    return forbidden if forbidden is not None and bool(forbidden.any()) else None


def _to_device(outputs: Outputs, device: torch.device) -> Outputs:
    return Outputs(*(None if o is None else o.to(device) for o in outputs))  # type: ignore[arg-type]


def _on_device(state: State, device: torch.device) -> State:
    """The state with its heads on ``device``; observations and outputs stay on the CPU."""
    heads = {n: t.to(device) for n, t in state.items() if n.startswith("heads.") and t.device != device}
    return {**state, **heads} if heads else state
