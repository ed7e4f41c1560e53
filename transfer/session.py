"""Lifecycle of a transfer method on one network: build, hooks during training, finish, consolidate, view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.snapshot import Savable, SavedState
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.training.backend import Batch, Grads, Hooks
from graft.agents.training.critics import CRITICS
from graft.agents.training.rollouts import Rollouts
from graft.agents.training.transitions import TRANSITIONS, check_transitions
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.transfer.method import NOTHING, PART, State, TaskPosition, TransferMethod
from graft.transfer.probe import GradientMeter, Probe
from graft.transfer.transplant_report import TransplantReport

Play = Callable[[PolicyNetwork, int, int], Rollouts]
"""``(network, states, unroll) -> rollouts`` of so many states of the network's task, ``unroll`` of them in a row."""


class TransferSession(Savable):
    """A method, its network and its state: `begin`, train with `hooks`, `finish`, `consolidate`.

    Attributes:
        report: of the transplant; None where there was none.
        critics: what training starts from, and leaves, where the algorithm has critics beside the network.
        transitions: likewise, where it has a replay buffer and keeps some of it.
        probe: measures the network at every evaluation, where one is set.
        frozen: from which progress on in training how many blocks of the encoder and which parameters were frozen, in
            that order; empty where the method has no schedule.
    """

    def __init__(
        self,
        method: TransferMethod,
        network: PolicyNetwork,
        state: State,
        report: TransplantReport | None = None,
        critics: State | None = None,
        transitions: State | None = None,
    ) -> None:
        self.method, self.network, self.state, self.report = method, network, state, report
        self.critics, self.transitions = dict(critics or {}), dict(transitions or {})
        self.probe: Probe | None = None
        self.frozen: list[tuple[float, int, list[str]]] = []
        self._meter = GradientMeter()

    @classmethod
    def begin(
        cls,
        method: TransferMethod | None,
        source: Checkpoint | None,
        target: Schemas,
        architecture: NetworkConfig,
        seed: int,
        transitions: bool = False,
    ) -> TransferSession:
        """The network that ``method`` builds, and its initial state.

        Args:
            method: None for plain training.
            source: None for a method that uses none, or where the source itself is trained, from a fresh network.
            target, architecture, seed: as of `TransferMethod.build`.
            transitions: whether the source's are carried, too (`Algorithm.keeps_transitions`).
        Raises:
            GraftError: source, target and method do not fit.
        """
        if method is None:
            return cls(TransferMethod(), build_network(target, architecture, seed), {})
        if source is not None or not method.uses_source:
            network, report = method.build(source, target, architecture, seed)
            critics, rows = NOTHING if source is None else method.carry_critics(source, network, seed)
            held, more = method.carry_transitions(source, network) if source is not None and transitions else NOTHING
            if report is not None:
                report = replace(report, rows=report.rows + rows + more)
            return cls(method, network, method.init(network, source), report, critics, held)
        network = build_network(target, architecture, seed)
        return cls(method, network, method.init(network, None) if method.watches_source else {})

    @classmethod
    def of(cls, method: TransferMethod, checkpoint: Checkpoint) -> TransferSession:
        """A session as it was when ``checkpoint`` was made of it."""
        parts = checkpoint.parts
        state, critics, transitions = (parts.get(name, {}) for name in (PART, CRITICS, TRANSITIONS))
        check_transitions(transitions, checkpoint.schemas)
        return cls(method, checkpoint.build(), state, critics=critics, transitions=transitions)

    def __getstate__(self) -> dict[str, Any]:
        """For learners in other processes, which have a network of their own and report nothing."""
        return {**vars(self), "network": None, "probe": None, "critics": {}, "transitions": {}}

    def hooks(self) -> Hooks:
        """For `TrainJob`; gradients and schedule only where the method has its own."""
        return Hooks(
            gradients=self.gradients if self.method.overrides("gradients") else None,
            schedule=self.schedule if self.method.overrides("schedule") else None,
            rates=self.method.rates(self.network, self.state),
            report=self.measure,
            # Where the source itself is learned, or the same task goes on, there is no report.
            critic_warmup=self.method.critic_warmup if self.report is not None else 0.0,
            state=self,
        )

    def gradients(self, grads: Grads, network: PolicyNetwork, batch: Batch) -> Grads:
        before = self._meter.start(grads)
        changed, self.state, penalty = self.method.gradients(grads, network, self.state, batch)
        if before is not None:
            self._meter.measure(before, changed, penalty)
        return changed

    def schedule(self, network: PolicyNetwork, progress: float) -> None:
        self.state = self.method.schedule(network, self.state, progress)
        names = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
        now = network.encoder.frozen_blocks, names
        if not self.frozen or self.frozen[-1][1:] != now:
            self.frozen.append((progress, *now))

    def measure(self, network: PolicyNetwork) -> Mapping[str, float]:
        """Diagnostics of the network and of the method's gradients, tag -> number."""
        values = self._meter.report() | dict(self.method.measures(self.state))
        return values if self.probe is None else values | self.probe.measure(network)

    def save(self) -> SavedState:
        return SavedState(self.state, {"meter": self._meter.save(), "frozen": [list(entry) for entry in self.frozen]})

    def restore(self, saved: SavedState) -> None:
        self.state = dict(saved.tensors)
        self._meter.restore(saved.values["meter"])
        self.frozen = [(progress, depth, names) for progress, depth, names in saved.values.get("frozen", [])]

    def finish(self) -> TransferSession:
        """After training: a session on the network to keep. This one can still go on."""
        network = self.method.finish(self.network, self.state)
        state = self.method.lasting(self.state)
        return TransferSession(self.method, network, state, self.report, self.critics, self.transitions)

    def consolidate(self, play: Play, position: TaskPosition) -> int:
        """At the end of a task; returns the env steps that were played for it."""
        if not self.method.overrides("consolidate"):
            return 0
        if self.method.states:
            rollouts = play(self.network, self.method.states, self.method.unroll_states)
        else:
            nothing = torch.zeros(0)
            rollouts = Rollouts(
                torch.zeros(0, *self.network.schemas.observation.shape), nothing.long(), nothing, nothing
            )
        network, self.state = self.method.consolidate(self.network, self.state, rollouts, position)
        if network is not self.network:  # critics of another network's features
            self.network, self.critics = network, {}
        return rollouts.env_steps

    def view(self, task: int) -> PolicyNetwork:
        """The network as it serves the task of index ``task``; its heads may be of another task."""
        return self.method.view(self.network, self.state, task)

    def checkpoint(self, task: Task, parts: Mapping[str, State] | None = None, **rest: Any) -> Checkpoint:
        """Of the network as it is, the method's state, critics, transitions, and further ``parts``; without those that
        are empty.
        """
        own = {PART: self.state, CRITICS: self.critics, TRANSITIONS: self.transitions}
        kept = {name: part for name, part in {**own, **(parts or {})}.items() if part}
        return Checkpoint.of(self.network, task, parts=kept, **rest)
