"""A search's trials in Optuna's journal: sampled by TPE, reported evaluation by evaluation, stopped by halving."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from graft.errors import GraftError
from graft.experiments.plan.stage import StoppedEarly
from graft.experiments.search.definition import Search
from graft.experiments.search.plan import Plan, running_score
from graft.experiments.store.records import Store

FILE = "search.journal"

RANDOM_TRIALS = 5
"""Trials that are sampled at random before TPE starts."""

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
"""Optuna's states -> their names in tables."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _storage(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))


def _pruner(search: Search, budget: int) -> optuna.pruners.BasePruner:
    """Successive halving by env steps of a trial's transfers, which together have ``budget``."""
    if (asha := search.scheduler) is None:
        return optuna.pruners.NopPruner()
    first = min(asha.grace or max(1, round(budget / asha.reduction**2)), budget)
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=asha.reduction)


class Trials:
    """A search's trials, by their index. Only one process begins trials; those that train them report (`Reporter`).

    A trial that failed is begun again as another trial of Optuna's with the same values and the same index.

    Args:
        out: of the search; None keeps the trials in memory. budget: env steps of a trial's transfers.
    Raises:
        GraftError: ``out`` holds another search, or the journal is damaged.
    """

    def __init__(self, search: Search, out: Path | None, budget: int) -> None:
        self.search = search
        storage = optuna.storages.InMemoryStorage() if out is None else _opened(out / FILE)
        names = [study.study_name for study in storage.get_all_studies()]
        self.study = optuna.create_study(
            study_name=names[0] if names else search.name,
            storage=storage,
            load_if_exists=True,
            direction="maximize",
            pruner=_pruner(search, budget),
        )
        known = self.study.user_attrs.get("search", search.identity)
        others = [key for key in search.identity if known.get(key) != search.identity[key]]
        if others:
            raise GraftError(
                f"{out} holds another search, which differs in {', '.join(others)}; choose another --out, or remove "
                f"that folder."
            )
        self.study.set_user_attr("search", search.identity)
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if "values" not in trial.user_attrs:  # killed before it was recorded
                self.study.tell(trial.number, state=TrialState.FAIL)
        self._left = [t for t in self.all().values() if t.state in (TrialState.RUNNING, TrialState.FAIL)]

    def all(self) -> dict[int, FrozenTrial]:
        """The trials that were begun, by index; of several with the same index, the latest."""
        found = self.study.get_trials(deepcopy=False)
        return {t.user_attrs["index"]: t for t in found if "values" in t.user_attrs}

    @property
    def count(self) -> int:
        """How many there will be; fewer than the search asks for where the space is small."""
        return int(min(self.search.trials, self._settings() + 1))

    def _settings(self) -> float:
        """Number of different settings in the space."""
        choices = [d for d in self.search.space.values() if isinstance(d, CategoricalDistribution)]
        return math.prod(len(d.choices) for d in choices) if len(choices) == len(self.search.space) else math.inf

    def next(self) -> Trial | None:
        """The next trial: one that was interrupted or has failed, or a new one; None when all were begun."""
        if self._left:
            old = self._left.pop(0)
            if old.state == TrialState.RUNNING:
                return trial_of(self.study, old.number)
            self.study.enqueue_trial(old.params)
            return self._ask(old.user_attrs["index"])
        if (index := len(self.all())) >= self.count:
            return None
        if index and self._settings() <= 2 * self.search.trials:  # TPE would repeat settings
            self._enqueue_another(index)
        return self._ask(index)

    def _ask(self, index: int) -> Trial:
        """A sampled trial; the first, the unchanged experiment, has no values."""
        seed = int(np.random.SeedSequence([self.search.seed, index]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1 + RANDOM_TRIALS)
        space: dict[str, BaseDistribution] = {**self.search.space} if index else {}
        trial = self.study.ask(space)
        trial.set_user_attr("index", index)
        trial.set_user_attr("values", self.search.rounded(trial.params))
        return trial

    def _enqueue_another(self, index: int) -> None:
        """Enqueue a setting of a small space that no trial has had."""
        keys = list(self.search.space)
        grid = itertools.product(*(self.search.space[key].choices for key in keys))  # type: ignore[union-attr]
        had = [repr(trial.params) for trial in self.all().values()]
        free = [values for values in (dict(zip(keys, row, strict=True)) for row in grid) if repr(values) not in had]
        self.study.enqueue_trial(free[int(np.random.default_rng([self.search.seed, index]).integers(len(free)))])


def _opened(path: Path) -> optuna.storages.JournalStorage:
    """The journal, without an unfinished last line that a kill left."""
    if path.exists() and (rest := path.read_bytes().rpartition(b"\n")[2]):
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - len(rest))
    try:
        return _storage(path)
    except (ValueError, KeyError) as error:
        raise GraftError(f"{path} was altered; remove it and the same command begins the search anew.") from error


@lru_cache(maxsize=1)
def _storage_of(out: Path) -> optuna.storages.JournalStorage:
    """Cached, so that a worker reads only new lines of the journal."""
    return _storage(out / FILE)


def trial_of(study: optuna.Study, number: int) -> Trial:
    """A running trial by its number; Optuna has no public way to continue one of another process."""
    return Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


@dataclass(frozen=True)
class Reporter:
    """Reports a scored run's evaluations to the journal, in the process that trains it.

    Attributes:
        out: of the search; absolute. number: the trial's in Optuna's study.
        plan: of the trial. begun: how many of its runs have begun, with this one.
    """

    search: Search
    out: Path
    number: int
    plan: Plan
    begun: int

    def __call__(self, env_steps: int, values: Mapping[str, float]) -> None:
        if "eval/return_mean" in values:
            study = optuna.load_study(
                study_name=None, storage=_storage_of(self.out), pruner=_pruner(self.search, self.plan.budget)
            )
            self.report(trial_of(study, self.number), Store(self.out))

    def report(self, trial: Trial, store: Store) -> None:
        """Report the new evaluations, and prune at each but the trial's last.

        Raises:
            StoppedEarly: the trial was pruned.
        """
        runs = self.plan.runs[: self.begun]
        stage, passed = runs[-1].stage, sum(run.stage.budget for run in runs[:-1])
        known = trial.study.get_trials(deepcopy=False)[self.number].intermediate_values
        steps = [s for s in store.evaluations(stage.id).steps if 0 < s < stage.budget]
        for step in [*steps, *([stage.budget] if store.done(stage.id) else [])]:
            if passed + step in known:
                continue
            last = step if step < stage.budget else None
            trial.report(running_score(self.search.metric, store, runs, last), passed + step)
            if passed + step < self.plan.budget and trial.should_prune():
                trial.study.tell(self.number, state=TrialState.PRUNED)
                raise StoppedEarly
