"""Expanding a continual experiment: for each method and seed a chain of training and consolidation."""

from __future__ import annotations

from typing import Any

from graft.agents.training.algorithm import architecture_for
from graft.envs.core.union import union
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.experiment import SequenceConfig
from graft.experiments.plan.builder import StageBuilder
from graft.experiments.plan.stage import ContinualComparison, Graph, Kind, Recall
from graft.transfer.method import TaskPosition, TransferMethod


class _SequenceBuilder(StageBuilder):
    """Adds the chains of every method; a first task that no method watches is learned once for all of them."""

    config: SequenceConfig

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.network = architecture_for(self.algorithm, config.network_config)
        self._tasks = [entry.task for entry in config.sequence]
        self._observation = union([schemas(task).observation for task in self._tasks])

    def _add(self, kind: Kind, k: int, seed: int, method: TransferMethod | None, **rest: Any) -> str:
        """Add a stage on task k."""
        return self.add(
            kind,
            self._tasks[k],
            seed,
            method,
            observation=self._observation,
            scale=self.config.sequence[k].scale,
            position=TaskPosition(k, len(self._tasks)) if kind != "pretrain" else None,
            repeat_index=self._tasks[:k].count(self._tasks[k]),
            **rest,
        )

    def _train(self, k: int, seed: int, method: TransferMethod | None, source: str | None = None) -> str:
        return self._add("transfer" if k else "pretrain", k, seed, method, source=source)

    def _consolidate(self, k: int, seed: int, method: TransferMethod, trained: str) -> str:
        """Add the consolidation of task k, and evaluations on every task that its network has heads for."""
        evaluated = self._tasks if self.config.heads == "shared" else self._tasks[: k + 1]
        recall = tuple(Recall(min(j, k) if self.config.task_known else k, task) for j, task in enumerate(evaluated))
        return self._add("consolidate", k, seed, method, source=trained, recall=recall)

    def add_method(self, method: TransferMethod) -> None:
        """Add a method's chains."""
        count = range(len(self._tasks))
        trained: list[tuple[str, ...]] = []
        consolidated: list[tuple[str, ...]] = []
        if method.watches_source:
            method.check(schemas(self._tasks[0]))
        for seed in self.seeds:
            if not method.uses_source:  # the baseline's first task is the pretraining that other methods start from
                first = None if method.baseline else method
                trained.append(tuple(self._train(k, seed, method if k else first) for k in count))
                continue
            training: list[str] = []
            memories: list[str] = []
            for k in count:
                own = method if k or method.watches_source else None
                training.append(self._train(k, seed, own, memories[-1] if k else None))
                memories.append(self._consolidate(k, seed, method, training[-1]))
            trained.append(tuple(training))
            consolidated.append(tuple(memories))
        self.graph.continual.append(ContinualComparison(method, self.seeds, tuple(trained), tuple(consolidated)))


def expand_sequence(config: SequenceConfig) -> Graph:
    """The stages of a continual experiment; raises GraftError where its tasks or methods do not fit together."""
    tasks = [entry.task for entry in config.sequence]
    if config.heads == "shared":
        for task in tasks[1:]:
            if schemas(task).action != schemas(tasks[0]).action:
                raise GraftError(f"{task} has other actions than {tasks[0]}, so they cannot share heads.")
    builder = _SequenceBuilder(config)
    for method in config.method_list():
        builder.add_method(method)
    return builder.graph
