"""A continual experiment as a graph: for each method and seed a chain of training and consolidation."""

from __future__ import annotations

from typing import Any

from graft.agents.training.algorithm import architecture_for
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.union import union
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.experiment import SequenceConfig
from graft.experiments.plan.graph import Builder, Graph, Lifelong, Recall
from graft.transfer.method import TaskPosition, TransferMethod


class _Sequence(Builder):
    """Adds the chains of every method; a first task that no method watches is learned once for all of them."""

    config: SequenceConfig

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.network = architecture_for(self.algorithm, config.network_config)
        self._tasks = [entry.task for entry in config.sequence]
        self._scales = [entry.scale for entry in config.sequence]
        self._observation: ObservationSchema = union([schemas(task).observation for task in self._tasks])

    def _repeat_index(self, k: int) -> int:
        return self._tasks[:k].count(self._tasks[k])

    def train(self, k: int, seed: int, **rest: Any) -> str:
        """Add the training on task k."""
        position = TaskPosition(k, len(self._tasks))
        return self.add(
            "transfer" if k > 0 else "pretrain",
            self._tasks[k],
            seed,
            observation=self._observation,
            scale=self._scales[k],
            position=position if k > 0 else None,
            repeat_index=self._repeat_index(k),
            **rest,
        )

    def consolidate(self, k: int, seed: int, method: TransferMethod, trained: str) -> str:
        """Add what follows the training on task k: memory, and a trial on every task that can be tried."""
        last = len(self._tasks) if self.config.heads == "shared" else k + 1
        return self.add(
            "consolidate",
            self._tasks[k],
            seed,
            method=method,
            source=trained,
            position=TaskPosition(k, len(self._tasks)),
            repeat_index=self._repeat_index(k),
            observation=self._observation,
            recall=tuple(
                Recall(min(j, k) if self.config.task_known else k, task) for j, task in enumerate(self._tasks[:last])
            ),
            scale=self._scales[k],
        )

    def add_method(self, method: TransferMethod) -> None:
        """Add a method's chains."""
        count = len(self._tasks)
        if not method.uses_source:
            trained = tuple(
                tuple(self.train(k, seed, method=method if k else _own(method)) for k in range(count))
                for seed in self.seeds
            )
            self.graph.lifelong.append(Lifelong(method, self.seeds, trained))
            return
        if method.watches_source:
            method.check(schemas(self._tasks[0]))
        trained_ids, consolidated_ids = [], []
        for seed in self.seeds:
            trained_here: list[str] = []
            kept: list[str] = []
            for k in range(count):
                rest: dict[str, Any] = {"method": method if k or method.watches_source else None}
                if k:
                    rest["source"] = kept[-1]
                trained_here.append(self.train(k, seed, **rest))
                kept.append(self.consolidate(k, seed, method, trained_here[-1]))
            trained_ids.append(tuple(trained_here))
            consolidated_ids.append(tuple(kept))
        self.graph.lifelong.append(Lifelong(method, self.seeds, tuple(trained_ids), tuple(consolidated_ids)))


def _own(method: TransferMethod) -> TransferMethod | None:
    """A control's first task: the baseline's is the plain pretraining that the others start from."""
    return None if method.baseline else method


def expand_sequence(config: SequenceConfig) -> Graph:
    """The stages of a continual experiment.

    Raises:
        GraftError: an unknown task, method or option, observations without a union, or heads that can't be shared.
    """
    tasks = [entry.task for entry in config.sequence]
    if config.heads == "shared":
        first = schemas(tasks[0]).action
        for task in tasks[1:]:
            if schemas(task).action != first:
                raise GraftError(f"{task} has other actions than {tasks[0]}, so they cannot share heads.")
    builder = _Sequence(config)
    for method in config.method_list():
        builder.add_method(method)
    return builder.graph
