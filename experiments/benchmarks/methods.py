"""Cost of transfer methods: parameters, memory, and time of an update relative to fine-tuning's, on one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import torch
from rich.console import Console

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS
from graft.agents.sb3.learner_state import network_optimizer
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.learning_rates import scale_rates
from graft.agents.training.rollouts import Rollouts, collect
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas
from graft.experiments.benchmarks.timing import bench_table
from graft.transfer.fisher import diagonal_fisher
from graft.transfer.method import METHODS, TaskPosition, TransferMethod, label, parse_method
from graft.transfer.methods.finetune import Finetune
from graft.transfer.session import TransferSession

SOURCE, TARGET = Task("Graft/Gather-v0"), Task("Graft/Gather-v0", {"slip": 0.3})

FISHER_STATES = 512


class Subject(NamedTuple):
    """A method ready to be timed; ``update`` plays a rollout and returns the seconds of the update that follows."""

    method: TransferMethod
    parameters: int
    trainable: int
    state_bytes: int
    update: Callable[[], float]


def _source() -> Checkpoint:
    """A network that was trained briefly."""
    network = PolicyNetwork(schemas(SOURCE), NetworkConfig(), 0)
    with closing(BatchVecEnv(make(SOURCE, 64, 0))) as env:
        ALGORITHMS["ppo"]().learner(network, env, 0, None, "cpu").learn(4096)
    return Checkpoint.of(network, SOURCE)


def _play(network: PolicyNetwork, states: int, unroll: int) -> Rollouts:
    with closing(make(SOURCE, 64, 1)) as env:
        return collect(network, env, states, torch.Generator().manual_seed(0), unroll)


def _consolidated(method: TransferMethod, source: Checkpoint) -> Checkpoint:
    """``source`` with the method's memory of it."""
    session = TransferSession.of(method, source)
    if method.watches_source:
        session.state = method.init(session.network, None)
    session.consolidate(_play, TaskPosition(0, 2))
    return session.checkpoint(SOURCE)


def subject(method: TransferMethod, source: Checkpoint) -> Subject:
    """``method`` with its network, its state and a learner, before its first update on the target."""
    own = _consolidated(method, source) if method.uses_source else None
    session = TransferSession.begin(method, own, schemas(TARGET), NetworkConfig(), 1)
    network, hooks = session.network, session.hooks()
    session.schedule(network, 0.25)
    held = sum(t.numel() * t.element_size() for t in session.state.values())
    env = BatchVecEnv(make(TARGET, 64, 0))
    learner = ALGORITHMS["ppo"]().learner(network, env, 0, hooks.gradients, "cpu")
    scale_rates(network_optimizer(learner), network, hooks.rates)
    seconds, train = [0.0], getattr(learner, "train")  # noqa: B009 - the base class does not promise it

    def timed() -> None:
        start = time.perf_counter()
        train()
        seconds[0] = time.perf_counter() - start

    setattr(learner, "train", timed)  # noqa: B010

    def update() -> float:
        learner.learn(1, reset_num_timesteps=False)
        return seconds[0]

    parameters = list(network.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return Subject(method, sum(p.numel() for p in parameters), trainable, held, update)


def ratios(subjects: list[Subject], rounds: int) -> list[list[float]]:
    """Per subject, the time of its update divided by fine-tuning's right before or after it, once a round."""
    reference = next(s for s in subjects if s.method == Finetune())
    measured: list[list[float]] = [[] for _ in subjects]
    for each in subjects:
        each.update()
    for index in range(rounds):
        for own, each in zip(measured, subjects, strict=True):
            if index % 2:
                mine, base = each.update(), reference.update()
            else:
                base, mine = reference.update(), each.update()
            own.append(mine / base)
    return measured


def fisher_speedup(source: Checkpoint, rounds: int) -> float:
    """How many times as fast as a loop over states and actions `diagonal_fisher` is; median of ``rounds``."""
    network, env = source.build(), make(SOURCE, 64, 2)
    states = collect(network, env, FISHER_STATES, torch.Generator().manual_seed(0)).observations
    env.close()
    encoder = {name: p for name, p in network.named_parameters() if name.startswith("encoder.")}
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        diagonal_fisher(network, states, list(encoder))
        vectorised = time.perf_counter() - start
        start, total = time.perf_counter(), [torch.zeros_like(p) for p in encoder.values()]
        for state in states:
            log_pi = network(state.unsqueeze(0)).action.log_softmax(-1)[0]
            for value in log_pi:
                gradients = torch.autograd.grad(value, list(encoder.values()), retain_graph=True)
                for t, g in zip(total, gradients, strict=True):
                    t += value.detach().exp() * g.square()
        found.append((time.perf_counter() - start) / vectorised)
    return statistics.median(found)


def bench_methods(console: Console, rounds: int) -> None:
    """Print the table of costs."""
    torch.set_num_threads(1)
    source = _source()
    methods: list[TransferMethod] = [kind() for name, kind in METHODS.items() if kind.uses_source and name != "auto"]
    subjects = [subject(method, source) for method in [*methods, parse_method({"chain": ["ewc", "replay"]})]]
    title = f"Cost on grid_cnn, {TARGET}: update time relative to finetune, median of {rounds} interleaved rounds"
    columns = ("method", "parameters", "trained", "memory kB", "update", "least", "most")
    table = bench_table(title, columns, ("method",))
    for each, found in zip(subjects, ratios(subjects, rounds), strict=True):
        sizes = (f"{each.parameters:,}", f"{each.trainable:,}", f"{each.state_bytes / 1000:,.0f}")
        times = (f"{value:.2f}" for value in (statistics.median(found), min(found), max(found)))
        table.add_row(label(each.method), *sizes, *times)
    console.print(table)
    console.print(
        f"The Fisher information of {FISHER_STATES} states is {fisher_speedup(source, 3):.1f} times as fast as a loop "
        f"over states and actions."
    )
