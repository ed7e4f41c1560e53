"""The stages of a trial: transfers of the tuned methods and their sources, and the scores of trials."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graft.envs.core.task import Bounds
from graft.errors import GraftError
from graft.experiments.config.experiment import Config
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.stage import Comparison, Stage
from graft.experiments.search.definition import Metric, Search
from graft.experiments.store.records import Store
from graft.transfer.method import TransferMethod, label, method_name, parse_method
from graft.transfer.metrics import Curve, area, final_score
from graft.transfer.statistics import Interval, iqm_interval

METHOD_KEY = re.compile(r"^(?:sources\.(\d+)\.)?methods\.(\d+)")
"""Keys of a space that are about one method: which source's list, and which entry."""


@dataclass(frozen=True)
class Run:
    """A transfer that is scored: one method from one source to one target, with one seed.

    Attributes:
        group: the first three, the same in every trial; runs of a group differ in their seed.
        scale: of its scores. recall: of its score on what it is tried on afterwards, where there is such a thing.
    """

    group: str
    stage: Stage
    scale: Bounds
    recall: Bounds | None = None


@dataclass(frozen=True)
class Plan:
    """A trial's ``stages`` by id, and its ``runs`` in order of training: all of the first seed, then of the next."""

    stages: Mapping[str, Stage]
    runs: tuple[Run, ...]

    @property
    def budget(self) -> int:
        """Env steps of all transfers, in which rungs are counted."""
        return sum(run.stage.budget for run in self.runs)

    def chain(self, run: Run) -> list[Stage]:
        """The stages that a run depends on, in order, and its own."""
        stages = [run.stage]
        while (source := self.stages.get(stages[0].source or "")) is not None:
            stages.insert(0, source)
        return stages


def make_plan(search: Search, values: Mapping[str, object] | None = None) -> Plan:
    """The plan of a trial; None is the unchanged experiment. Raises GraftError for bad values, or nothing to score."""
    config = search.config(values)  # type: ignore[arg-type]
    graph = expand(config)
    tuned = _tuned(search, config)
    chosen = [comparison for comparison in graph.comparisons if comparison.method in tuned]
    if not chosen:
        raise GraftError(f"{search.experiment} has no method to tune; name one under 'methods'.")
    scales = {target.task: target.scale for target in config.targets}
    runs = [
        _run(search, graph.stages[comparison.stages[i]], comparison, scales[comparison.target])
        for i in range(len(config.seeds))
        for comparison in chosen
    ]
    return Plan(graph.stages, tuple(runs))


def _tuned(search: Search, config: Config) -> list[TransferMethod]:
    """The methods of the keys of the space; without such keys, all that the experiment names."""
    entries = []
    for key in search.space:
        if found := METHOD_KEY.match(key):
            source, index = found.groups()
            lists = [config.methods] if source is None else [s.methods or [] for s in config.sources]
            listed = lists[int(source or 0)] if int(source or 0) < len(lists) else []
            if int(index) >= len(listed):
                raise GraftError(f"space: '{key}' is about a method that is not there; 0 is the first of its list.")
            entries.append(listed[int(index)])
    named = [*config.methods, *(entry for source in config.sources for entry in source.methods or ())]
    return [parse_method(entry) for entry in entries or named]


def _run(search: Search, stage: Stage, comparison: Comparison, scale: Bounds | None) -> Run:
    if scale is None:
        raise GraftError(
            f"{stage.task} has no scale, which scores of trials need; give its target 'bounds: [random, expert]'."
        )
    recall = stage.recall[0].scale if stage.recall else None
    if search.metric == "balance" and recall is None:
        raise GraftError(
            f"metric: balance needs what {label(comparison.method)} keeps of its source, which can't be measured on "
            f"{stage.task}: they look different, or its scale is unknown; use auc or final."
        )
    group = f"{comparison.source} to {comparison.target} by {method_name(comparison.method)}"
    return Run(group, stage, scale, recall)


def _curve(store: Store, run: Run, last: int | None = None) -> Curve:
    curve = store.evaluations(run.stage.id, run.scale)
    count = len(curve.steps) if last is None else sum(step <= last for step in curve.steps)
    return Curve(curve.steps[:count], curve.scores[:count])


def _measure(metric: Metric, curve: Curve) -> float:
    return area(curve) if metric == "auc" else final_score(curve)


def running_score(metric: Metric, store: Store, runs: Sequence[Run], last: int | None = None) -> float:
    """Score of a trial that has begun ``runs``: the mean of their metrics so far, weighted by env steps.

    For ``auc`` that is the mean score over all env steps so far. ``balance`` counts as ``final`` here. Of the latest
    run, the first ``last`` env steps count; None for all.
    """
    curves = [_curve(store, run, last if run is runs[-1] else None) for run in runs]
    total = sum(curve.steps[-1] * _measure(metric, curve) for curve in curves)
    return total / sum(curve.steps[-1] for curve in curves)


def final_interval(metric: Metric, store: Store, runs: Sequence[Run]) -> Interval:
    """Score of a finished trial: the interquartile mean of its runs' metrics, resampled within groups."""
    groups: dict[str, list[float]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(_whole(metric, store, run))
    return iqm_interval(groups)


def _whole(metric: Metric, store: Store, run: Run) -> float:
    """Metric of a finished run; ``balance`` is the mean of the final score and of what was kept of the source."""
    reached = _measure(metric, _curve(store, run))
    if metric != "balance":
        return reached
    record = store.record(run.stage.id)
    assert record is not None
    assert run.recall is not None
    return (reached + run.recall.normalise(record["recall"][0]["return_mean"])) / 2
