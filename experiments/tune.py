"""Hyper-parameter search: `python -m experiments.tune SEARCH [key=value ...] [--trials N] [--jobs N] [--dry-run]`."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from envs.command import FAILED, INTERRUPTED, command
from envs.errors import GraftError
from experiments.graph import Graph
from experiments.launchers.launcher import at_least, usable_cores
from experiments.launchers.local import LocalLauncher
from experiments.progress import Progress
from experiments.store import Store, write_json
from experiments.tuning.follow import Follow
from experiments.tuning.ledger import ENDED, FILE, TrialLedger
from experiments.tuning.plan import make_plan
from experiments.tuning.population import Breeder, Population
from experiments.tuning.results import cost, member_rows, notes, table, trial_rows
from experiments.tuning.search import METRICS, SCHEDULERS, Pbt, Search, load_search, packaged_searches
from experiments.tuning.work import Worker

EXAMPLES = """examples:
  python -m experiments.tune tune_ewc                          a few minutes on two cores, into runs/tune_ewc
  python -m experiments.tune tune_ewc --dry-run                the trials, without training
  python -m experiments.tune tune_ewc --trials 24              twelve more: those that are done are not run again
  python -m experiments.tune tune_ewc --scheduler none seeds=5 every trial to its end, with five seeds
  python -m experiments.tune tune_ewc --scheduler pbt --metric final --trials 6

a search, my.yaml:
  name: my
  experiment: mechanics                        # a config, or one that comes with Graft
  overrides: {seeds: 2, methods: [ewc]}        # changes that all trials share
  space:                                       # by the same dotted keys as of experiments.run
    methods.0.ewc.strength: {log: [0.1, 1000]} # or uniform, integer, log_integer
    algorithm.learning_rate: [3e-4, 1e-3, 3e-3]
  trials: 12
  scheduler: {name: asha, reduction: 3}        # or pbt, or none
  metric: auc                                  # or final, or balance (final and kept)

