"""Ray Tune runs the trials: it places them, stops the worse ones early, and breeds populations.

Tune's own record of an experiment is never read again, and is removed: it is full of pickles, and can't go on with
another number of trials. What a search goes on from is in `experiments.tuning.ledger` and in the stages themselves.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np

os.environ.update({"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"})
os.environ.update({"TUNE_DISABLE_STRICT_METRIC_CHECKING": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0"})
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from experiments.launchers.ray import connected  # sets what Ray reads when it is imported

# isort: split
import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from agents.backend import Resources
from envs.errors import GraftError
from experiments.tuning.ledger import TrialLedger
from experiments.tuning.paced import Paced
from experiments.tuning.population import Breeder, Population
from experiments.tuning.search import Asha, Pbt, Search
from experiments.tuning.space import Choice, Dimension
from experiments.tuning.work import SCORE, STEPS, Worker

FOLDER = ".tune"
"""Of the search: where Tune puts its files while it runs."""

DEATHS = 2
"""A trial is begun again so often whose worker died; it goes on from its snapshot."""

STATE = "checkpoint.json"

Heard = Callable[[str, dict[str, Any]], None]
"""Told a trial's id, or a member's number, and what it reported, with ``status`` where it has ended."""


class _OneThread(tune.Trainable):
    """A worker whose numeric libraries use one thread, as there is one for each core."""

    def setup(self, config: dict[str, Any], **given: Any) -> None:
        import torch

        torch.set_num_threads(1)
        vars(self).update({f"_{name}": thing for name, thing in given.items()})
        self.reset_config(config)


class Trained(_OneThread):
    """A trial that reports every evaluation, and waits until it is told to go on."""

    _worker: Worker
    _paced: Paced[dict[str, Any]] | None = None

    def step(self) -> dict[str, Any]:
        """Train on to the next report."""
        assert self._paced is not None
        found = self._paced.next()
        assert found is not None, "a trial's last report says so"
        return {**found, "done": bool(found.get("done") or found.get("finished"))}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Be another trial."""
        self.cleanup()
        self._paced = Paced(lambda report: self._worker.run(new_config["trial"], report))
        return True

    def cleanup(self) -> None:
        """Stop where it waits."""
        if self._paced is not None:
            self._paced.stop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the stages have their own snapshots."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


class Bred(_OneThread):
    """A member of a population: a step is a segment, a checkpoint is the names of the latest segments."""

    _breeder: Breeder

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Be another member, or the same with other values."""
        self._values = _heard_from(new_config["state"]["values"])
        self._generation, self._stages = 0, None
        return True

    def step(self) -> dict[str, Any]:
        """Train the next segments."""
        found = self._breeder.train(self._values, self._generation, self._stages)
        self._generation, self._stages = self._generation + 1, found.get("stages")
        return found

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """As JSON."""
        state = {"generation": self._generation, "stages": self._stages}
        (Path(checkpoint_dir) / STATE).write_text(json.dumps(state), encoding="utf-8")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from there."""
        state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
        self._generation, self._stages = state["generation"], state["stages"]


