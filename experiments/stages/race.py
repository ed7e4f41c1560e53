"""Stages of methods that race: candidates are trained on trial, then one of them with the steps that are left.

Candidates are stages of their own, in a folder of the stage: each trains as it would alone, and what is kept goes on
from where the race left it, with the budget that is left.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graft.experiments.plan.stage import Stage
from graft.experiments.stages.divergence import Diverged
from graft.experiments.stages.meter import Meter
from graft.experiments.stages.metrics_log import MetricsCallback, MetricsLog
from graft.experiments.stages.resume import Leg, identity_of
from graft.experiments.stages.run_stage import Paused, load_source, run_stage
from graft.experiments.store.records import COST, METRICS, RACE, Store, write_json
from graft.transfer.advice import Look, Race, race
from graft.transfer.method import TransferMethod
from graft.transfer.methods.auto import Auto

TRUE_METRICS = "race.jsonl"
"""Metrics of the one that was kept, by its own env steps, in the stage's folder."""

BASELINE = "scratch"
"""Label of the candidate that all others are compared with."""

OWN = {"id", "label", "kind", "status", "spec", "metrics_sha256", "checkpoint", "env_steps"}
"""Keys of a record that differ between a stage and the candidate that it kept."""


class CandidateStore(Store):
    """Candidates' stages in a folder of their own; all others are where the experiment has them."""

    def __init__(self, store: Store, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        super().__init__(store.out)
        self._outer, self._inner, self._check, self.ids = store, folder, check, set[str]()

    def folder(self, stage_id: str) -> Path:
        return self._inner / stage_id if stage_id in self.ids else self._outer.folder(stage_id)

    def check_holder(self, stage_id: str) -> None:
        self._check()


class Trials:
    """Trains candidates on as `transfer.advice.Train` asks, and keeps what it saw in a file, by which it goes on.

    Args:
        stages: by candidate. known: the file. identity: of the software; what another one saw is not used.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        store: CandidateStore,
        known: Path,
        identity: Mapping[str, Any],
        progress: Callable[[int], None] = lambda _: None,
        workers: int = 1,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.stages, self._store, self._file, self._progress = stages, store, known, progress
        self._workers, self._note, self._spent = workers, note, dict.fromkeys(stages, 0)
        self._identity: Any = json.loads(json.dumps(dict(identity)))
        store.ids.update(stage.id for stage in stages.values())
        try:
            found = json.loads(known.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        fits = isinstance(found, dict) and found.get("identity") == self._identity
        if not fits:
            shutil.rmtree(known.parent, ignore_errors=True)
        self._seen: dict[str, dict[str, list[Any] | None]] = found["seen"] if fits else {}
        self.meter = Meter(found[COST] if fits else {})

    def __call__(self, candidate: str, env_steps: int) -> Look | None:
        seen = self._seen.setdefault(candidate, {})
        if str(env_steps) not in seen:
            look = self._train(candidate, env_steps)
            seen[str(env_steps)] = None if look is None else [np.asarray(look.returns).tolist(), *look[1:]]
            data = {"identity": self._identity, "seen": self._seen, COST: self.meter.spent()}
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, data)
        found = seen[str(env_steps)]
        self._spent[candidate] = env_steps if found is None else found[1]
        self._progress(sum(self._spent.values()))
        return None if found is None else Look(np.asarray(found[0], np.float64), *found[1:])

    def again(self, candidate: str, env_steps: int) -> Look:
        """Of a candidate where `__call__` left it, on levels that decided nothing."""
        look = self._train(candidate, env_steps, levels=1)
        assert look is not None, "nothing is trained, so nothing diverges"
        return look

    def _train(self, candidate: str, env_steps: int, levels: int = 0) -> Look | None:
        others = sum(steps for name, steps in self._spent.items() if name != candidate)
        try:
            run_stage(
                self.stages[candidate],
                self._store,
                lambda steps, _: self._progress(others + steps),
                self._workers,
                self._note,
                Leg(until=env_steps, levels=levels),
            )
        except Paused as paused:
            return Look(paused.returns, paused.env_steps, paused.episode_steps)
        except Diverged as error:
            if candidate == BASELINE:  # nothing to compare with; not kept, so that the same command tries it anew
                raise Diverged(f"scratch, which all are compared with: {error}", error.divergences) from error
            self._note(f"Note: {self.stages[candidate].label} left the race: {error}")
            return None
        raise AssertionError(f"{candidate} ended within the race, whose budget is too large.")


def candidate_stages(stage: Stage, entrants: Mapping[str, TransferMethod]) -> dict[str, Stage]:
    """By name, what would be trained by each method alone; nothing of it goes to sinks."""
    made = {}
    for name, method in entrants.items():
        alone: dict[str, Any] = {"source": None, "source_folder": None, "recall": (), "licence": None}
        alone["licence_overridden"] = False
        made[name] = replace(stage, method=method, sinks=(), observer=None, **({} if method.uses_source else alone))
    return made


def rollout(stage: Stage) -> int:
    """Env steps of the smallest step of its training."""
    options: Any = stage.algorithm
    return int(options.num_envs * getattr(options, "num_steps", getattr(options, "train_freq", 1)))


def run_race(
    stage: Stage,
    store: Store,
    progress: MetricsCallback,
    workers: int = 1,
    note: Callable[[str], None] = lambda _: None,
) -> None:
    """As `run_stage`, for a stage whose method is `Auto`; of all others it is `run_stage`."""
    if not isinstance(stage.method, Auto):
        run_stage(stage, store, progress, workers, note)
        return
    source = load_source(stage, store)
    assert source is not None, "auto uses a source"
    folder = store.start(stage, keep=(RACE,))
    inner = CandidateStore(store, folder / RACE, lambda: store.check_holder(stage.id))
    entrants, refused = stage.method.entrants(source, stage.schemas, stage.network)
    for name, why in refused.items():
        note(f"Note: {stage.label}: {name} does not race: {why}")
    stages = candidate_stages(stage, entrants)
    seen, identity = folder / RACE / "seen.json", identity_of(stage)
    trials = Trials(stages, inner, seen, identity, lambda steps: progress(steps, {}), workers, note)
    budget, unit = int(stage.method.share * stage.budget), rollout(stage)
    found = race(list(stages), trials, budget, unit, goes_on=True)
    lost = sum(found.spent.values()) - found.spent[found.pick]
    chosen = stages[found.pick]
    leg = Leg(budget=stage.budget - lost)
    if not inner.done(chosen.id):  # else killed while its result was taken over
        run_stage(chosen, inner, lambda steps, values: progress(lost + steps, values), workers, note, leg)
    _take_over(stage, chosen, store, inner, trials, lost, summary(found, lost))


def summary(found: Race, lost: int) -> dict[str, Any]:
    """For records: what raced, what was kept, the env steps of all others, and those of the episodes that decided."""
    return {
        "kept": found.pick,
        "why": found.why,
        "rounds": [{**r._asdict(), "dropped": list(r.dropped)} for r in found.rounds],
        "spent": found.spent,
        "env_steps_of_others": lost,
        "env_steps_of_episodes": found.episode_steps,
    }


def _take_over(
    stage: Stage, chosen: Stage, store: Store, inner: CandidateStore, trials: Trials, lost: int, about: dict[str, Any]
) -> None:
    """Make the result of the candidate that was kept the stage's."""
    folder, theirs = store.folder(stage.id), inner.folder(chosen.id)
    record = inner.record(chosen.id)
    assert record is not None
    lines = [json.loads(line) for line in (theirs / METRICS).read_text(encoding="utf-8").splitlines()]
    with MetricsLog(folder, stage, lambda *_: None) as log:
        for env_steps, values in shifted(lines, lost, stage):
            log(env_steps, values)
        log.finish()
    shutil.copyfile(theirs / METRICS, folder / TRUE_METRICS)
    checkpoint = inner.checkpoint(chosen.id)
    made = replace(checkpoint, record={**checkpoint.record, "stage": stage.to_json(), RACE: about})
    for path in theirs.iterdir():
        if path.name not in ("stage.json", METRICS, "checkpoint"):
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            else:
                shutil.copyfile(path, folder / path.name)
    rest = {key: value for key, value in record.items() if key not in OWN}
    spent = {key: max(value, rest[COST][key]) for key, value in trials.meter.spent().items()}
    # What others computed is not counted: a record that lacks it says less, and nothing wrong.
    rest[COST] = {**rest[COST], **spent, **({"updates": None, "flops": None} if lost else {})}
    store.check_holder(stage.id)
    identity = made.save(folder / "checkpoint")
    store.finish(stage, **rest, env_steps=lost + record["env_steps"], checkpoint=identity, **{RACE: about})
    shutil.rmtree(folder / RACE, ignore_errors=True)


def shifted(lines: list[dict[str, Any]], lost: int, stage: Stage) -> list[tuple[int, dict[str, Any]]]:
    """Metrics of the candidate that was kept, after the env steps that went into others.

    Evaluations are at the env steps of every other stage, as reports compare stages point by point: between those that
    were made they are read off straight lines. Until the others' steps are over, they are those before training.
    """
    tags = sorted({tag for line in lines for tag in line if tag.startswith("eval/")})
    if not lost:
        return [(line.pop("env_steps"), line) for line in lines]
    made: dict[int, dict[str, Any]] = {}
    for line in lines:
        rest = {tag: value for tag, value in line.items() if tag not in tags and tag != "env_steps"}
        if rest:
            made.setdefault(line["env_steps"] + (lost if line["env_steps"] else 0), {}).update(rest)
    points = {t: [(line["env_steps"] + lost, line[t]) for line in lines if t in line] for t in tags}
    end = lines[-1]["env_steps"] + lost
    for env_steps in evaluation_steps(end, stage.evaluation.every, rollout(stage)):
        values = {tag: float(np.interp(env_steps, *np.transpose(at))) for tag, at in points.items()}
        made.setdefault(env_steps, {}).update(values)
    return sorted(made.items())


def evaluation_steps(end: int, every: int, unit: int) -> list[int]:
    """When a training of ``end`` env steps is evaluated (`PeriodicEvaluation`)."""
    found, due = [], 0
    for env_steps in range(0, end, unit):
        if env_steps >= due:
            found.append(env_steps)
            due += every
    return [*found, end]