The same command again goes on where it was stopped. Trials are stages of the folder, like those of experiments.run.
"""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.tune",
        description="Search for the options of methods and algorithms that transfer best.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "search",
        nargs="+",
        metavar="SEARCH | key=value",
        help=f"a YAML file or one of {', '.join(packaged_searches())}; changes to its experiment by dotted key",
    )
    made.add_argument("--trials", type=int, metavar="N", help="trials, with the experiment as it is (pbt: members)")
    made.add_argument(
        "--scheduler", choices=list(SCHEDULERS), help="who stops or breeds trials (default: the search's)"
    )
    made.add_argument("--metric", choices=METRICS, help="what trials are compared by (default: the search's)")
    made.add_argument("--seed", type=int, metavar="N", help="of the trials' values (default: the search's)")
    made.add_argument("--jobs", type=int, metavar="N", help="trials at once (default: as many as cores)")
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results (default: runs/NAME, with a suffix)"
    )
    made.add_argument(
        "--address",
        default="local",
        metavar="WHERE",
        help="of Ray. local (default): one that is started on this machine and ends with the search. auto, HOST:PORT: "
        "a cluster, whose nodes need Graft in the same version, and --out on a path that all of them share",
    )
    made.add_argument("--dry-run", action="store_true", help="show the trials; train and write nothing")
    return made


def _search(options: argparse.Namespace) -> Search:
    names = [word for word in options.search if "=" not in word]
    if len(names) != 1:
        raise GraftError(f"Give one search; got {', '.join(names) or 'none'}.")
    changes = {name: getattr(options, name) for name in ("trials", "scheduler", "metric", "seed")}
    return load_search(names[0], [word for word in options.search if "=" in word], **changes)


def _default_out(options: argparse.Namespace, search: Search) -> Path:
    """``runs/NAME``; a hash of the search sets it apart from the plain one where it was changed."""
    changed = len(options.search) > 1 or options.scheduler or options.metric or options.seed is not None
    changed = changed or ("trials" in search.identity and options.trials is not None)
    digest = hashlib.sha256(json.dumps(search.identity, sort_keys=True).encode()).hexdigest()
    return Path("runs") / (f"{search.name}-{digest[:6]}" if changed else search.name)


class Session:
    """One invocation: a search that was read and checked, and the folder it is in.

    Raises:
        GraftError: a trial is not allowed, or nothing could be scored; nothing was trained or written.
    """

    def __init__(self, console: Console, search: Search, out: Path, jobs: int | None, address: str) -> None:
        at_least(1, jobs=jobs)
        self.console, self.search, self.address = console, search, address
        self.base = search.config()
        self.plan = make_plan(search, self.base)
        self.trials = search.sampled()
        self.population = Population.of(search, self.plan) if isinstance(search.scheduler, Pbt) else None
        if self.population is None:
            self.plans = {trial.id: make_plan(search, search.config(trial.values)) for trial in self.trials}
        else:
            self.plans = {}
            for member in self.trials:
                self.population.segments(member.values, 0, None)
        self.store = Store(out)
        self.store.check(self.base)
        self.jobs = jobs or max(1, usable_cores())
        self.failed: set[str] = set()

    def say(self, text: str) -> None:
        """A line that is not broken."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def dry_run(self) -> None:
        """Show the trials."""
        for trial in self.trials:
            plan = self.plans.get(trial.id, self.plan)
            self.say(f"{trial.index:3}  {trial.id}  {trial.words}  {plan.budget:,} env steps")
        self.say(f"A trial is what this trains of the tuned methods: {self.search.command(self.trials[-1].values)}")
        shared = self.first()
        self.say(
            f"{len(self.trials)} trials by {self.search.scheduler_name}, compared by {self.search.metric}; "
            f"stages that several start from: {len(shared)}. Into {self.store.out}. Nothing was trained or written."
        )

    def first(self) -> list[str]:
        """Stages that several trials need before their first transfer, and nobody has trained yet, sources first."""
        counted: dict[str, int] = {}
        plans = list(self.plans.values()) or [self.plan] * 2
        runs = [plan.runs[:1] if self.plans else plan.runs for plan in plans]
        for plan, begun in zip(plans, runs, strict=True):
            for stage_id in dict.fromkeys(stage.id for run in begun for stage in plan.before(run)):
                counted[stage_id] = counted.get(stage_id, 0) + 1
        return [stage_id for stage_id, count in counted.items() if count > 1 and not self.store.done(stage_id)]

    def run(self) -> int:
        """Train what is left to train, and conclude."""
        if len(self.trials) < self.search.trials:
            self.say(f"Note: the space has {len(self.trials)} different trials, not {self.search.trials}.")
        with self.store.locked():
            if (self.store.out / FILE).exists():  # before the folder's record is changed
                self._check_ended(TrialLedger(self.store.out, self.search.identity))
            self.store.open(self.base, "experiments.tune")
            ledger = TrialLedger(self.store.out, self.search.identity)
            try:
                failed = self._train_first()
                begun = self._fail(ledger, failed)
                if begun:
                    self._train(ledger)
            except KeyboardInterrupt:
                self._write(self._rows(ledger))
                self.say("Interrupted. What is done is kept; the same command goes on from there.")
                return INTERRUPTED
            return FAILED if self.population and not begun else self._conclude(ledger)

    def _check_ended(self, ledger: TrialLedger) -> None:
        """What trials that are done have trained has to be there still."""
        for trial in self.trials if self.population is None else ():
            runs = self.plans[trial.id].runs if ledger.trial(trial.id).status == "done" else ()
            for run in runs:
                if not self.store.done(run.stage.id):
                    raise GraftError(
                        f"{self.store.folder(run.stage.id)} of trial {trial.index}, which is done, is gone; remove "
                        f"{self.store.out / FILE}, and the same command begins the search anew with the stages left."
                    )

    def _fail(self, ledger: TrialLedger, failed: Mapping[str, str]) -> bool:
        """Note the trials that start from a stage that failed; whether others are left."""
        if self.population is not None:
            return not failed
        for name, plan in self.plans.items():
            before = [stage for run in plan.runs for stage in plan.before(run) if stage.id in failed]
            if before and ledger.trial(name).status not in ENDED:
                ledger.add(name, status="failed", error=f"{before[0].label}: {failed[before[0].id]}")
                self.failed.add(name)
        return len(self.failed) < len(self.plans)

    def _train_first(self) -> dict[str, str]:
        """Stages that several trials start from; returns the errors of those that failed, by id."""
        stages: dict[str, Any] = {
            i: stage for plan in (self.plan, *self.plans.values()) for i, stage in plan.stages.items()
        }
        todo = self.first()
        if not todo:
            return {}
        budget = sum(stages[stage_id].budget for stage_id in todo)
        self.say(f"{self.search.name}: stages that several trials start from: {len(todo)}, of {budget:,} env steps")
        with Progress(self.console, len(todo), 0, budget) as progress:
            failed = LocalLauncher(self.jobs).run(Graph(stages), todo, self.store, progress)
        if failed:
            self.say("Trials that start from what failed are not begun.")
        return failed

    def _train(self, ledger: TrialLedger) -> None:
        """The trials that have not ended."""
        names = [str(trial.index) if self.population else trial.id for trial in self.trials]
        todo = [name for name in names if ledger.trial(name).status not in ENDED and name not in self.failed]
        if not todo:
            self.say(f"{self.search.name}: all {len(names)} trials have ended already, in {self.store.out}")
            return
        self.say(
            f"{self.search.name}: {len(todo)} of {len(names)} trials to run by {self.search.scheduler_name}, "
            f"{self.jobs} at once, into {self.store.out}"
        )
        out, titles = self.store.out.resolve(), dict(zip(names, self.trials, strict=True))
        with Follow(self.console, titles, len(names) - len(todo), self.plan.budget, ledger) as follow:
            from experiments.tuning.ray_tune import run_population, run_trials  # Ray takes seconds to load

            if self.population is None:
                worker = Worker(out, self.plans, self.search.metric)
                run_trials(self.search, worker, todo, ledger, follow.heard, self.jobs, self.address)
            else:
                values = [trial.values for trial in self.trials]
                breeder = Breeder(out, self.population)
                run_population(self.search, breeder, values, follow.heard, self.jobs, self.address)

    def _rows(self, ledger: TrialLedger) -> list[dict[str, Any]]:
        if self.population is not None:
            return member_rows(self.search, self.population, self.trials, ledger)
        return trial_rows(self.search, self.trials, self.plans, self.store, ledger)

    def _write(self, rows: list[dict[str, Any]]) -> dict[str, int]:
        spent = cost(self.store, rows)
        found = {"name": self.search.name, "search": self.search.identity, "cost": spent, "trials": rows}
        write_json(self.store.out / "tune.json", found)
        return spent

    def _conclude(self, ledger: TrialLedger) -> int:
        rows = self._rows(ledger)
        spent = self._write(rows)
        self.console.print(table(self.search, rows, len(self.base.seeds)))
        for line in notes(self.search, rows, spent):
            self.say(line)
        return FAILED if any(row["status"] not in ENDED for row in rows) else 0


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 where trials failed, 2 for bad input, 130 after Ctrl-C."""
    options = parser().parse_intermixed_args(arguments)
    search = _search(options)
    out = options.out or _default_out(options, search)
    session = Session(Console(), search, out, options.jobs, options.address)
    if options.dry_run:
        session.dry_run()
        return 0
    return session.run()


if __name__ == "__main__":
    sys.exit(main())
