"""An experiment as a graph of stages, each named by the hash of its whole configuration and its source's."""

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
from graft.agents.networks.policy_network import NetworkConfig
from graft.agents.training.algorithm import Algorithm, architecture_for
from graft.agents.training.backend import Evaluation, Resources
from graft.envs.core.schema import ObservationSchema, Schemas
from graft.envs.core.task import Bounds, Task
from graft.envs.factory import bounds, schemas
from graft.errors import GraftError
from graft.experiments.config.backends import DEFAULT, refuse
from graft.experiments.config.experiment import Common, Config, TaskConfig
from graft.experiments.config.teams import Squad, check
from graft.experiments.plan.sources import Source
from graft.transfer.method import TaskPosition, TransferMethod, label
from graft.transfer.method import to_json as method_json

LOCAL = Resources()


class StoppedEarly(BaseException):
    """A stage is ended on purpose and keeps its snapshot; no `Exception`, so that nothing takes it for a failure."""


Kind = Literal["pretrain", "transfer", "consolidate"]


@dataclass(frozen=True)
class Recall:
    """A task that a finished stage's network is tried on, and its index among the tasks learned.

    ``before``: whether it is tried before training as well.
    """

    index: int
    task: Task
    before: bool = False


@dataclass(frozen=True)
class Stage:
    """One unit of work with one output: a pretraining, a transfer, or the consolidation of a task that was learned.

    Attributes:
        kind: what it is.
        task: what it trains on, or what was trained on. seed: the experiment's seed. budget: env steps.
        network: architecture of a network made from nothing.
        algorithm_name, algorithm, evaluation: how it trains and is evaluated.
        method: how knowledge is carried over; None for a pretraining that no method watches.
        source: what it starts from: the id of another stage, or of a checkpoint; None where nothing is.
        source_folder: of that checkpoint, where the source is no stage of the experiment.
        position: which of how many tasks it is about; None where no sequence is.
        repeat_index: how often the sequence came by this task before.
        observation: the schema that observations are laid out as; None for the task's own.
        recall, recall_episodes: what its network is tried on in the end, and how often.
        squad: who plays whom, where all teams of a squad learn; ``task`` names the team whose policy the stage makes.
        backend, resources: who trains it, and the processes and GPUs that this takes.
        scale: bounds of the normalised score in its metrics; no part of its identity, as training never sees it.
        observer: told (env steps, {tag: value}) in the process that runs the stage, which it may end by raising
            StoppedEarly; no part of its identity.
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
    observer: Callable[[int, Mapping[str, float]], None] | None = None

    @property
    def label(self) -> str:
        """For people: ``pretrain · Gather · seed 0``."""
        words: list[str] = [] if self.kind == "transfer" else [self.kind]
        words += [] if self.method is None else [label(self.method)]
        return f"{' '.join(words)} · {self.task} · seed {self.seed}"

    @property
    def schemas(self) -> Schemas:
        """Of the task, with observations as they are laid out."""
        found = schemas(self.task)
        return found if self.observation is None else found._replace(observation=self.observation)

    def to_json(self) -> dict[str, Any]:
        """The whole configuration that it is made from, as plain JSON values."""
        data: dict[str, Any] = {
            "graft": __version__,
            "kind": self.kind,
            "task": self.task.to_json(),
            "seed": self.seed,
            "budget": self.budget,
            "network": self.network.to_json(),
            "algorithm": {"name": self.algorithm_name, **asdict(self.algorithm)},
            "evaluation": asdict(self.evaluation),
            "method": None if self.method is None else method_json(self.method),
            "source": self.source,
        }
        if self.backend != DEFAULT:  # processes share out environments and minibatches, which changes what comes out
            processes = {"runners": self.resources.num_env_runners, "learners": self.resources.num_learners}
            data["backend"] = {"name": self.backend, **processes}
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

        They depend on the task, how often it was visited before, the kind of stage and the seed, not on the method:
        methods that are compared meet the same levels. Seeds of different stages are far apart, because environment i
        of a batch is seeded with seed + i.
        """
        return self._seeds(self.kind if not self.repeat_index else f"{self.kind} {self.repeat_index}", self.task)

    def partner_seed(self, policy: str) -> int:
        """Seed of the weights of a policy that learns beside the stage's own."""
        return self._seeds(f"partner {policy}", self.task)[0]

    def recall_seed(self, task: Task) -> int:
        """Seed of the levels on which a task that was learned is tried: the same whenever it is tried, and its own."""
        return self._seeds("recall", task)[1]

    def _seeds(self, purpose: str, task: Task) -> tuple[int, int]:
        key = hashlib.sha256(f"{purpose}/{json.dumps(task.to_json(), sort_keys=True)}".encode()).digest()
        entropy = [self.seed, int.from_bytes(key[:8], "big")]
        weights, training = np.random.SeedSequence(entropy).generate_state(2, np.uint32) >> 2
        return int(weights), int(training)


