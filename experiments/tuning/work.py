"""What a worker of a search does: it trains a trial's stages, one after the other, and reports every evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.errors import GraftError
from experiments.graph import Stage
from experiments.launchers.launcher import attempt
from experiments.store import Store
from experiments.tuning.paced import Stopped
from experiments.tuning.plan import Plan, Run, running_score
from experiments.tuning.search import Metric

STEPS, SCORE = "env_steps", "score"
"""Names under which trials report: env steps of their transfers so far, and the running score."""

Report = Callable[[dict[str, Any]], None]


class Failed(Exception):
    """A stage ended with an error, which its record has."""


class _Listener:
    """See `experiments.launchers.launcher.ProgressOfStage`: tells of every evaluation but the first and the last, once.

    Those from before the stage was stopped come first, as whoever is told may not have heard of them.
    """

    def __init__(self, stage: Stage, store: Store, evaluated: Callable[[int], None] | None) -> None:
        self._stage, self._store, self._evaluated = stage, store, evaluated
        self._last = 0

    def __call__(self, env_steps: int, values: Mapping[str, float]) -> None:
        if "eval/return_mean" in values or not values:
            self.catch_up()

    def catch_up(self) -> None:
        """With the metrics on the disk."""
        if self._evaluated is None:
            return
        for steps in self._store.evaluations(self._stage.id).steps:
            if self._last < steps < self._stage.budget:
                self._last = steps
                self._evaluated(steps)

    def noted(self, text: str) -> None:
        """Nobody to tell."""


def ensure(stage: Stage, store: Store, evaluated: Callable[[int], None] | None = None) -> None:
    """Train a stage unless it is done; where another worker trains it at this moment, wait for that.

    Args:
        evaluated: told the env steps of every evaluation but the first and the last, also of a stage that is done.
    Raises:
        Failed: it ended with an error.
        Stopped: of ``evaluated``; the stage is left stopped, with its latest snapshot.
    """
    listener = _Listener(stage, store, evaluated)
    if not store.done(stage.id):
        try:
            error = attempt(stage, store, listener, 1, patience=math.inf)
        except Stopped:
            store.stop(stage)
            raise
        if error is not None:
            raise Failed(f"{stage.label}: {error}")
    listener.catch_up()


@dataclass(frozen=True)
class Worker:
    """Trains trials into one folder.

    Attributes:
        out: of the search; absolute. plans: of the trials, by id. metric: which score they report.
    """

    out: Path
    plans: Mapping[str, Plan]
    metric: Metric

    def store(self) -> Store:
        """Where stages go.

        Raises:
            GraftError: this machine does not see that folder.
        """
        if not (self.out / "experiment.json").exists():
            raise GraftError(f"{self.out} is not to be seen from here; give an --out on a path that all nodes share.")
        return Store(self.out)

    def run(self, trial: str, report: Report) -> None:
        """Train a trial to its end; a failure is its last report."""
        store, plan, passed, begun = self.store(), self.plans[trial], 0, list[Run]()

        def evaluated(steps: int) -> None:
            report({STEPS: passed + steps, SCORE: running_score(self.metric, store, begun, steps)})

        try:
            for run in plan.runs:
                for stage in plan.before(run):
                    ensure(stage, store)
                begun.append(run)
                ensure(run.stage, store, evaluated)
                passed += run.stage.budget
                score = running_score(self.metric, store, begun)
                report({STEPS: passed, SCORE: score, "finished": run is plan.runs[-1]})
        except Failed as error:
            report({"failed": str(error), "done": True})
