"""A transfer method through its life in a moment: what its contracts, and tests of one method, are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from graft import envs
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.snapshot import SavedState, Snapshots
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.sb3 import Algorithm, architecture_for, train
from graft.agents.training.backend import Batch, Evaluation, Grads, TrainJob
from graft.agents.training.rollouts import Rollouts
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.experiments.contracts.basics import expect, observations, scrambled, weights
from graft.transfer.method import PART, Built, State, TaskPosition, TransferMethod
from graft.transfer.session import TransferSession


@dataclass(frozen=True)
class Setting:
    """Tasks, the algorithm that learns each of them for ``budget`` env steps, and the network."""

    tasks: tuple[Task, ...]
    algorithm: Algorithm
    config: NetworkConfig
    budget: int = 192

    @property
    def architecture(self) -> NetworkConfig:
        """Of fresh networks."""
        return architecture_for(self.algorithm, self.config)

    def schemas(self, index: int) -> Schemas:
        """Of a task."""
        return envs.schemas(self.tasks[index])


def shrunk(network: PolicyNetwork, seed: int = 0) -> PolicyNetwork:
    """Different numbers everywhere, where no activation is flat; but a unit of every block of the encoder is dead."""
    with torch.no_grad():
        for parameter in scrambled(network, seed).parameters():
            parameter.mul_(0.3)
        for parameter in network.encoder.blocks.parameters():
            parameter[0] = 0
    return network


def batch_of(schemas: Schemas, count: int, seed: int = 0) -> Batch:
    """Random states and actions."""
    generator, act = torch.Generator().manual_seed(seed), schemas.action
    if act.kind == "discrete":
        actions = torch.randint(len(act.names), (count,), generator=generator)
    elif act.kind == "multi":
        actions = torch.stack([torch.randint(size, (count,), generator=generator) for size in act.sizes], 1)
    else:
        actions = torch.rand(count, len(act.names), generator=generator) - 0.5
    return Batch(observations(schemas.observation, count, seed), actions)


def rollouts_of(schemas: Schemas, count: int, unroll: int = 1, seed: int = 0) -> Rollouts:
    """Random states, actions and rewards, as of episodes of ten steps; ``unroll`` states in a row."""
    count = unroll * max(1, count // unroll)
    generator = torch.Generator().manual_seed(seed)
    discounts = torch.where(torch.arange(count) % 10 == 9, 0.0, 0.9)
    batch = batch_of(schemas, count, seed)
    return Rollouts(
        batch.observations, batch.actions, torch.randn(count, generator=generator), discounts, unroll, count
    )


def ones(network: PolicyNetwork) -> Grads:
    """Gradients of one for all that trains."""
    return {name: torch.ones_like(p) for name, p in network.named_parameters() if p.requires_grad}


def masked(method: TransferMethod, network: PolicyNetwork, state: State) -> Mapping[str, torch.Tensor]:
    """Where a method that keeps weights from moving does so now: where it makes gradients of one zero."""
    if "zeroes_gradients" not in method.words():
        return {}
    after = method.gradients(ones(network), network, state, batch_of(network.schemas, 4)).grads
    return {name: g == 0 for name, g in after.items()}


class CheckedSession(TransferSession):
    """A session as in an experiment, which notes what hooks must not do.

    ``moved``: names of what was frozen and changed before the next call of the schedule. ``random``: hooks that touched
    the process's random numbers. ``frozen_numbers``: how many numbers were frozen, for each call of the schedule.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.moved: set[str] = set()
        self.random: set[str] = set()
        self.frozen_numbers: list[int] = []
        self._before: dict[str, torch.Tensor] = {}
        self._masks: Mapping[str, torch.Tensor] = {}

    def gradients(self, grads: Grads, network: PolicyNetwork, batch: Batch) -> Grads:
        """The method's."""
        before = torch.get_rng_state()
        grads = super().gradients(grads, network, batch)
        if not torch.equal(torch.get_rng_state(), before):
            self.random.add("gradients")
        return grads

    def schedule(self, network: PolicyNetwork, progress: float) -> None:
        """The method's, and a look at what is frozen until the next call."""
        self.compare()
        before = torch.get_rng_state()
        super().schedule(network, progress)
        if not torch.equal(torch.get_rng_state(), before):
            self.random.add("schedule")
        self._masks = masked(self.method, network, self.state)
        self._before = self._kept()
        self.frozen_numbers.append(sum(t.numel() for t in self._before.values()))

    def _kept(self) -> dict[str, torch.Tensor]:
        """What must not change: parameters without gradient, masked weights, and the buffers of what doesn't train."""
        tensors, masks = self.network.train().state_dict(keep_vars=True), self._masks
        still = {id(t) for n, t in tensors.items() if not t.requires_grad or (n in masks and bool(masks[n].all()))}
        moving: set[int] = set()
        for module in self.network.modules():
            own = list(module.parameters(recurse=False))
            if module.training and not (own and all(id(p) in still for p in own)):
                moving |= {id(buffer) for buffer in module.buffers(recurse=False)}
        whole = {n: t.detach().clone() for n, t in tensors.items() if id(t) in still - moving and n not in masks}
        return whole | {n: tensors[n].detach()[where] for n, where in masks.items()}

    def compare(self) -> None:
        """Note what was frozen and has changed."""
        now = self.network.state_dict()
        for name, before in self._before.items():
            tensor = now[name][self._masks[name]] if name in self._masks else now[name]
            if not torch.equal(tensor, before):
                self.moved.add(name)

    def restore(self, saved: SavedState, env_steps: int = 0) -> None:
        """From a snapshot."""
        super().restore(saved)
        self._before = {}

    def train(
        self,
        setting: Setting,
        index: int,
        budget: int,
        record: Callable[..., None] = lambda *_: None,
        snapshots: Snapshots | None = None,
    ) -> None:
        """On a task of the setting."""
        hooks = replace(self.hooks(), schedule=self.schedule, report=None)
        plan = Evaluation(every=1_000_000, episodes=1, num_envs=1)
        task, algorithm = setting.tasks[index], setting.algorithm
        train(TrainJob(self.network, task, algorithm, budget, index, record, plan, hooks, "cpu", snapshots))
        self.compare()


