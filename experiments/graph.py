"""An experiment as a graph of stages, each named by the hash of its whole configuration and its source's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agents.backend import Evaluation
from agents.checkpoint import Checkpoint
from agents.encoder import default_encoder
from agents.network import NetworkConfig, PolicyNetwork
from agents.sb3 import Algorithm
from envs.errors import GraftError
from envs.factory import bounds, check, schemas
from envs.task import Bounds, Task
from experiments import __version__
from experiments.config import Config, SourceConfig
from transfer.method import TransferMethod, label, method_name
from transfer.transplant import TransplantReport


@dataclass(frozen=True)
class Stage:
    """One unit of training with one output: a pretraining, or a transfer.

    Attributes:
        task: what it trains on. seed: the experiment's seed. budget: env steps.
        network: architecture of a network made from nothing.
        algorithm_name, algorithm, evaluation: how it trains and is evaluated.
        method: how knowledge is carried over; None for a pretraining.
        source: what it starts from: the id of a pretraining stage, or of a checkpoint; None where nothing is.
        source_folder: of that checkpoint, where the source is no stage of the experiment.
        scale: bounds of the normalised score in its metrics; no part of its identity, as training never sees it.
    """

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
    scale: Bounds | None = None

    @property
    def kind(self) -> Literal["pretrain", "transfer"]:
        """What it is for."""
        return "pretrain" if self.method is None else "transfer"

    @property
    def label(self) -> str:
        """For people: ``pretrain Gather, seed 0``."""
        what = "pretrain" if self.method is None else label(self.method)
        return f"{what} · {self.task} · seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """The whole configuration that it is made from, as plain JSON values."""
        return {
            "graft": __version__,
            "kind": self.kind,
            "task": self.task.to_json(),
            "seed": self.seed,
            "budget": self.budget,
            "network": self.network.to_json(),
            "algorithm": {"name": self.algorithm_name, **asdict(self.algorithm)},
            "evaluation": asdict(self.evaluation),
            "method": None if self.method is None else {"name": method_name(self.method), **asdict(self.method)},
            "source": self.source,
        }

    @property
    def id(self) -> str:
        """First 16 hexadecimal digits of the sha256 of `to_json`."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def random_seeds(self) -> tuple[int, int]:
        """Seeds of the weights and of the training, in [0, 2**30).

        They depend on the task, the kind of stage and the seed, not on the method: methods that are compared meet the
        same levels. Seeds of different stages are far apart, because environment i of a batch is seeded with seed + i.
        """
        key = hashlib.sha256(f"{self.kind}/{json.dumps(self.task.to_json(), sort_keys=True)}".encode()).digest()
        entropy = [self.seed, int.from_bytes(key[:8], "big")]
        weights, training = np.random.SeedSequence(entropy).generate_state(2, np.uint32) >> 2
        return int(weights), int(training)


@dataclass(frozen=True)
class Comparison:
    """One method on one target from one source: stage ids per seed, and those of scratch on the same target.

    ``source`` is None for methods that use none. ``pretrain`` holds the pretraining stages' ids, one per seed.
    """

    source: str | None
    target: Task
    method: TransferMethod
    seeds: tuple[int, ...]
    stages: tuple[str, ...]
    scratch: tuple[str, ...]
    pretrain: tuple[str, ...] = ()


@dataclass
class Graph:
    """Stages by id, in an order in which sources come first, and what will be compared."""

    stages: dict[str, Stage] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)

    def add(self, stage: Stage) -> str:
        """Add a stage unless it is there already; returns its id."""
        self.stages.setdefault(stage.id, stage)
        return stage.id


def _source_name(source: SourceConfig) -> str:
    return f"checkpoint {source.checkpoint}" if source.id is None else str(Task(source.id, source.kwargs))


