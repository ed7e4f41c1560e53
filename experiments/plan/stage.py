"""Stages: units of work, each named by the hash of its whole configuration, and the graph that they form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graft import __version__
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig
from graft.agents.training.algorithm import Algorithm
from graft.agents.training.backend import Evaluation, Resources
from graft.envs.core.parts import modules_of, source_hash
from graft.envs.core.schema import ObservationSchema, Schemas
from graft.envs.core.task import Bounds, Task
from graft.envs.factory import part_modules, schemas
from graft.experiments.config.backends import DEFAULT
from graft.experiments.config.teams import Squad
from graft.transfer.method import TaskPosition, TransferMethod, kinds_of, label
from graft.transfer.method import to_json as method_json

LOCAL = Resources()


class StoppedEarly(BaseException):
    """Ends a stage on purpose; its snapshot stays. No `Exception`, so that no handler of failures catches it."""


Kind = Literal["pretrain", "transfer", "consolidate"]


@dataclass(frozen=True)
class Recall:
    """A task on which a finished stage's network is evaluated, and its index among the tasks learned.

    ``before``: whether it is evaluated before training as well. ``scale``: of its score in reports; not hashed.
    """

    index: int
    task: Task
    before: bool = False
    scale: Bounds | None = None


@dataclass(frozen=True)
class Stage:
    """One unit of work with one checkpoint: a pretraining, a transfer, or the consolidation of a learned task.

    Attributes:
        task: what it trains on, or consolidates. seed: the experiment's seed. budget: env steps.
        network: architecture of a network that is not built from a source.
        method: the transfer method; None for a pretraining that no method watches.
        source: id of the stage or checkpoint that it starts from; None for a fresh network.
        source_folder: of that checkpoint, where no stage of the experiment made it.
        position: index of the task and number of tasks, in a sequence.
        repeat_index: how many times the sequence had this task before.
        observation: the schema that observations are laid out as; None for the task's own.
        recall, recall_episodes: tasks that its network is evaluated on in the end, and episodes on each.
        squad: policy of each team, where all teams of a squad learn; ``task`` names the team of the stage's policy.
        backend, resources: what trains it, in which processes and on which GPUs.
        scale: bounds of the normalised score in its metrics; not hashed, as training does not use it.
        licence: SPDX id of its checkpoint's; not hashed. licence_overridden: whether
            its source allows no derivatives, and it was to be used all the same; not hashed.
        divergence_retries: how often it begins again, at half the learning rate, where its training diverges.
        own_parts: module -> sha256 of its file, for what of the stage is the user's own, when the stage was planned.
        sinks: where its metrics go beside its folder, by name; not hashed.
        audit: limits of its ``audit/`` metrics, by tag, above which it warns; not hashed.
        observer: called with (env steps, {tag: value}) in the process that runs the stage; may raise StoppedEarly
            to end it. Not hashed.
    """

    kind: Kind
    task: Task
    seed: int
    budget: int
    network: NetworkConfig
    algorithm_name: str
    algorithm: Algorithm
    evaluation: Evaluation
    method: TransferMethod | None = None
    source: str | None = None
    source_folder: Path | None = None
    position: TaskPosition | None = None
    repeat_index: int = 0
    observation: ObservationSchema | None = None
    recall: tuple[Recall, ...] = ()
    recall_episodes: int = 0
    squad: Squad | None = None
    backend: str = DEFAULT
    resources: Resources = LOCAL
    scale: Bounds | None = None
    licence: str | None = None
    licence_overridden: bool = False
    sinks: tuple[str, ...] = ("tensorboard",)
    audit: Mapping[str, float] = field(default_factory=dict)
    observer: Callable[[int, Mapping[str, float]], None] | None = None
    divergence_retries: int = 0
    own_parts: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "own_parts", {name: source_hash([name]) for name in sorted(self._part_modules())})

    def _part_modules(self) -> set[str]:
        """Modules of the method, encoder, algorithm, view and wrappers, where they are the user's own."""
        found = {*modules_of(type(self.algorithm)), *part_modules(self.task)}
        if self.method is not None:
            found.update(module for kind in kinds_of(self.method) for module in modules_of(kind))
        if self.network.encoder is not None:
            found.update(ENCODERS.modules(self.network.encoder))
        return found

    @property
    def label(self) -> str:
        """Readable name: ``pretrain · Gather · seed 0``."""
        words: list[str] = [] if self.kind == "transfer" else [self.kind]
        words += [] if self.method is None else [label(self.method)]
        return f"{' '.join(words)} · {self.task} · seed {self.seed}"

    @property
    def schemas(self) -> Schemas:
        """Of the task, with observations as they are laid out."""
        own = schemas(self.task)
        return own if self.observation is None else own._replace(observation=self.observation)

    def to_json(self) -> dict[str, Any]:
        """All that determines its result, as plain JSON values."""
        data: dict[str, Any] = {
            "graft": __version__,
            "kind": self.kind,
            "task": self.task.to_json(),
            "seed": self.seed,
            "budget": self.budget,
            "network": self.network.to_json(),
            "algorithm": {"name": self.algorithm_name, **asdict(self.algorithm)},
            "evaluation": {key: value for key, value in asdict(self.evaluation).items() if key != "max_steps"},
            "method": None if self.method is None else method_json(self.method),
            "source": self.source,
        }
        if self.backend != DEFAULT:  # processes divide environments and minibatches, which changes results
            processes = {"runners": self.resources.num_env_runners, "learners": self.resources.num_learners}
            data["backend"] = {"name": self.backend, **processes}
        if self.divergence_retries:
            data["divergence_retries"] = self.divergence_retries
        if self.own_parts:
            data["own_parts"] = dict(self.own_parts)
        if self.squad is not None:
            data["squad"] = self.squad.to_json()
        if self.position is not None:
            data["place"] = list(self.position)
        if self.repeat_index:
            data["visit"] = self.repeat_index
        if self.observation is not None:
            data["observation"] = self.observation.to_json()
        if self.recall:
            data["recall"] = [[r.index, r.task.to_json(), *(["before"] if r.before else [])] for r in self.recall]
            data["recall_episodes"] = self.recall_episodes
        return data

    @property
    def id(self) -> str:
        """First 16 hexadecimal digits of the sha256 of `to_json`."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def random_seeds(self) -> tuple[int, int]:
        """Seeds of the weights and of the training, in [0, 2**30).

        They depend on task, repeat index, kind and seed, but not on the method: compared methods see the same levels.
        Seeds of different stages are far apart, because environment i of a batch is seeded with seed + i.
        """
        return self._seeds(f"{self.kind} {self.repeat_index}" if self.repeat_index else self.kind, self.task)

    def partner_seed(self, policy: str) -> int:
        """Seed of the initial weights of a partner's policy."""
        return self._seeds(f"partner {policy}", self.task)[0]

    def recall_seed(self, task: Task) -> int:
        """Seed of the levels on which a learned task is evaluated, the same every time."""
        return self._seeds("recall", task)[1]

    def _seeds(self, purpose: str, task: Task) -> tuple[int, int]:
        key = hashlib.sha256(f"{purpose}/{json.dumps(task.to_json(), sort_keys=True)}".encode()).digest()
        entropy = [self.seed, int.from_bytes(key[:8], "big")]
        weights, training = np.random.SeedSequence(entropy).generate_state(2, np.uint32) >> 2
        return int(weights), int(training)