@dataclass(frozen=True)
class Comparison:
    """One method on one target from one source: stage ids per seed, and those of scratch on the same target.

    ``source`` is None for methods that use none. ``pretrain`` and ``consolidated`` hold the ids of the stages that made
    what the transfers start from, one per seed; empty where there are none.
    """

    source: str | None
    target: Task
    method: TransferMethod
    seeds: tuple[int, ...]
    stages: tuple[str, ...]
    scratch: tuple[str, ...]
    pretrain: tuple[str, ...] = ()
    consolidated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lifelong:
    """One method on a sequence of tasks: per seed, the ids of the stages that trained and consolidated each task.

    ``consolidated`` is empty for methods that use no source: these have a network of its own for each task.
    """

    method: TransferMethod
    seeds: tuple[int, ...]
    trained: tuple[tuple[str, ...], ...]
    consolidated: tuple[tuple[str, ...], ...] = ()


@dataclass
class Graph:
    """Stages by id, in an order in which sources come first, and what will be compared.

    ``checkpoints``: id -> what stages start from that are made by none of them.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    lifelong: list[Lifelong] = field(default_factory=list)

    def add(self, stage: Stage) -> str:
        """Add a stage unless it is there already; returns its id."""
        self.stages.setdefault(stage.id, stage)
        return stage.id


class Builder:
    """Adds an experiment's stages to a graph."""

    def __init__(self, config: Common) -> None:
        self.config = config
        self.graph = Graph()
        self.seeds = tuple(config.seeds)
        self.network: NetworkConfig | None = None
        self.algorithm_name, self.algorithm = config.algorithm_and_name()
        self._algorithms = {config.backend: self.algorithm}
        self._budgets = {"pretrain": config.pretrain.steps, "transfer": config.transfer.steps}
        self._evaluation = config.evaluation_plan()
        self._resources = {config.backend: config.resources_asked()}
        refuse(config.backend, self._resources[config.backend])

    def _trainer(self, by: str) -> tuple[Algorithm, Resources]:
        """The algorithm of a backend; the experiment's resources are for its own, and another one has this machine."""
        if by not in self._algorithms:
            _, self._algorithms[by] = self.config.algorithm_and_name(by)
            self._resources[by] = LOCAL
        return self._algorithms[by], self._resources[by]

    def check(self, squad: Squad, task: Task, by: str | None = None) -> None:
        """Raise GraftError where the backend ``by``, or the experiment's, can't let all teams of ``task`` learn so."""
        by = by or self.config.backend
        check(squad, task, by, self._trainer(by)[0])

    def add(
        self,
        kind: Kind,
        task: Task,
        seed: int,
        method: TransferMethod | None = None,
        by: str | None = None,
        **rest: Any,
    ) -> str:
        """Add a stage, trained by the backend ``by`` or the experiment's; returns its id."""
        assert self.network is not None
        by = by or self.config.backend
        algorithm, resources = self._trainer(by)
        refuse(by, resources, method)
        budget = self._budgets.get(kind, 0)
        if kind == "consolidate":
            assert method is not None
            budget = method.states + method.retraining
        stage = Stage(
            kind=kind,
            task=task,
            seed=seed,
            budget=budget,
            network=self.network,
            algorithm_name=self.algorithm_name,
            algorithm=algorithm,
            evaluation=self._evaluation,
            recall_episodes=self.config.recall,
            backend=by,
            resources=resources,
            method=method,
            **rest,
        )
        return self.graph.add(stage)


