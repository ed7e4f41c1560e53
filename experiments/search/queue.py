"""The queue of a search's stages: trials begin, continue and end as a launcher takes their stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from optuna.trial import Trial, TrialState
from rich.console import Console

from graft.errors import GraftError
from graft.experiments.launchers.launcher import STOPPED
from graft.experiments.plan.stage import Stage, StoppedEarly
from graft.experiments.report.progress import Progress
from graft.experiments.search.definition import in_words
from graft.experiments.search.plan import Plan, final_interval, make_plan
from graft.experiments.search.trials import Reporter, Trials
from graft.experiments.store.records import Store


class TrialProgress(Progress):
    """Progress of a search: the stages that run, and the trials as they end.

    ``count``, ``ended``: trials of the search, and how many had ended before. ``budget``: env steps of the others.
    """

    def __init__(self, console: Console, count: int, ended: int, budget: int) -> None:
        super().__init__(console, [], ended, "trials")
        self._total, self._budget = count, budget

    def started(self, stage: Stage) -> None:
        """Show the stage; the budget counts transfers alone until their sources start."""
        self._budget += stage.budget if stage.kind != "transfer" else 0
        super().started(stage)

    def finished(self, stage: Stage, error: str | None) -> None:
        row = self._rows.pop(stage.id, None)
        self._steps_of_finished += 0 if row is None else row.env_steps
        if error not in (None, STOPPED):
            self._say(f"FAILED   {stage.label}: {error}")

    def trial_ended(self, text: str, unspent: int) -> None:
        """Print a line about the trial, whose ``unspent`` env steps are not taken."""
        self._done += 1
        self._budget -= unspent
        self._say(f"{text} [{self._done}/{self._total}]")


@dataclass
class _RunningTrial:
    """``reported``: how many of its runs are done. ``stage``: id of the stage that a worker has."""

    trial: Trial
    plan: Plan
    reported: int = 0
    stage: str | None = None


class TrialQueue:
    """A `StageQueue` of ``jobs`` trials at once, each with one stage at a time.

    A trial's scored runs come one after the other. While another trial trains the source of a run, sources of later
    runs are trained ahead.
    """

    def __init__(self, trials: Trials, store: Store, progress: TrialProgress, jobs: int) -> None:
        self._trials, self._store, self._progress, self._jobs = trials, store, progress, jobs
        self._running: list[_RunningTrial] = []
        self._failed: dict[str, str] = {}

    def __bool__(self) -> bool:
        self._begin()
        return bool(self._running)

    def _begin(self) -> None:
        while len(self._running) < self._jobs and (trial := self._trials.next()) is not None:
            try:
                plan = make_plan(self._trials.search, trial.user_attrs["values"])
                trial.set_user_attr("stages", [run.stage.id for run in plan.runs])
                self._running.append(_RunningTrial(trial, plan))
            except GraftError as error:  # values that are allowed one by one only
                self._fail(trial, str(error))

    def ready(self) -> list[Stage]:
        """Trials without further stages end here."""
        return [stage for _, stage in self._ready()]

    def _ready(self) -> list[tuple[_RunningTrial, Stage]]:
        self._begin()
        stages: dict[str, tuple[_RunningTrial, Stage]] = {}
        for running in list(self._running):
            if running.stage is None and (stage := self._next(running)) is not None:
                stages.setdefault(stage.id, (running, stage))
        return list(stages.values())

    def _next(self, running: _RunningTrial) -> Stage | None:
        """A trial's next stage; None where it waits for another trial's stage, or has ended."""
        plan, taken = running.plan, {other.stage for other in self._running}
        for i, run in enumerate(plan.runs):
            for stage in plan.chain(run):
                if stage.id in self._failed:
                    self._running.remove(running)
                    self._fail(running.trial, f"{stage.label}: {self._failed[stage.id]}")
                    return None
                if stage.id in taken or (stage is run.stage and i > running.reported):
                    break
                if not self._store.done(stage.id):
                    return stage
            else:
                if i == running.reported and not self._report(running):
                    return None
        return None

    def _report(self, running: _RunningTrial) -> bool:
        """Report a run that is done; returns whether the trial continues."""
        running.reported += 1
        try:
            self._reporter(running).report(running.trial, self._store)
        except StoppedEarly:
            self._end(running, "stopped")
            return False
        if running.reported < len(running.plan.runs):
            return True
        score, *bounds = final_interval(self._trials.search.metric, self._store, running.plan.runs)
        running.trial.set_user_attr("interval", [bound if isfinite(bound) else None for bound in bounds])
        running.trial.study.tell(running.trial.number, score)
        self._end(running, "done")
        return False

    def _reporter(self, running: _RunningTrial, begun: int = 0) -> Reporter:
        out, search = self._store.out.resolve(), self._trials.search
        return Reporter(search, out, running.trial.number, running.plan, begun or running.reported)

    def take(self) -> Stage | None:
        """A scored run reports to the journal as it is trained."""
        for running, stage in self._ready():
            running.stage = stage.id
            scored = stage.id == running.plan.runs[running.reported].stage.id
            return replace(stage, observer=self._reporter(running, running.reported + 1)) if scored else stage
        return None

    def requeue(self, stage: Stage) -> None:
        self._trial_of(stage).stage = None

    def finish(self, stage: Stage, error: str | None) -> None:
        running = self._trial_of(stage)
        running.stage = None
        self._progress.finished(stage, error)
        if error == STOPPED:
            self._end(running, "stopped")
        elif error is not None:
            self._failed[stage.id] = error

    def _trial_of(self, stage: Stage) -> _RunningTrial:
        return next(running for running in self._running if running.stage == stage.id)

    def _end(self, running: _RunningTrial, status: str) -> None:
        self._running.remove(running)
        index, known = running.trial.user_attrs["index"], self._trials.all()[running.trial.user_attrs["index"]]
        steps, score = max(known.intermediate_values.items())
        self._progress.trial_ended(
            f"{status:8} trial {index} ({in_words(running.trial.user_attrs['values'])}): {steps:,} env steps, score "
            f"{score:.3f}",
            running.plan.budget - steps,
        )

    def _fail(self, trial: Trial, error: str) -> None:
        trial.set_user_attr("error", error)
        trial.study.tell(trial.number, state=TrialState.FAIL)
        index, values = trial.user_attrs["index"], in_words(trial.user_attrs["values"])
        self._progress.trial_ended(f"FAILED   trial {index} ({values}): {error}", unspent=0)