@dataclass(frozen=True)
class Comparison:
    """One method on one target from one source: stage ids per seed, and those of scratch on the same target.

    ``source`` is None for methods that use none. ``pretrain`` and ``consolidated``: ids of the stages that trained and
    consolidated the source, one per seed; empty where there are none. ``not_kept``: why the source's task can't be
    played after the transfer, a key of `NOT_KEPT`; empty where it can, or there is no source.
    """

    source: str | None
    target: Task
    method: TransferMethod
    seeds: tuple[int, ...]
    stages: tuple[str, ...]
    scratch: tuple[str, ...]
    pretrain: tuple[str, ...] = ()
    consolidated: tuple[str, ...] = ()
    not_kept: str = ""


NOT_KEPT = {
    "other inputs": "the target lacks something that the source shows, or shows it in another form",
    "other actions": "source and target take other actions, and the heads cannot take both",
    "not playable": "the source's task can't be made here",
    "no bounds": "the source's task has no reference scores; give the source 'bounds: [random, expert]'",
    "scratch kept": "auto kept scratch in a seed, which has nothing of the source",
}
"""Why what was kept of a source is not measured: a short reason -> a sentence."""


@dataclass(frozen=True)
class ContinualComparison:
    """One method on a sequence of tasks: per seed, the ids of the stages that trained and consolidated each task.

    ``consolidated`` is empty for methods that use no source, which train one network per task.
    """

    method: TransferMethod
    seeds: tuple[int, ...]
    trained: tuple[tuple[str, ...], ...]
    consolidated: tuple[tuple[str, ...], ...] = ()


@dataclass
class Graph:
    """Stages by id, sources before the stages that use them, and the comparisons made from them.

    ``checkpoints``: id -> checkpoint that stages start from and no stage makes. ``unplayable``: source -> why its task
    can't be played again.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    unplayable: dict[str, str] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    continual: list[ContinualComparison] = field(default_factory=list)

    def add(self, stage: Stage) -> str:
        """Add a stage unless an equal one is there; returns its id."""
        self.stages.setdefault(stage.id, stage)
        return stage.id