class _Pairs(Builder):
    """Adds the stages and comparisons of a transfer experiment."""

    config: Config

    def add_source(self, source: Source, methods: list[TransferMethod]) -> None:
        """Add the stages of ``methods`` from ``source`` to every target, and the source's own where it needs any."""
        self._use_network_of(source)
        if source.checkpoint is not None:
            self.graph.checkpoints[str(source.checkpoint.id)] = source.checkpoint
        plain = any(m.uses_source and not m.watches_source for m in methods)
        origins = {seed: self._origin(source, seed) if plain else "" for seed in self.seeds}
        starts = [
            [self._start(source, method, seed, origins[seed]) for seed in self.seeds] if method.uses_source else []
            for method in methods
        ]
        for target in self.config.targets:
            scratch: tuple[str, ...] = ()
            for method, began in zip(methods, starts, strict=True):
                entry = self._comparison(source, target, method, began, scratch)
                scratch = entry.scratch
                if entry not in self.graph.comparisons:
                    self.graph.comparisons.append(entry)

    def _use_network_of(self, source: Source) -> None:
        network = architecture_for(self.algorithm, source.network)
        if self.network not in (None, network):
            raise GraftError(
                f"{source.name} has another network than the source before it; the controls can match one "
                f"only, so give each an experiment of its own."
            )
        self.network = network

    def _origin(self, source: Source, seed: int, method: TransferMethod | None = None) -> str:
        """The id of the checkpoint, or of the pretraining, watched by ``method``, which is added if needed."""
        if source.checkpoint is not None:
            return str(source.checkpoint.id)
        task, given = source.task, source.config
        return self.add("pretrain", task, seed, method, given.backend, squad=given.squad, scale=bounds(task))

    def _start(self, source: Source, method: TransferMethod, seed: int, origin: str) -> tuple[str, str]:
        """The stages or checkpoints that trained the source, and that ``method`` transfers from: what it made of it."""
        if method.watches_source:
            if source.checkpoint is not None:
                raise GraftError(
                    f"{label(method)} must watch its source learn, and {source.name} is trained already; "
                    f"name the task to pretrain on."
                )
            method.check(schemas(source.task))
            origin = self._origin(source, seed, method)
        if not method.overrides("consolidate"):
            return origin, origin
        last, folder = source.last_task(method), source.config.checkpoint
        position = TaskPosition(last, last + 2)
        return origin, self.add(
            "consolidate", source.task, seed, method=method, source=origin, source_folder=folder, position=position
        )

    def _comparison(
        self,
        source: Source,
        target: TaskConfig,
        method: TransferMethod,
        starts: list[tuple[str, str]],
        scratch: tuple[str, ...],
    ) -> Comparison:
        """One method on one target, with its stages added; ``starts``: of `_start`, per seed, if it uses a source."""
        own, recall = tuple(start for _, start in starts), self._recalled(source, target, method)
        stages = tuple(
            self.add(
                "transfer",
                target.task,
                seed,
                method=method,
                source=origin,
                source_folder=source.config.checkpoint if origin in self.graph.checkpoints else None,
                recall=recall,
                squad=target.squad,
                scale=target.scale,
            )
            for seed, origin in zip(self.seeds, own or [None] * len(self.seeds), strict=True)
        )
        name = source.name if method.uses_source else None
        trained = () if source.checkpoint else tuple(origin for origin, _ in starts)
        between = own if method.overrides("consolidate") else ()
        scratch = stages if method.baseline else scratch
        return Comparison(name, target.task, method, self.seeds, stages, scratch, trained, between)

    def _recalled(self, source: Source, target: TaskConfig, method: TransferMethod) -> tuple[Recall, ...]:
        """The task that transfers to ``target`` are tried on as well, where what learned the target can play it."""
        tried = target.recalled or source.task
        alike = schemas(tried) == schemas(target.task)
        if target.recalled is not None and not alike:
            raise GraftError(
                f"recall of {target.task}: {tried} shows or takes something else, and can't be played by what "
                f"learned the target; give a task with the same observations and actions."
            )
        if not method.uses_source or not alike:
            return ()
        return (Recall(source.last_task(method), tried, target.recalled is not None),)


def expand(config: Config) -> Graph:
    """The stages of a transfer experiment and the comparisons its table will hold.

    Raises:
        GraftError: an unknown task, method, option or checkpoint, or a source or target that is listed twice.
    """
    targets = [target.task for target in config.targets]
    for target in targets:
        if targets.count(target) > 1:
            raise GraftError(f"Target {target} is listed more than once; list every target once.")
    sources = [Source.resolve(config, source) for source in config.sources]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise GraftError(f"Source {name} is listed more than once; list every source once, by a name of its own.")
    builder = _Pairs(config)
    for given in config.sources:
        if given.squad is not None:
            builder.check(given.squad, given.task, given.backend)
    for entry in config.targets:
        if entry.squad is not None:
            builder.check(entry.squad, entry.task)
    for source in sources:
        builder.add_source(source, config.method_list(source.config.methods))
    return builder.graph
