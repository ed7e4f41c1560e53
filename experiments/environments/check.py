"""Tries environments in their virtual environment, each in a process of its own; `graft survey` runs it there.

It writes what came of each part as JSON as soon as it is known: one that hangs loses no other.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypedDict

import yaml

from graft import __version__
from graft.envs.adapters.pettingzoo.adapter import PREFIX
from graft.envs.core.schema import ActionSchema, ObservationSchema
from graft.envs.core.task import Task
from graft.envs.factory import make
from graft.errors import GraftError
from graft.experiments.environments.comparison import compare
from graft.experiments.environments.entries import Entry
from graft.experiments.environments.played import SEED

TRAINING = {"num_envs": 4, "num_steps": 64, "minibatch": 64, "epochs": 2}
EVALUATION = {"episodes": 4, "num_envs": 4}
Write = Callable[[], None]
LOADED = ("graft.experiments.environments.check", "graft.experiments.stages.run_stage", "graft.agents.sb3.backend")
"""Modules that every trial needs and that take long to load."""


class Job(TypedDict):
    """An entry as JSON, the package whose version is told, the text of its module ``own``, and a limit in seconds."""

    entry: dict[str, Any]
    distribution: str
    module: str
    seconds: int


def try_out(entry: Entry, distribution: str, found: dict[str, Any], write: Write) -> None:
    """Fill ``found`` with what came of ``entry``; ``write`` is called after each part.

    ``error`` is a sentence of Graft's, ``traceback`` the last line of anything else that was raised, where either was.
    """
    found |= {"graft": __version__, "version": _version(distribution), "python": sys.version.split()[0]}
    part = "making it"
    try:
        task = _task(entry.id, entry.kwargs, entry.limit)
        with closing(make(task, 1, SEED)) as env:
            found |= {"observation": _shown(env.observation_schema), "action": _taken(env.action_schema)}
        write()
        part = "play"
        if entry.steps:
            found["play"] = compare(task, entry.steps)
            write()
        part = "transfer"
        if entry.target is not None:
            found["transfer"] = transfer(entry, task)
    except GraftError as error:
        found |= {"failed": part, "error": _tidy(str(error))}
    except BaseException as error:  # whatever a package raises, exits of the process among them
        found |= {"failed": part, "traceback": _tidy(traceback.format_exception(error)[-1])}
    write()


def _tidy(text: str) -> str:
    """A message without the folders of this machine."""
    for folder in (sys.prefix, tempfile.gettempdir()):
        text = re.sub(rf"{re.escape(folder)}[^\s:)']*/", "", text)
    return text.strip()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _task(name: str, kwargs: dict[str, Any], limit: int) -> Task:
    """The task with episodes of ``limit`` steps."""
    key = "max_cycles" if name.startswith(PREFIX) else "max_episode_steps"
    return Task(name, {key: limit, **kwargs} if limit else dict(kwargs))


def _shown(schema: ObservationSchema) -> str:
    """``vector of 25``, ``pixels 3 x 64 x 64``, or parts of these; and that there are masks."""
    if schema.kind == "masked":
        return f"{_shown(schema.plain)}, action masks"
    if schema.parts:
        return ", ".join(dict.fromkeys(_shown(part) for _, part in schema.parts)) + f" ({len(schema.parts)} parts)"
    return f"vector of {schema.shape[0]}" if schema.kind == "vector" else f"{schema.kind} {_sides(schema.shape)}"


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _taken(schema: ActionSchema) -> str:
    return f"{schema.kind} {_sides(schema.sizes) if schema.sizes else len(schema.names)}"


def transfer(entry: Entry, source: Task) -> dict[str, Any]:
    """Train on ``source``, move to the entry's target by plain fine-tuning; what was carried, and returns.

    Raises GraftError where a stage fails.
    """
    from graft.experiments.config.experiment import load_config
    from graft.experiments.launchers.launcher import attempt
    from graft.experiments.plan.pairs import expand
    from graft.experiments.report.conclusions import check_pairs
    from graft.experiments.store.records import Store

    assert entry.target is not None
    target = _task(entry.target.get("id", entry.id), entry.target.get("kwargs", {}), entry.limit)
    algorithm = {"name": "ppo", **TRAINING, **entry.algorithm}
    if algorithm["name"] != "ppo":
        algorithm = entry.algorithm
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "survey.yaml"
        evaluation = {**EVALUATION, "every": max(1, min(entry.pretrain, entry.transfer))}
        config = {
            "name": "survey",
            "sources": source.to_json(),
            "targets": [{**_named(target), "bounds": [0, 1]}],
            "methods": [{"finetune": {"heads": "by_name"}}],
            "seeds": 1,
            "pretrain": {"steps": entry.pretrain},
            "transfer": {"steps": entry.transfer},
            "recall": 4,
            "algorithm": algorithm,
            "evaluation": evaluation,
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        read = load_config(str(path))
        graph = expand(read)  # type: ignore[arg-type]
        check_pairs(graph)
        store, listener = Store(Path(folder) / "out"), _Notes()
        store.open(read)
        start = time.monotonic()
        stages = [s for s in graph.stages.values() if s.kind == "pretrain" or (s.method and "finetune" in s.label)]
        for stage in stages:
            if error := attempt(stage, store, listener, 1):
                raise GraftError(f"{stage.label}: {error}")
        before, after = ([*_returns(store.folder(stage.id))] for stage in stages)
        ours, theirs = (set(stage.schemas.observation.plain.names) for stage in stages)
        return {
            "target": str(Task(target.id, entry.target.get("kwargs", {}))),
            "carried": len(theirs & ours),
            "fresh": len(theirs - ours),
            "source": before,
            "returns": after,
            "notes": listener.notes,
            "seconds": round(time.monotonic() - start, 1),
        }


def _named(task: Task) -> dict[str, Any]:
    """A target of a config, whose names are not among its keywords there."""
    kwargs = dict(task.kwargs)
    names = {"schema": kwargs.pop("schema")} if "schema" in kwargs else {}
    return {**Task(task.id, kwargs).to_json(), **names}


class _Notes:
    """Takes what stages report, and keeps the sentences."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __call__(self, env_steps: int, values: Any) -> None:
        pass

    def noted(self, text: str) -> None:
        self.notes.append(text)


