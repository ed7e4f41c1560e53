"""What a training backend takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
from pydantic import Field

from graft.agents.checkpoints.snapshot import Savable, Snapshots
from graft.agents.networks.encoder import Encoder
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.networks.policy_network import Unstable as Unstable
from graft.agents.training.algorithm import Algorithm
from graft.agents.training.critics import CriticTensors
from graft.agents.training.transitions import TransitionTensors
from graft.envs.core.task import Task

EPISODES, EPISODES_IN_LAST = 32, 64  # of an evaluation, and of a training's last one
LONGEST_EPISODE = 30_000  # most steps of an episode in an evaluation; the longest of Atari's have 27,000

Grads = dict[str, torch.Tensor]  # parameter name -> gradient; a parameter without a gradient is absent


class CriticLayers(NamedTuple):
    """The encoder that critics beside the network read, the network's own or one of the same layout, and the weights
    (U, F + A) of their first layers, which read its F features, then actions.
    """

    encoder: Encoder
    first: tuple[torch.Tensor, ...]


class NextSteps(NamedTuple):
    """What came a step later: ``rows`` (M,) of a minibatch, and the raw observations (M, *obs_shape) after them, which
    are of the same episodes.
    """

    rows: torch.Tensor
    observations: torch.Tensor


class Batch(NamedTuple):
    """A minibatch as an algorithm sees it: raw observations (N, *obs_shape), and actions (N,) or (N, A).

    ``critics``: beside the network, where the algorithm has some. ``following``: ``(most) -> NextSteps`` of the first
    ``most`` rows for which the next observation is known; None where the backend keeps none (RLlib).
    """

    observations: torch.Tensor
    actions: torch.Tensor
    critics: CriticLayers | None = None
    following: Callable[[int], NextSteps] | None = None


Gradients = Callable[[Grads, PolicyNetwork, Batch], Grads]  # called after backward and before clipping


@dataclass(frozen=True)
class Hooks:
    """A transfer method's functions during training.

    Attributes:
        gradients: changes the gradients of every minibatch.
        schedule: ``(network, progress)``, called before each rollout with the share of the budget spent, in [0, 1).
        rates: parameter name -> factor of its learning rate, where it is not 1.
        report: returns metrics by tag, which every evaluation records.
        critic_warmup: how long only critics train, where there are critics beside the network, and the network stays as
            it is: below 1 a share of the budget, else env steps, after ``learning_starts``.
        state: of these functions. Where copies of the hooks are called in other processes, the backend copies their
            state to this object before each evaluation and at the end.
    """

    gradients: Gradients | None = None
    schedule: Callable[[PolicyNetwork, float], None] | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    report: Callable[[PolicyNetwork], Mapping[str, float]] | None = None
    critic_warmup: float = 0.0
    state: Savable | None = None


Record = Callable[[int, Mapping[str, float]], None]  # ``(env_steps, {tag: value})``: where a backend sends its metrics


@dataclass(frozen=True)
class Evaluation:
    """When and how to evaluate: at the start, every ``every`` env steps (before the next rollout), and at the end.

    Attributes:
        episodes: per evaluation, spread over ``num_envs`` environments. None is 32, and 64 in the last evaluation,
            whose mean is the final return: so evaluations of the built-in games, whose episodes have up to 200 steps,
            play fewer env steps than a training that is evaluated every 8,192.
        deterministic: play the most likely action instead of a sample.
        max_steps: of an episode; one that does not end within them ends the stage. Results do not depend on it.
    """

    every: Annotated[int, Field(ge=1)] = 20_000
    episodes: Annotated[int, Field(ge=1)] | None = None
    num_envs: Annotated[int, Field(ge=1)] = 32
    deterministic: bool = False
    max_steps: Annotated[int, Field(ge=1)] = LONGEST_EPISODE

    def count(self, last: bool) -> int:
        """Episodes of an evaluation, or of the last one."""
        return self.episodes or (EPISODES_IN_LAST if last else EPISODES)


@dataclass(frozen=True)
class Resources:
    """Processes and devices of a training; results may depend on their numbers.

    Attributes:
        num_env_runners, num_learners: processes that play and that learn; 0 for the calling process.
        num_gpus_per_learner: GPUs, or a fraction of one, of each learner (or the calling process).
        num_cpus_per_env_runner: cores of each.
    """

    num_env_runners: Annotated[int, Field(ge=0)] = 0
    num_learners: Annotated[int, Field(ge=0)] = 0
    num_gpus_per_learner: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    num_cpus_per_env_runner: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True)
class Partners:
    """Policies trained together with a network, in a task for squads whose teams all learn.

    The network plays the task's ``team``; it is evaluated against the task's ``opponents``, so that runs compare.

    Attributes:
        plays: team -> policy, for each team.
        networks: of the other policies, trained in place. One with the same encoder object shares it.
    """

    plays: Mapping[str, str]
    networks: Mapping[str, PolicyNetwork]


@dataclass(frozen=True)
class TrainJob:
    """A network and how to train it, in place.

    Attributes:
        algorithm: of the backend's own ``ALGORITHMS``.
        budget: env steps; training ends after the rollout that reaches it.
        seed: of the environments, the action samples and the minibatches.
        record: receives metrics; evaluations come at least at 0 and at the last env step.
        device: a torch device; "auto" is the GPU where there is one. Unused by RLlib (see ``resources``).
        snapshots: where to keep one; training resumes from one that is there, with the same results as uninterrupted.
            Environments whose state can't be saved (all but the built-in games) begin fresh episodes then, seeded by
            ``seed`` and the env steps taken.
        workers: processes that each batch is spread over (`envs.make`).
        resources, partners: of RLlib only.
        critics: of an algorithm with critics beside the network (`CriticState`). Training starts from them where there
            are any, else from fresh ones, and leaves its own here.
        transitions: what an algorithm with a replay buffer begins with, where it has the option ``keep_transitions``;
            it leaves its latest here.
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
    critics: CriticTensors = field(default_factory=dict)
    transitions: TransitionTensors = field(default_factory=dict)


class TrainResult(NamedTuple):
    """Env steps taken, wall-clock seconds, and returns of the final evaluation's episodes.

    ``final_means``: their mean for each part of a batch with parts. ``faults``: restarts of environments by kind.
    ``clipped``: how many observations left their bounds and were clipped, and the first of them in words.
    ``fresh_at``: env steps at which training was resumed with fresh episodes.
    """

    env_steps: int
    seconds: float
    final_returns: list[float]
    final_means: Mapping[str, float] = {}
    faults: Mapping[str, int] = {}
    clipped: tuple[int, str] = (0, "")
    fresh_at: tuple[int, ...] = ()