def first(method: TransferMethod, setting: Setting) -> Checkpoint:
    """The first task, learned and then consolidated; where the method does not watch, any numbers will do."""
    network = shrunk(build_network(setting.schemas(0), setting.architecture, 0))
    if not method.watches_source:
        return consolidated(method, setting, Checkpoint.of(network, setting.tasks[0]), 0)
    session = CheckedSession(method, network, method.init(network, None))
    session.train(setting, 0, setting.budget)
    return consolidated(method, setting, session.finish().checkpoint(setting.tasks[0]), 0)


def consolidated(method: TransferMethod, setting: Setting, end: Checkpoint, index: int) -> Checkpoint:
    """What goes on from the end of a task to the next."""
    session = CheckedSession(method, end.build(), end.parts.get(PART, {}))
    position = TaskPosition(index, max(len(setting.tasks), 2))
    session.consolidate(lambda network, *how: rollouts_of(network.schemas, how[0], how[1], index), position)
    if method.retraining:
        session.train(setting, index, method.retraining)
        expect(not session.moved, f"what is frozen moved while it trained again: {', '.join(sorted(session.moved))}")
    return session.checkpoint(setting.tasks[index])


def held(source: Checkpoint | None) -> dict[str, torch.Tensor]:
    """Copies of all tensors of a source."""
    tensors = {} if source is None else {**source.tensors, **source.parts.get(PART, {})}
    return {name: tensor.clone() for name, tensor in tensors.items()}


class TransferRun(NamedTuple):
    """A transfer: what was built, its weights and state then; hooks and weights after training; the network kept."""

    source: Checkpoint | None
    built: Built
    before: dict[str, torch.Tensor]
    start: State
    session: CheckedSession
    trained: dict[str, torch.Tensor]
    network: PolicyNetwork

    def checkpoint(self, setting: Setting, index: int = 1) -> Checkpoint:
        """Of its end."""
        return Checkpoint.of(self.network, setting.tasks[index], parts={PART: self.session.state})


def build(method: TransferMethod, setting: Setting, source: Checkpoint | None, index: int = 1, seed: int = 1) -> Built:
    """A network for a task of the setting."""
    return method.build(source, setting.schemas(index), setting.architecture, seed)


def run_transfer(method: TransferMethod, setting: Setting, source: Checkpoint | None, index: int = 1) -> TransferRun:
    """From a source to the end of training on a task of the setting."""
    built = build(method, setting, source, index)
    session = CheckedSession(method, built.network, method.init(built.network, source))
    before, start = weights(built.network), dict(session.state)
    session.train(setting, index, setting.budget)
    trained = weights(built.network)
    return TransferRun(source, built, before, start, session, trained, method.finish(built.network, session.state))