def _returns(folder: Path) -> list[float]:
    """Mean return of a stage's first and last evaluation."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [data["eval/return_mean"] for data in map(json.loads, lines) if "eval/return_mean" in data]
    return [found[0], found[-1]]


def _job(job: Job, out: str) -> None:
    """Try one environment in a process of its own; what came of it goes into the file ``out``, its output beside it."""
    log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    found: dict[str, Any] = {}

    def write() -> None:
        Path(out).write_text(json.dumps(found), encoding="utf-8")

    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (Path(folder) / "own.py").write_text(job["module"], encoding="utf-8")
        os.chdir(folder)  # some packages write files
        sys.path.insert(0, folder)
        try_out(Entry.model_validate(job["entry"]), job["distribution"], found, write)
        os.chdir(Path(out).parent)


def _ended(process: BaseProcess, seconds: int) -> dict[str, Any]:
    """Wait for a process; how it ended, where that was not well."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return {"timeout": seconds}
    return {"traceback": f"exit code {process.exitcode}"} if process.exitcode else {}


def main(arguments: Sequence[str]) -> int:
    """Run the jobs of a JSON file, one after the other; a line of JSON is printed for each.

    Each is a fork of a process that has loaded what all need, where the system has forks.
    """
    jobs = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    how = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(how)
    if how == "forkserver":
        context.set_forkserver_preload(list(LOADED))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for number, job in enumerate(jobs):
            start, out = time.monotonic(), Path(folder) / str(number)
            process = context.Process(target=_job, args=(job, str(out)))
            process.start()
            ended = _ended(process, job["seconds"])
            found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
            found |= ended | {"seconds": round(time.monotonic() - start)}
            print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
