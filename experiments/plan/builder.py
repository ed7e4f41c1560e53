"""What expanding a config into stages shares between kinds of experiments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from graft.agents.networks.policy_network import NetworkConfig
from graft.agents.training.algorithm import Algorithm
from graft.agents.training.backend import Resources
from graft.envs.core.task import Task
from graft.experiments.config.backends import check_resources
from graft.experiments.config.experiment import Common
from graft.experiments.plan.stage import LOCAL, Graph, Kind, Stage
from graft.transfer.method import TransferMethod

SOURCE_EVALUATIONS = 20
"""How often a source is evaluated, at most: only its end counts, and evaluations of a long training take as long."""


class StageBuilder:
    """Adds an experiment's stages to a graph."""

    def __init__(self, config: Common) -> None:
        self.config = config
        self.graph = Graph()
        self.seeds = tuple(config.seeds)
        self.network: NetworkConfig | None = None
        self.algorithm_name, self.algorithm = config.algorithm_and_name()
        self._trainers = {config.backend: (self.algorithm, config.resources_asked())}
        self._evaluation = config.evaluation_plan()
        check_resources(config.backend, self._trainers[config.backend][1])

    def trainer(self, backend: str) -> tuple[Algorithm, Resources]:
        """Algorithm and resources of a backend; the experiment's resources are for its own backend only."""
        if backend not in self._trainers:
            self._trainers[backend] = self.config.algorithm_and_name(backend)[1], LOCAL
        return self._trainers[backend]

    def add(
        self,
        kind: Kind,
        task: Task,
        seed: int,
        method: TransferMethod | None = None,
        backend: str | None = None,
        **rest: Any,
    ) -> str:
        """Add a stage, trained by ``backend`` or the experiment's; returns its id."""
        assert self.network is not None
        backend = backend or self.config.backend
        algorithm, resources = self.trainer(backend)
        check_resources(backend, resources, method)
        if kind == "consolidate":
            assert method is not None
            budget = method.states + method.retraining
        else:
            budget = (self.config.pretrain if kind == "pretrain" else self.config.transfer).steps
        evaluation = self._evaluation
        if kind == "pretrain":
            evaluation = replace(evaluation, every=max(evaluation.every, budget // SOURCE_EVALUATIONS))
        stage = Stage(
            kind=kind,
            task=task,
            seed=seed,
            budget=budget,
            network=self.network,
            algorithm_name=self.algorithm_name,
            algorithm=algorithm,
            evaluation=evaluation,
            recall_episodes=self.config.recall,
            backend=backend,
            resources=resources,
            method=method,
            sinks=tuple(dict.fromkeys(self.config.sinks)),
            audit=self.config.audit.by_tag(),
            divergence_retries=self.config.divergence_retries,
            **{"licence": self.config.licence, **rest},
        )
        return self.graph.add(stage)
