"""A small search as a file, and a store whose stages are made up, so that trials can be followed without training."""

from __future__ import annotations

import yaml
from rich.console import Console

from graft.experiments.launchers.launcher import STOPPED
from graft.experiments.plan.stage import StoppedEarly
from graft.experiments.search.definition import load_search
from graft.experiments.search.plan import make_plan
from graft.experiments.search.queue import TrialProgress, TrialQueue
from graft.experiments.search.trials import Trials
from graft.experiments.store.records import Store
from graft.transfer.metrics import Curve
from support.tiny_experiment import write_config

STRENGTH, RATE = "methods.0.ewc.strength", "algorithm.learning_rate"
SPACE = {STRENGTH: {"log": [0.1, 1000]}, RATE: {"log": [1e-5, 1e-2]}}
STEPS = (0, 256, 512, 768, 1024)


def write_search(folder, tiny=None, **changes):
    """A search over the tiny experiment, as a file; ``tiny``: changes to the experiment."""
    folder.mkdir(exist_ok=True)
    given = {"methods": [{"ewc": {"heads": "by_name"}}], "seeds": 1, "transfer": {"steps": 1024}}
    write_config(folder, **{**given, **(tiny or {})})
    path = folder / "search.yaml"
    search = {"name": "search", "experiment": "tiny.yaml", "space": SPACE, "trials": 4}
    path.write_text(yaml.safe_dump({**search, **changes}))
    return path


class MadeUpStore(Store):
    """Stages are done when `finish_stage` says so; their scores are those of ``score(stage)``, however long trained.

    Attributes:
        trained: labels of stages, in the order in which they were begun.
    """

    def __init__(self, out, score):
        super().__init__(out)
        self.score, self.reached, self.specs, self.trained = score, {}, {}, []

    def done(self, stage_id):
        return stage_id in self.specs and self.reached[stage_id] == self.specs[stage_id].budget

    def evaluations(self, stage_id, scale=None):
        stage = self.specs[stage_id]
        steps = [step for step in STEPS if step <= self.reached[stage_id]]
        score = self.score(stage)
        return Curve(steps, [score if scale is None else scale.normalise(score)] * len(steps))

    def record(self, stage_id):
        status = "done" if self.done(stage_id) else "stopped"
        return {"status": status, "kind": self.specs[stage_id].kind, "env_steps": 0} if stage_id in self.specs else None

    def train(self, stage):
        """As a worker would; its observer hears of every evaluation before the last."""
        self.specs[stage.id] = stage
        self.trained.append(stage)
        for step in STEPS if stage.kind == "transfer" else (stage.budget,):
            self.reached[stage.id] = step
            if stage.observer is not None and step < stage.budget:
                try:
                    stage.observer.report(self.trial_of(stage), self)
                except StoppedEarly:
                    return STOPPED
        return None

    def trial_of(self, stage):
        from graft.experiments.search.trials import trial_of

        return trial_of(self.study, stage.observer.number)


class Following:
    """A search over a made-up store: ``trials``, ``store`` and ``queue``."""

    def __init__(self, path, out, score, jobs=1, **changes):
        self.search = load_search(str(path), **changes)
        out.mkdir(exist_ok=True)
        self.budget = make_plan(self.search).budget
        self.store = MadeUpStore(out, score)
        self.open(jobs)

    def open(self, jobs=1):
        """Anew, as the next command would."""
        self.trials = Trials(self.search, self.store.out, self.budget)
        self.store.study = self.trials.study
        progress = TrialProgress(Console(quiet=True), self.trials.count, 0, 1)
        self.queue = TrialQueue(self.trials, self.store, progress, jobs)

    def step(self, error=None):
        """Train the next stage, or let it fail; whether there was one."""
        stage = self.queue.take()
        if stage is not None:
            self.queue.finish(stage, error or self.store.train(stage))
        return stage

    def run(self):
        """To the end."""
        while self.queue:
            self.step()

    def states(self):
        """By index."""
        return {index: trial.state.name for index, trial in sorted(self.trials.all().items())}
