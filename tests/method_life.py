"""A transfer method's life in small: from a source to a network that was trained on the target, as a stage lives it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from handmade import observations, scrambled, small_ppo

import envs
from agents.backend import Batch, Evaluation, Grads, Hooks
from agents.checkpoint import Checkpoint
from agents.network import NetworkConfig, PolicyNetwork
from agents.sb3 import train
from agents.snapshot import Saved, Snapshots
from envs.task import Task
from transfer.method import METHODS, PART, Built, FromSource, Place, State, TransferMethod

SOURCE_TASK = Task("handmade/Match-v0", {"names": ["a", "b", "c", "d"]})
TARGET_TASK = Task("handmade/Match-v0", {"names": ["d", "new", "a", "b"]})
NETWORKS = {
    "mlp": NetworkConfig("mlp", {"widths": [8, 8]}, (8,)),
    "norm": NetworkConfig("norm", {"width": 8}, (8,)),
}
CHAINS = (["ewc", {"replay": {"strength": 2}}], ["packnet", "ewc"], ["lora", "kickstart"])


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values that a Literal, alone or within a union, allows."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for part in get_args(annotation) for value in choices(part))


def variants(inherited: bool) -> list[TransferMethod]:
    """Every method with its defaults, and with each value of its options that are a choice of words.

    Args:
        inherited: whether to vary the options that all methods with a source share as well.
    """
    shared = {option.name for option in fields(FromSource)}
    found = []
    for kind in map(METHODS.__getitem__, METHODS):
        found.append(kind())
        hints = get_type_hints(kind, include_extras=True)
        for option in fields(kind):
            if inherited or option.name not in shared:
                found += [kind(**{option.name: v}) for v in choices(hints[option.name]) if v != option.default]
    return found


def source_of(architecture: NetworkConfig) -> Checkpoint:
    """A source whose tensors are all different, small enough that tanh is not flat."""
    network = PolicyNetwork(envs.schemas(SOURCE_TASK), architecture, 0)
    with torch.no_grad():
        for parameter in scrambled(network).parameters():
            parameter.mul_(0.3)
    return Checkpoint.of(network, SOURCE_TASK)


def states_of(schemas: Any, count: int) -> Batch:
    """States made at random, and actions."""
    return Batch(observations(schemas.observation, count), torch.arange(count) % len(schemas.action.names))


def consolidated(method: TransferMethod, source: Checkpoint) -> Checkpoint:
    """``source`` after the method has seen what it needs of it."""
    if not method.overrides("consolidate"):
        return source
    network = source.build()
    state: State = {}
    if method.watches_source:
        state = method.init(network, None)
        batch = states_of(network.schemas, 4)
        ones = {name: torch.ones_like(p) for name, p in network.named_parameters()}
        _, state, _ = method.gradients(ones, network, state, batch)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(0.01)
    network, state = method.consolidate(network, state, states_of(network.schemas, 12), Place(0, 2))
    return replace(Checkpoint.of(network, source.task), parts={PART: state})


@dataclass
class Life:
    """A network, what the method remembers, and how it came about."""

    method: TransferMethod
    source: Checkpoint
    built: Built
    state: State

    @property
    def network(self) -> PolicyNetwork:
        return self.built.network

    def gradients(self, grads: Grads, network: PolicyNetwork, batch: Batch) -> Grads:
        grads, self.state, _ = self.method.gradients(grads, network, self.state, batch)
        return grads

    def schedule(self, network: PolicyNetwork, progress: float) -> None:
        self.state = self.method.schedule(network, self.state, progress)

    def save(self) -> Saved:
        return Saved(dict(self.state), {})

    def restore(self, saved: Saved, env_steps: int) -> None:
        self.state = dict(saved.tensors)

    def train(
        self, record: Any = lambda *_: None, snapshots: Snapshots | None = None, task: Task = TARGET_TASK
    ) -> None:
        """Two rollouts of PPO."""
        hooks = Hooks(
            gradients=self.gradients if self.method.overrides("gradients") else None,
            schedule=self.schedule if self.method.overrides("schedule") else None,
            rates=self.method.rates(self.network),
        )
        plan = Evaluation(every=128, episodes=1, num_envs=1)
        train(self.network, task, small_ppo(), 256, 0, record, plan, hooks, "cpu", snapshots)


def begin(
    method: TransferMethod, source: Checkpoint, architecture: NetworkConfig, seed: int = 1, task: Task = TARGET_TASK
) -> Life:
    """Consolidate the source, build, init."""
    own = consolidated(method, source) if method.uses_source else source
    given = own if method.uses_source else None
    built = method.build(given, envs.schemas(task), architecture, seed)
    return Life(method, own, built, method.init(built.network, given))


def weights(network: PolicyNetwork) -> dict[str, torch.Tensor]:
    """Copies of all its tensors."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
