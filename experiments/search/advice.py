"""What ``graft advise`` does: an experiment's candidates race, and what they showed is told."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

from graft.agents.pretrained import pretrained
from graft.errors import GraftError
from graft.experiments.config.experiment import Config, load_config, read_value
from graft.experiments.config.names import check_names
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.stage import Stage
from graft.experiments.report.common import Name
from graft.experiments.stages.race import BASELINE, CandidateStore, Trials, candidate_stages, rollout
from graft.experiments.stages.resume import identity_of
from graft.experiments.stages.run_stage import load_source
from graft.experiments.store.records import Store, write_json
from graft.transfer.advice import Look, Race, gain, race
from graft.transfer.method import changed_options, method_name
from graft.transfer.methods.auto import Auto


class _Entry(NamedTuple):
    """A candidate: its stage, and the source's entry of a config (None: no source)."""

    stage: Stage
    source: str | dict[str, str] | None


def _check(options: argparse.Namespace) -> None:
    """Raises GraftError for options that would end in an error after the race, or be ignored."""
    if options.budget is not None and not (math.isfinite(options.budget) and options.budget >= 0):
        raise GraftError(f"--budget {options.budget} is not allowed; give a finite number that is at least 0.")
    if options.json is not None and not options.json.parent.is_dir():
        raise GraftError(f"--json {options.json}: there is no folder {options.json.parent}.")
    keys = {"methods": "--methods", "sources": "--from", "seeds": "--seed"}
    for given in options.overrides:
        if (key := given.split("=")[0].split(".")[0]) in keys:
            raise GraftError(f"{given} is not allowed here; use {keys[key]}.")


def _stage(options: argparse.Namespace, source: str | dict[str, str], folder: Path) -> Stage:
    """The stage of `Auto` from ``source`` in an experiment of one pair."""
    methods = {} if options.methods is None else {"candidates": read_value(options.methods, "--methods")}
    data = {
        "name": "advice",
        "sources": [source],
        "targets": [{"id": options.target}],
        "methods": [{"auto": methods}],
        "seeds": [options.seed],
        **({} if options.steps is None else {"transfer": {"steps": options.steps}}),
    }
    path = folder / "advice.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    config = load_config(str(path), options.overrides)
    assert isinstance(config, Config)
    if any(entry.checkpoint is None for entry in config.sources):
        raise GraftError(f"--from {source} is no checkpoint; give its folder, or one of {', '.join(pretrained())}.")
    check_names(config)
    return next(s for s in expand(config).stages.values() if isinstance(s.method, Auto))


def _entries(options: argparse.Namespace, folder: Path, store: Store, note: Callable[[str], None]) -> dict[str, _Entry]:
    """All candidates by name, those of the first source first, and scratch at the end; who is left out is noted."""
    given = list(dict.fromkeys(options.sources or ["foundation"]))
    found: dict[str, _Entry] = {}
    scratch: _Entry | None = None
    for name in given:
        shipped = name in pretrained() and not Path(name).exists()
        source: str | dict[str, str] = name if shipped else {"checkpoint": name}
        stage = _stage(options, source, folder)
        assert isinstance(stage.method, Auto)
        loaded = load_source(stage, store)
        assert loaded is not None
        entrants, refused = stage.method.entrants(loaded, stage.schemas, stage.network)
        made = candidate_stages(stage, entrants)
        scratch = scratch or _Entry(made[BASELINE], None)
        suffix = f" from {name}" if len(given) > 1 else ""
        for key, why in refused.items():
            note(f"Note: {key}{suffix} is left out: {why}")
        found |= {f"{key}{suffix}": _Entry(of, source) for key, of in made.items() if key != BASELINE}
    assert scratch is not None
    if not found:
        raise GraftError(f"No candidate fits {options.target}, so there is nothing to compare with scratch.")
    return {**found, BASELINE: scratch}


def run(console: Console, options: argparse.Namespace) -> dict[str, Any]:
    """Race, print what was found, and write it where ``options.json`` says; returns it."""
    _check(options)
    with tempfile.TemporaryDirectory(prefix="graft-advise-") as made:
        folder = Path(made)
        store = CandidateStore(Store(folder), folder / "stages")
        note = console.print
        entries = _entries(options, folder, store, note)
        stage = entries[BASELINE].stage
        if stage.evaluation.count(last=True) == 1:
            raise GraftError("evaluation.episodes is 1; a race needs 2 or more to compare.")
        asked = Auto.share if options.budget is None else options.budget
        budget = int(asked * stage.budget if asked < 1 else asked)
        if budget > stage.budget:
            raise GraftError(f"--budget {budget:,} is more than the target has; give at most {stage.budget:,}.")
        stages = {name: entry.stage for name, entry in entries.items()}
        trials = Trials(stages, store, folder / "seen" / "seen.json", identity_of(stage), note=note)
        found = race(list(stages), trials, budget, rollout(stage))
        best = _best(found)
        fresh = {name: trials.again(name, found.spent[name]) for name in (best, BASELINE) if name is not None}
        taken = trials.meter.spent()
    data = _data(found, fresh, stage, budget) | {
        "core_seconds": taken["core_seconds"],
        "config": _config(entries, found.pick),
    }
    console.print(_table(data))
    for sentence in _sentences(data):
        console.print(sentence, soft_wrap=True)
    console.print("\nFor a config that has a name, this target and its transfer.steps:", soft_wrap=True)
    console.print(data["config"], end="", markup=False, highlight=False, soft_wrap=True)
    if options.json is not None:
        write_json(options.json, data)
    return data


