"""The seam between a training backend and its callers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
from pydantic import Field

from graft.agents.checkpoints.snapshot import Savable, Snapshots
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.networks.policy_network import Unstable as Unstable
from graft.agents.training.algorithm import Algorithm
from graft.envs.core.task import Task

Grads = dict[str, torch.Tensor]
"""Parameter name -> gradient; a parameter without a gradient is absent."""


class Batch(NamedTuple):
    """A minibatch as an algorithm sees it: raw observations (N, *obs_shape), and actions (N,) or (N, A)."""

    observations: torch.Tensor
    actions: torch.Tensor


Gradients = Callable[[Grads, PolicyNetwork, Batch], Grads]
"""``(grads, network, batch) -> grads``, called after backward and before clipping."""


@dataclass(frozen=True)
class Hooks:
    """What a transfer method does during training.

    Attributes:
        gradients: changes the gradients of every minibatch, or None.
        schedule: ``(network, progress)``, called before each rollout with the share of the budget spent, in [0, 1).
        rates: parameter name -> what its learning rate is multiplied by, for those where it is not 1.
        report: measures the network; called at every evaluation, whose record gets what it returns (tag -> value).
        state: what the others remember. A backend that trains in other processes, where copies of the hooks are
            called, moves it from there to here before it evaluates and when it ends.
    """

    gradients: Gradients | None = None
    schedule: Callable[[PolicyNetwork, float], None] | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    report: Callable[[PolicyNetwork], Mapping[str, float]] | None = None
    state: Savable | None = None


Record = Callable[[int, Mapping[str, float]], None]
"""``(env_steps, {tag: value})``: where a backend sends its metrics."""


@dataclass(frozen=True)
class Evaluation:
    """When and how to evaluate: at the start, after every ``every`` env steps (at the next rollout), and at the end.

    Attributes:
        every: env steps. episodes: per evaluation, shared out over ``num_envs`` environments.
        deterministic: play the most likely action instead of a sample.
    """

    every: Annotated[int, Field(ge=1)] = 20_000
    episodes: Annotated[int, Field(ge=1)] = 64
    num_envs: Annotated[int, Field(ge=1)] = 64
    deterministic: bool = False


@dataclass(frozen=True)
class Resources:
    """What a training may use; where it uses more than one process, some backends give other numbers with others.

    Attributes:
        num_env_runners: processes that play; 0 for the one that trains.
        num_learners: processes that learn; 0 for the calling one.
        num_gpus_per_learner: GPUs, or the share of one, that each learner (the calling process, too) takes.
        num_cpus_per_env_runner: cores that each of these takes.
    """

    num_env_runners: Annotated[int, Field(ge=0)] = 0
    num_learners: Annotated[int, Field(ge=0)] = 0
    num_gpus_per_learner: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    num_cpus_per_env_runner: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True)
class Partners:
    """Who learns beside a network, in a task for squads whose teams all learn.

    The network plays the task's ``team``; it is evaluated against the task's ``opponents``, so that one run can be
    compared with another.

    Attributes:
        plays: team -> policy, for each team.
        networks: of all policies but the one that plays the task's team; trained in place. One that has that network's
            encoder, the same object, shares it.
    """

    plays: Mapping[str, str]
    networks: Mapping[str, PolicyNetwork]


@dataclass(frozen=True)
class TrainJob:
    """What a backend is asked to train, in place.

    Attributes:
        algorithm: of the backend's own ``ALGORITHMS``.
        budget: env steps; training ends after the rollout that reaches it.
        seed: of the environments, the action samples and the minibatches.
        record: receives metrics; evaluations come at least at 0 and at the last env step.
        hooks: what a transfer method does during training.
        device: a torch device; "auto" is the GPU where there is one. Unused by RLlib, where ``resources`` say it.
        snapshots: where to keep one; training goes on from the one that is there, and ends as if it had never been
            stopped. None are taken where an environment's state can't be saved (all but the built-in games).
        workers: processes that each of both batches is spread over, where that can pay (`envs.make`).
        resources: processes and GPUs of a backend that uses more than the calling process.
        partners: who learns beside it, in a task for squads that names its ``team``; RLlib only.
    """

    network: PolicyNetwork
    task: Task
    algorithm: Algorithm
    budget: int
    seed: int
    record: Record
    evaluation: Evaluation = Evaluation()
    hooks: Hooks = Hooks()
    device: str = "auto"
    snapshots: Snapshots | None = None
    workers: int = 1
    resources: Resources = Resources()
    partners: Partners | None = None


class TrainResult(NamedTuple):
    """What training did: env steps taken, wall-clock seconds, and returns of the final evaluation's episodes.

    ``final_means`` holds their mean for each part of a batch that has several, and ``faults`` how often environments
    failed and were restarted, by kind; empty where none did.
    """

    env_steps: int
    seconds: float
    final_returns: list[float]
    final_means: Mapping[str, float] = {}
    faults: Mapping[str, int] = {}
