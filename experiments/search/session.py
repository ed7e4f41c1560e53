"""A search session: checks, trains and reports a search in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from graft.command import FAILED, INTERRUPTED
from graft.experiments.launchers.launcher import Launcher
from graft.experiments.search.definition import Search, in_words
from graft.experiments.search.plan import make_plan
from graft.experiments.search.queue import TrialProgress, TrialQueue
from graft.experiments.search.results import cost, notes, table, trial_rows
from graft.experiments.search.trials import FILE, RANDOM_TRIALS, STATES, Trials
from graft.experiments.store.records import Store, write_json


class Session:
    """A search and its folder.

    Raises:
        GraftError: a value of the space is not allowed, or nothing could be scored.
    """

    def __init__(self, console: Console, search: Search, out: Path) -> None:
        self.console, self.search, self.store = console, search, Store(out)
        self.base = search.config()
        self.plan = make_plan(search)
        for values in search.extremes():
            make_plan(search, values)
        self.store.check(self.base)

    def say(self, text: str) -> None:
        """Print a line without wrapping it."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def dry_run(self) -> None:
        """Show the first trials, which do not depend on results."""
        trials = Trials(self.search, None, self.plan.budget)
        count = min(trials.count, 1 + RANDOM_TRIALS)
        shown = [trial.user_attrs["values"] for _ in range(count) if (trial := trials.next())]
        for index, values in enumerate(shown):
            self.say(f"{index:3}  {in_words(values)}  {self.plan.budget:,} env steps")
        if count < trials.count:
            self.say(f"The other {trials.count - count} are sampled from their results.")
        self.say(f"A trial is what this trains of the tuned methods: {self.search.command(shown[-1])}")
        self.say(
            f"{trials.count} trials by {self.search.scheduler_name}, compared by {self.search.metric}. Into "
            f"{self.store.out}. Nothing was trained or written."
        )

    def run(self, launcher: Launcher) -> int:
        """Run the trials that have not ended, and report; returns the exit code."""
        with self.store.lock():
            if (self.store.out / FILE).exists():  # before the folder's record is changed
                Trials(self.search, self.store.out, self.plan.budget)
            self.store.open(self.base, "tune")
            trials = Trials(self.search, self.store.out, self.plan.budget)
            if trials.count < self.search.trials:
                self.say(f"Note: the space has {trials.count} different trials, not {self.search.trials}.")
            try:
                self._train(trials, launcher)
            except KeyboardInterrupt:
                self._rows(trials)
                self.say("Interrupted. What is done is kept; the same command goes on from there.")
                return INTERRUPTED
            rows, spent = self._rows(trials)
            self.console.print(table(self.search, rows, len(self.base.seeds)))
            for line in notes(self.search, rows, spent):
                self.say(line)
            self.say(f"Look at it with: optuna-dashboard {self.store.out / FILE}")
            return FAILED if any(row["status"] not in ("done", "stopped") for row in rows) else 0

    def _train(self, trials: Trials, launcher: Launcher) -> None:
        ended = sum(STATES[trial.state] in ("done", "stopped") for trial in trials.all().values())
        left = max(0, trials.count - ended)
        if not left:
            self.say(f"{self.search.name}: all {ended} trials have ended already, in {self.store.out}")
            return
        assert launcher.jobs is not None
        self.say(
            f"{self.search.name}: {left} of {trials.count} trials to run by {self.search.scheduler_name}, "
            f"{launcher.jobs} at once, into {self.store.out}"
        )
        with TrialProgress(self.console, trials.count, ended, left * self.plan.budget) as progress:
            launcher.run(TrialQueue(trials, self.store, progress, launcher.jobs), self.store, progress)

    def _rows(self, trials: Trials) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """The trials' records and their cost, which are also written to tune.json."""
        rows = trial_rows(trials, self.plan.budget)
        spent = cost(self.store, rows)
        results = {"name": self.search.name, "search": self.search.identity, "cost": spent, "trials": rows}
        write_json(self.store.out / "tune.json", results)
        return rows, spent