class Rungs(AsyncHyperBandScheduler):
    """Tune's asynchronous successive halving, which knows trials by our own names, and so those of earlier runs."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """See the library."""
        super().on_trial_add(tune_controller, _named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See the library."""
        return str(super().on_trial_result(tune_controller, _named(trial), result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """See the library."""
        super().on_trial_complete(tune_controller, _named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """See the library."""
        super().on_trial_remove(tune_controller, _named(trial))

    def recall(self, ledger: TrialLedger) -> None:
        """Hear again what an earlier run heard, in its order, so that rungs are as they were.

        A trial that is to be stopped by that, as the run ended just then, is recorded so.
        """
        for trial in ledger.trials:
            self.on_trial_add(None, _known(trial))
        for line in list(ledger.lines):
            if "score" in line:
                said = self.on_trial_result(None, _known(line["trial"]), {STEPS: line[STEPS], SCORE: line[SCORE]})
                if said == TrialScheduler.STOP and line.get("status") is None:
                    ledger.add(line["trial"], status="stopped")


def _known(trial: str) -> Any:
    return SimpleNamespace(config={"trial": trial})


def _named(trial: Any) -> Any:
    """What stands for a trial: all that the scheduler asks of one is its id."""
    return SimpleNamespace(trial_id=trial.config["trial"])


class Breeding(PopulationBasedTraining):
    """Tune's population-based training, whose chances depend on the seed and the generation alone.

    So a search that goes on makes the choices it made before, and finds their segments done.
    """

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self._seed = seed

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See the library."""
        with _chances(f"{self._seed}/{result.get(STEPS)}"):
            return str(super().on_trial_result(tune_controller, trial, result))

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """See the library, which compares members when the last of them reports: it would wait for one that failed."""
        live = list(tune_controller.get_live_trials())
        states = [self._trial_state[trial] for trial in live]
        if live and all(
            trial.status == Trial.PAUSED and state.last_train_time >= self._next_perturbation_sync
            for trial, state in zip(live, states, strict=True)
        ):
            self.on_trial_result(tune_controller, live[0], dict(states[0].last_result or {}))
        return super().choose_trial_to_run(tune_controller)


@contextmanager
def _chances(of: str) -> Iterator[None]:
    before = random.getstate()
    random.seed(of)
    try:
        yield
    finally:
        random.setstate(before)


def _told(dimension: Dimension, value: Any) -> Any:
    """A value as the library is given it: choices as JSON, as it would round numbers and take 1 for true."""
    return json.dumps(value) if isinstance(dimension, Choice) else value


def _heard_from(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the library was given them by `_told`."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in values.items()}


def _mutation(dimension: Dimension) -> Any:
    """What the library draws from, or shifts along."""
    if isinstance(dimension, Choice):
        return [_told(dimension, value) for value in dimension.values]
    return lambda: dimension.draw(np.random.default_rng(random.getrandbits(64)))


def _kept_inside(space: Mapping[str, Dimension]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def keep(config: dict[str, Any]) -> dict[str, Any]:
        values = {key: space[key].inside(value) for key, value in config["state"]["values"].items()}
        return {**config, "state": {**config["state"], "values": values}}

    return keep


class _Listener(tune.Callback):
    """Passes on what trials report, under our own names."""

    def __init__(self, name: Callable[[Sequence[Any], Any], str], heard: Heard) -> None:
        self._name, self._heard = name, heard

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles it into a file that nobody reads."""
        return {}

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A report, with what the scheduler made of it."""
        keys = (STEPS, SCORE, "generation", "values", "stages", "parents")
        found = {key: result[key] for key in keys if key in result}
        if "failed" in result:
            found = {"status": "failed", "error": result["failed"]}
        elif result.get("done"):
            found["status"] = "done" if result.get("finished") else "stopped"
        self._heard(self._name(trials, trial), found)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Its worker died too often, or could not start."""
        error = str(trial.get_error() or "its worker died").strip().splitlines()[-1]
        self._heard(self._name(trials, trial), {"status": "failed", "error": error})


def _share(resources: Resources) -> Any:
    """What a trial takes: a core for itself, and bundles for the processes that its backend starts."""
    own = {"CPU": 1.0, "GPU": 0.0 if resources.num_learners else resources.num_gpus_per_learner}
    runner = {"CPU": float(resources.num_cpus_per_env_runner)}
    learner = {"CPU": 1.0, "GPU": resources.num_gpus_per_learner}
    bundles = [own, *[runner] * resources.num_env_runners, *[learner] * resources.num_learners]
    return tune.PlacementGroupFactory([{k: v for k, v in bundle.items() if v} for bundle in bundles])


def cores_of(resources: Resources) -> int:
    """Cores that a trial takes."""
    return 1 + resources.num_env_runners * resources.num_cpus_per_env_runner + resources.num_learners


def _check_gpus(resources: Resources, address: str) -> None:
    """Raise GraftError where this machine has too few GPUs: Tune would wait for them; clusters may get more."""
    needed = max(1, resources.num_learners) * resources.num_gpus_per_learner
    has = ray.cluster_resources().get("GPU", 0)
    if address == "local" and needed > has:
        raise GraftError(f"A trial takes {needed:g} GPUs by its 'resources', and this machine has {has:g}.")


def _fit(
    trainable: Any,
    scheduler: Any,
    space: dict[str, Any],
    out: Path,
    resources: Resources,
    listener: _Listener,
    **rest: Any,
) -> None:
    """Let Tune run its trials to their end."""
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    folder = out.resolve() / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    try:
        tune.Tuner(
            tune.with_resources(trainable, _share(resources)),
            param_space=space,
            tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True, **rest),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(folder),
                verbose=0,
                callbacks=[listener],
                failure_config=tune.FailureConfig(max_failures=DEATHS),
            ),
        ).fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_trials(
    search: Search, worker: Worker, todo: Sequence[str], ledger: TrialLedger, heard: Heard, jobs: int, address: str
) -> None:
    """Train trials to their end, or to where the scheduler stops them.

    Args:
        worker: has their plans. todo: ids of those that have not ended.
        heard: told all reports; it keeps the ledger.
        jobs: at once. address: of Ray, see `experiments.launchers.ray.RayLauncher`.
    """
    scheduler: Any = FIFOScheduler()
    plan = worker.plans[todo[0]]
    if isinstance(asha := search.scheduler, Asha):
        most = max(worker.plans[trial].budget for trial in todo)
        grace = min(asha.grace or max(1, round(most / asha.reduction**2)), most)
        # Without the last argument, a trial that passed a rung would be measured by the ones before it that it skipped.
        scheduler = Rungs(STEPS, SCORE, "max", most, grace, asha.reduction, stop_last_trials=False)
        scheduler.recall(ledger)
        todo = [trial for trial in todo if ledger.trial(trial).status != "stopped"]
    if not todo:
        return
    resources = plan.runs[0].stage.resources
    with connected(address, jobs * cores_of(resources)):
        _check_gpus(resources, address)
        _fit(
            tune.with_parameters(Trained, worker=worker),
            scheduler,
            {"trial": tune.grid_search(list(todo))},
            worker.out,
            resources,
            _Listener(lambda _, trial: str(trial.config["trial"]), heard),
            max_concurrent_trials=jobs,
        )


def run_population(
    search: Search, breeder: Breeder, members: Sequence[Mapping[str, Any]], heard: Heard, jobs: int, address: str
) -> None:
    """Train a population to its end.

    Args:
        members: values that each starts with.
        heard, jobs, address: as of `run_trials`.
    """
    assert isinstance(search.scheduler, Pbt)
    population: Population = breeder.population
    runs = population.plan.runs
    scheduler = Breeding(
        search.seed,
        time_attr=STEPS,
        metric=SCORE,
        mode="max",
        perturbation_interval=population.every * len(runs),
        hyperparam_mutations={"state": {"values": {k: _mutation(d) for k, d in search.space.items()}}},
        quantile_fraction=search.scheduler.quantile,
        resample_probability=search.scheduler.resample,
        custom_explore_fn=_kept_inside(search.space),
        log_config=False,
        synch=True,
    )
    resources = runs[0].stage.resources
    states = [
        {"member": i, "values": {key: _told(search.space[key], value) for key, value in values.items()}}
        for i, values in enumerate(members)
    ]
    with connected(address, jobs * cores_of(resources)):
        _check_gpus(resources, address)
        _fit(
            tune.with_parameters(Bred, breeder=breeder),
            scheduler,
            {"state": tune.grid_search(states)},
            breeder.out,
            resources,
            _Listener(lambda trials, trial: str([t.trial_id for t in trials].index(trial.trial_id)), heard),
        )