def _best(found: Race) -> str | None:
    """The pick, or the best that was not it where scratch is; None where all others diverged."""
    others = [name for name in found.rounds[-1].means if name != BASELINE and name in found.latest]
    return found.pick if found.pick != BASELINE else max(others, key=lambda n: found.latest[n].mean(), default=None)


def _data(found: Race, fresh: Mapping[str, Look], stage: Stage, budget: int) -> dict[str, Any]:
    """As plain JSON values; returns of the target, and scores where it has bounds.

    Args:
        fresh: the last two, on levels that decided nothing: by those that decided, who won seems better than it is.
    """
    best = next((name for name in fresh if name != BASELINE), None)
    against = None if best is None else gain(fresh[best].returns, fresh[BASELINE].returns)._asdict()
    scale = stage.scale
    width = None if scale is None else scale.normalise(1.0) - scale.normalise(0.0)
    return {
        "target": str(stage.task),
        "pick": found.pick,
        "why": found.why,
        "best_of_others": best,
        "gain": against and {**against, "score": None if width is None else against["mean"] * width},
        "rounds": [round_._asdict() for round_ in found.rounds],
        "spent": found.spent,
        "env_steps": sum(found.spent.values()),
        "env_steps_of_each": fresh[BASELINE].env_steps,
        "env_steps_of_episodes": found.episode_steps + sum(look.episode_steps for look in fresh.values()),
        "budget": budget,
        "target_steps": stage.budget,
        "episodes": len(fresh[BASELINE].returns),
        "bounds": scale and scale._asdict(),
    }


def _config(entries: Mapping[str, _Entry], pick: str) -> str:
    """The lines of an experiment with what was picked, to paste."""
    method, source = entries[pick].stage.method, entries[pick].source
    assert method is not None
    options = {name: json.loads(json.dumps(value)) for name, value in changed_options(method).items()}
    lines: dict[str, Any] = {"methods": [{method_name(method): options} if options else method_name(method)]}
    return yaml.safe_dump({**({} if source is None else {"sources": [source]}), **lines}, sort_keys=False)


def _table(data: Mapping[str, Any]) -> Table:
    table, last = Table(title=f"Mean returns on {data['target']}"), dict[str, float]()
    for heading in ("candidate", "after its first round", "after its last round", "env steps", "left"):
        table.add_column(heading, justify="left" if heading in ("candidate", "left") else "right", overflow="fold")
    left: dict[str, str] = {}
    for entry in data["rounds"]:
        last |= entry["means"]
        left |= dict.fromkeys(entry["dropped"], f"after {entry['env_steps']:,} env steps")
    for name, spent in data["spent"].items():
        first = data["rounds"][0]["means"].get(name)
        numbers = ["diverged" if n is None else f"{n:.2f}" for n in (first, last.get(name))]
        table.add_row(Name(name), *numbers, f"{spent:,}", "picked" if name == data["pick"] else left.get(name, ""))
    return table


def _sentences(data: Mapping[str, Any]) -> list[str]:
    said = [f"Pick: {data['pick']} ({data['why']})."]
    if not data["env_steps"]:
        said = [
            f"Pick: {data['pick']}, by play before any training (there: {data['why']}). Nothing was trained, scratch "
            f"neither, so who is better after training is not known."
        ]
    if data["gain"] is not None:
        by = data["gain"]
        steps = data["env_steps_of_each"]
        trained = f"each after {steps:,} env steps of training" if steps else "neither trained on the target"
        of = f"{data['episodes']} fresh paired episodes" + (" and one training each" if steps else "")
        score = "" if by["score"] is None else f", a score of {by['score']:+.2f}"
        said.append(
            f"{data['best_of_others']} beside scratch, {trained}: {by['mean']:+.2f} return [{by['low']:+.2f}, "
            f"{by['high']:+.2f}]{score} (p {by['p']:.2g}, of {of}). At the end of training it may differ."
        )
    share = data["env_steps"] / data["target_steps"]
    cost = f"{data['env_steps']:,} env steps of training of a budget of {data['budget']:,}, {share:.0%} of the target's"
    return [*said, f"Cost: {cost}; episodes that compared took {data['env_steps_of_episodes']:,} more."]