class _Builder:
    """Adds an experiment's stages and comparisons to a graph."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.graph = Graph()
        self.seeds = tuple(config.seed_list)
        self.network: NetworkConfig | None = None
        self._budgets = {"pretrain": config.pretrain.steps, "transfer": config.transfer.steps}
        self._algorithm_name, self._algorithm = config.algorithm_and_name()
        self._evaluation = config.evaluation_plan()

    def add(self, kind: str, task: Task, seed: int, **origin: Any) -> str:
        """Add a stage; returns its id."""
        assert self.network is not None
        stage = Stage(
            task=task,
            seed=seed,
            budget=self._budgets[kind],
            network=self.network,
            algorithm_name=self._algorithm_name,
            algorithm=self._algorithm,
            evaluation=self._evaluation,
            **origin,
        )
        return self.graph.add(stage)

    def origins(self, source: SourceConfig, needed: bool) -> dict[int, str]:
        """What the transfers of each seed start from: a pretraining stage, added here, or the checkpoint."""
        loaded = None if source.checkpoint is None else Checkpoint.load(source.checkpoint)
        network = self.config.network_config if loaded is None else _architecture(self.config, loaded, source)
        if self.network not in (None, network):
            raise GraftError(
                f"{_source_name(source)} has another network than the source before it; the controls can match one "
                f"only, so give each an experiment of its own."
            )
        self.network = network
        if loaded is not None:
            return dict.fromkeys(self.seeds, str(loaded.id))
        task = Task(str(source.id), source.kwargs)
        return {seed: self.add("pretrain", task, seed, scale=bounds(task)) for seed in self.seeds if needed}

    def add_source(self, source: SourceConfig, methods: list[TransferMethod]) -> None:
        """Add the stages of ``methods`` from ``source`` to every target, and the source's own where it needs any."""
        origins = self.origins(source, any(method.uses_source for method in methods))
        pretrain = tuple(origins.values()) if source.checkpoint is None else ()
        for target in self.config.targets:
            scratch: tuple[str, ...] = ()
            for method in methods:
                uses = method.uses_source
                stages = tuple(
                    self.add(
                        "transfer",
                        target.task,
                        seed,
                        method=method,
                        source=origins[seed] if uses else None,
                        source_folder=source.checkpoint if uses else None,
                        scale=target.scale,
                    )
                    for seed in self.seeds
                )
                scratch = stages if method.baseline else scratch
                name = _source_name(source) if uses else None
                entry = Comparison(name, target.task, method, self.seeds, stages, scratch, pretrain if uses else ())
                if entry not in self.graph.comparisons:
                    self.graph.comparisons.append(entry)


def _architecture(config: Config, loaded: Checkpoint, source: SourceConfig) -> NetworkConfig:
    """The checkpoint's; a config that asks for another one is an error, as the controls would not compare."""
    asked = config.network_config
    encoder = asked.encoder or default_encoder(loaded.schemas.observation)
    if replace(asked, encoder=encoder).to_json() == loaded.network.to_json():
        return asked
    if "network" in config.model_fields_set:
        raise GraftError(
            f"The experiment's network is {asked.to_json()}, but the one in {source.checkpoint} is "
            f"{loaded.network.to_json()}; leave 'network' out to use the checkpoint's everywhere."
        )
    return loaded.network


def expand(config: Config) -> Graph:
    """The stages of an experiment and the comparisons its table will hold.

    Raises:
        GraftError: an unknown task, method, option or checkpoint, or a target that is listed twice.
    """
    targets = [target.task for target in config.targets]
    for target in targets:
        if targets.count(target) > 1:
            raise GraftError(f"Target {target} is listed more than once; list every target once.")
    builder, methods = _Builder(config), config.method_list()
    for source in config.sources:
        builder.add_source(source, methods)
    return builder.graph


def preflight(graph: Graph) -> list[tuple[Comparison, TransplantReport | None]]:
    """Build every network that will be trained, with untrained stand-ins for sources, so that errors come before
    training; returns what each comparison would carry over.

    Raises:
        GraftError: a task that can't be made, or a source and a target that do not fit.
    """
    reports: list[tuple[Comparison, TransplantReport | None]] = []
    for task in dict.fromkeys(stage.task for stage in graph.stages.values()):
        check(task)
    for stage in graph.stages.values():
        if stage.method is None:
            PolicyNetwork(schemas(stage.task), stage.network, 0)
    for comparison in graph.comparisons:
        stage = graph.stages[comparison.stages[0]]
        source = None
        if stage.source_folder is not None:
            source = Checkpoint.load(stage.source_folder)
        elif stage.source is not None:
            origin = graph.stages[stage.source]
            source = Checkpoint.of(PolicyNetwork(schemas(origin.task), origin.network, 0), origin.task)
        try:
            built = comparison.method.build(source, schemas(stage.task), stage.network, 0)
        except GraftError as error:
            raise GraftError(f"{label(comparison.method)} on {stage.task}: {error}") from error
        reports.append((comparison, built.report))
    return reports
