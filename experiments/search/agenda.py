"""The stages of a search's trials, handed to a launcher one after the other as trials begin, go on and end."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optuna.trial import Trial, TrialState

from graft.errors import GraftError
from graft.experiments.launchers.launcher import STOPPED
from graft.experiments.plan.stage import Stage, StoppedEarly
from graft.experiments.report.progress import Progress
from graft.experiments.search.definition import in_words
from graft.experiments.search.plan import Plan, final_interval, make_plan
from graft.experiments.search.trials import Reporter, Trials
from graft.experiments.store.records import Store


class TrialProgress(Progress):
    """Shows the stages that run, and the trials as they end."""

    def started(self, stage: Stage) -> None:
        """Show the stage; what it starts from was not in the budget."""
        self._budget += stage.budget if stage.kind != "transfer" else 0
        super().started(stage)

    def finished(self, stage: Stage, error: str | None) -> None:
        """No longer show the stage."""
        row = self._rows.pop(stage.id, None)
        self._steps_of_finished += 0 if row is None else row.env_steps
        if error not in (None, STOPPED):
            self._say(f"FAILED   {stage.label}: {error}")

    def trial_ended(self, text: str, unspent: int) -> None:
        """Say it, and how many have ended."""
        self._done += 1
        self._budget -= unspent
        self._say(f"{text} [{self._done}/{self._total}]")


@dataclass
class _Active:
    """A trial under way. ``reported``: runs that are done. ``stage``: id of the one that a worker has."""

    trial: Trial
    plan: Plan
    reported: int = 0
    stage: str | None = None


class TrialAgenda:
    """See `graft.experiments.launchers.launcher.StageQueue`: ``jobs`` trials at once, each with one stage at a time.

    A trial's scored runs come one after the other. While another trial trains what a run starts from, sources of
    later runs are trained ahead.
    """

    def __init__(self, trials: Trials, store: Store, progress: TrialProgress, jobs: int) -> None:
        self._trials, self._store, self._progress, self._jobs = trials, store, progress, jobs
        self._active: list[_Active] = []
        self._failed: dict[str, str] = {}

    def __bool__(self) -> bool:
        self._begin()
        return bool(self._active)

    def _begin(self) -> None:
        while len(self._active) < self._jobs and (trial := self._trials.next()) is not None:
            try:
                plan = make_plan(self._trials.search, trial.user_attrs["values"])
                trial.set_user_attr("stages", [run.stage.id for run in plan.runs])
                self._active.append(_Active(trial, plan))
            except GraftError as error:  # values that are allowed one by one only
                self._fail(trial, str(error), 0)

    def ready(self) -> list[Stage]:
        """See `StageQueue`; trials with nothing left to train end here."""
        return [stage for _, stage in self._ready()]

    def _ready(self) -> list[tuple[_Active, Stage]]:
        self._begin()
        found: dict[str, tuple[_Active, Stage]] = {}
        for active in list(self._active):
            if active.stage is None and (stage := self._next(active)) is not None:
                found.setdefault(stage.id, (active, stage))
        return list(found.values())

    def _next(self, active: _Active) -> Stage | None:
        """A trial's next stage; None where it waits for another trial's, or has ended."""
        plan, taken = active.plan, {other.stage for other in self._active}
        for i, run in enumerate(plan.runs):
            for stage in plan.chain(run):
                if stage.id in self._failed:
                    self._active.remove(active)
                    self._fail(active.trial, f"{stage.label}: {self._failed[stage.id]}", 0)
                    return None
                if stage.id in taken or (stage is run.stage and i > active.reported):
                    break
                if not self._store.done(stage.id):
                    return stage
            else:
                if i == active.reported and not self._report(active):
                    return None
        return None

    def _report(self, active: _Active) -> bool:
        """Report a run that is done; whether the trial goes on."""
        active.reported += 1
        try:
            self._reporter(active).report(active.trial, self._store)
        except StoppedEarly:
            self._end(active, "stopped")
            return False
        if active.reported < len(active.plan.runs):
            return True
        score, *interval = final_interval(self._trials.search.metric, self._store, active.plan.runs)
        active.trial.set_user_attr("interval", interval)
        active.trial.study.tell(active.trial.number, score)
        self._end(active, "done")
        return False

    def _reporter(self, active: _Active, begun: int = 0) -> Reporter:
        out, search = self._store.out.resolve(), self._trials.search
        return Reporter(search, out, active.trial.number, active.plan, begun or active.reported)

    def take(self) -> Stage | None:
        """See `StageQueue`; a scored run reports to the journal as it is trained."""
        for active, stage in self._ready():
            active.stage = stage.id
            scored = stage.id == active.plan.runs[active.reported].stage.id
            return replace(stage, observer=self._reporter(active, active.reported + 1)) if scored else stage
        return None

    def put_back(self, stage: Stage) -> None:
        """See `StageQueue`."""
        self._holder(stage).stage = None

    def ended(self, stage: Stage, error: str | None) -> None:
        """See `StageQueue`."""
        active = self._holder(stage)
        active.stage = None
        self._progress.finished(stage, error)
        if error == STOPPED:
            self._end(active, "stopped")
        elif error is not None:
            self._failed[stage.id] = error

    def _holder(self, stage: Stage) -> _Active:
        return next(active for active in self._active if active.stage == stage.id)

    def _end(self, active: _Active, status: str) -> None:
        self._active.remove(active)
        index, known = active.trial.user_attrs["index"], self._trials.all()[active.trial.user_attrs["index"]]
        steps, score = max(known.intermediate_values.items())
        self._progress.trial_ended(
            f"{status:8} trial {index} ({in_words(active.trial.user_attrs['values'])}): {steps:,} env steps, score "
            f"{score:.3f}",
            active.plan.budget - steps,
        )

    def _fail(self, trial: Trial, error: str, unspent: int) -> None:
        trial.set_user_attr("error", error)
        trial.study.tell(trial.number, state=TrialState.FAIL)
        index, values = trial.user_attrs["index"], in_words(trial.user_attrs["values"])
        self._progress.trial_ended(f"FAILED   trial {index} ({values}): {error}", unspent)
