"""Expanding a transfer experiment: the stages of every source, target, method and seed, and the comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graft.agents.training.algorithm import architecture_for
from graft.envs.core.union import holds
from graft.envs.factory import bounds, schemas
from graft.errors import GraftError
from graft.experiments.config.experiment import Config, TaskConfig
from graft.experiments.config.teams import check_squad
from graft.experiments.plan.builder import StageBuilder
from graft.experiments.plan.sources import Source
from graft.experiments.plan.stage import Comparison, Graph, Recall
from graft.transfer.method import TaskPosition, TransferMethod, label


class _PairsBuilder(StageBuilder):
    """Adds the stages and comparisons of a transfer experiment."""

    config: Config

    def add_source(self, source: Source, methods: list[TransferMethod]) -> None:
        """Add the stages of ``methods`` from ``source`` to every target, and the source's own where it needs any."""
        network = architecture_for(self.algorithm, source.network)
        if self.network not in (None, network):
            raise GraftError(
                f"{source.name} has another network than the source before it; the controls can match one "
                f"only, so give each an experiment of its own."
            )
        self.network = network
        if source.unplayable is not None:
            self.graph.unplayable[source.name] = f"{source.task} can't be made here: {source.unplayable}"
        if source.checkpoint is not None:
            self.graph.checkpoints[str(source.checkpoint.id)] = source.checkpoint
        self._licence: dict[str, Any] = {
            "licence": self.config.licence or source.licence,
            "licence_overridden": self._overrides_licence(source, methods),
        }
        plain = any(m.uses_source and not m.watches_source for m in methods)
        pretrained = {seed: self._pretrained(source, seed) if plain else "" for seed in self.seeds}
        starts = [
            [self._start(source, method, seed, pretrained[seed]) for seed in self.seeds] if method.uses_source else []
            for method in methods
        ]
        for target in self.config.targets:
            scratch: tuple[str, ...] = ()
            for method, start in zip(methods, starts, strict=True):
                comparison = self._comparison(source, target, method, start, scratch)
                scratch = comparison.scratch
                if comparison not in self.graph.comparisons:
                    self.graph.comparisons.append(comparison)

    def _pretrained(self, source: Source, seed: int, method: TransferMethod | None = None) -> str:
        """Id of the source's checkpoint, or of its pretraining (watched by ``method``), which is added."""
        if source.checkpoint is not None:
            return str(source.checkpoint.id)
        task, given = source.task, source.config
        licence = source.licence or self.config.licence
        return self.add(
            "pretrain", task, seed, method, given.backend, squad=given.squad, scale=source.scale, licence=licence
        )

    def _overrides_licence(self, source: Source, methods: list[TransferMethod]) -> bool:
        """Whether ``source`` may have no derivatives and is used all the same; raises GraftError where it may not."""
        licence = source.forbids_derivatives
        if licence is None or not any(m.uses_source for m in methods):
            return False
        if not self.config.override_licence:
            raise GraftError(
                f"{source.name} is under {licence}, which allows no derivatives, and a transfer makes one; where its "
                f"owner agreed, set override_licence: true, which the checkpoints will record."
            )
        return True

    def _start(self, source: Source, method: TransferMethod, seed: int, pretrained: str) -> tuple[str, str]:
        """Ids of the pretraining (or checkpoint), and of what ``method`` transfers from: that, or its consolidation."""
        if method.watches_source:
            if source.checkpoint is not None:
                raise GraftError(
                    f"{label(method)} must watch its source learn, and {source.name} is trained already; "
                    f"name the task to pretrain on."
                )
            method.check(schemas(source.task))
            pretrained = self._pretrained(source, seed, method)
        if not method.overrides("consolidate"):
            return pretrained, pretrained
        if source.unplayable is not None:
            raise GraftError(
                f"{label(method)} has to play {source.task} again, which {source.name} learned, and it can't be made "
                f"here: {source.unplayable}; install what it needs, or leave that method out."
            )
        last, folder = source.last_task(method), source.config.checkpoint
        position = TaskPosition(last, last + 2)
        return pretrained, self.add(
            "consolidate",
            source.task,
            seed,
            method=method,
            source=pretrained,
            source_folder=folder,
            position=position,
            **self._licence,
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
        sources = tuple(start for _, start in starts)
        recall, not_kept = self._recall(source, target, method)
        stages = tuple(
            self.add(
                "transfer",
                target.task,
                seed,
                method=method,
                source=start,
                source_folder=source.config.checkpoint if start in self.graph.checkpoints else None,
                recall=recall,
                squad=target.squad,
                scale=target.scale,
                **(self._licence if method.uses_source else {}),
            )
            for seed, start in zip(self.seeds, sources or [None] * len(self.seeds), strict=True)
        )
        name = source.name if method.uses_source else None
        pretrained = () if source.checkpoint else tuple(pretraining for pretraining, _ in starts)
        consolidated = sources if method.overrides("consolidate") else ()
        scratch = stages if method.baseline else scratch
        return Comparison(name, target.task, method, self.seeds, stages, scratch, pretrained, consolidated, not_kept)

    def _recall(self, source: Source, target: TaskConfig, method: TransferMethod) -> tuple[tuple[Recall, ...], str]:
        """The task on which transfers to ``target`` are evaluated as well, if any, and why there is none (`NOT_KEPT`).

        It is the source's, where the target's network can read all that it shows: what it lacks is zero then, and its
        own heads take its own actions.
        """
        task, last = target.recalled or source.task, source.last_task(method)
        if target.recalled is not None:
            if schemas(task) != schemas(target.task):
                raise GraftError(
                    f"recall of {target.task}: {task} shows or takes something else, and can't be played by what "
                    f"learned the target; give a task with the same observations and actions."
                )
            scale = source.scale if task == source.task else bounds(task)
            return ((Recall(last, task, True, scale),) if method.uses_source else ()), ""
        if not method.uses_source:
            return (), ""
        if source.unplayable is not None:
            return (), "not playable"
        mine, theirs = schemas(task), schemas(target.task)
        if not holds(theirs.observation, mine.observation):
            return (), "other inputs"
        if mine.action != theirs.action and (method.shares_heads or mine.action.kind != theirs.action.kind):
            return (), "other actions"
        return (Recall(last, task, scale=source.scale),), ""


def _check_distinct(what: str, names: Sequence[object], hint: str = "") -> None:
    for name in names:
        if names.count(name) > 1:
            raise GraftError(f"{what} {name} is listed more than once; list every {what.lower()} once{hint}.")


def expand(config: Config) -> Graph:
    """The stages of a transfer experiment and the comparisons of its table; raises GraftError where something in
    ``config`` is unknown, or a source or target is listed twice.
    """
    _check_distinct("Target", [target.task for target in config.targets])
    sources = [Source.resolve(config, source) for source in config.sources]
    _check_distinct("Source", [source.name for source in sources], ", by a name of its own")
    builder = _PairsBuilder(config)
    squads = [(e.squad, e.task, e.backend or config.backend) for e in config.sources if e.squad is not None]
    squads += [(e.squad, e.task, config.backend) for e in config.targets if e.squad is not None]
    for squad, task, backend in squads:
        check_squad(squad, task, backend, builder.trainer(backend)[0])
    for source in sources:
        builder.add_source(source, config.method_list(source.config.methods))
    return builder.graph
