"""Stages whose environments fail: they are restarted and told of, or it ends with an error and a checkpoint."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from support.tiny_experiment import write_config

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.experiments.config.experiment import load_config
from graft.experiments.launchers.launcher import run_graph
from graft.experiments.launchers.local import LocalLauncher
from graft.experiments.plan.pairs import expand
from graft.experiments.report.common import clip_notes, stage_records
from graft.experiments.report.progress import Progress
from graft.experiments.store.records import FAULT_CHECKPOINT, Store

GAME = """
import gymnasium as gym
import numpy as np

class Leaky(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,))
    observation_names = ["level", "flow", "heat"]
    action_space = gym.spaces.Discrete(2)
    steps = 0  # of all instances in this process

    def __init__(self, burst=10**9, since=0):
        self.burst, self.since = burst, since

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        Leaky.steps += 1
        self.taken += 1
        if Leaky.steps > self.since and Leaky.steps % self.burst == 0:
            raise RuntimeError("a pipe burst")
        full = self.taken == 5
        return np.array([0.1, 1.5 if full else 0.2, 0], np.float32), float(action), full, False, {}

gym.register("Leaky-v0", entry_point=Leaky)
"""
NAME = "leaky_pipes:Leaky-v0"


def target(**kwargs: object) -> dict[str, object]:
    return {"id": NAME, "kwargs": kwargs, "bounds": [0, 5]}


def test_a_few_faults_are_told_of_and_too_many_leave_an_error_and_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaky_pipes.py").write_text(GAME)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")  # of the workers
    targets = [target(burst=150, faults={"limit": 50}), target(burst=10, since=1060, faults={"limit": 3})]
    changes = {"sources": NAME, "targets": targets, "methods": "scratch", "seeds": 1, "network": None}
    config, store = load_config(str(write_config(tmp_path, **changes))), Store(tmp_path / "out")
    store.open(config)
    graph = expand(config)
    fine, bad = (s for s in graph.stages.values() if s.method is not None and s.method.baseline)
    screen = io.StringIO()
    with Progress(Console(file=screen, width=1000), [fine, bad]) as progress:
        failed = run_graph(LocalLauncher(1), graph, [fine.id, bad.id], store, progress)
    printed = screen.getvalue()
    assert list(failed) == [bad.id]

    record = store.record(fine.id)
    assert record is not None
    assert record["status"] == "done"
    found = [line for line in metrics(store, fine.id) if line.keys() & {"env/faults", "env/clipped"}]
    counts = [(line.get("env/faults", 0), line["env/clipped"]) for line in found]
    assert counts == sorted(set(counts))  # recorded where one changes
    faults, clipped = counts[-1]
    assert record["faults"] == {"raised": faults}
    said = "feature 'flow' is 1.5, allowed are -1 to 1"
    assert record["clipped"] == {"observations": clipped, "first": said}
    assert f", {faults:.0f} environment faults, {clipped:,.0f} observations clipped [1/2]" in printed
    note = clip_notes({"stages": stage_records(graph, store, failed)})
    assert len(note) == 1
    assert note[0].startswith(f"WARNING: {clipped:,.0f} observations of {fine.task} left their space and were clipped")
    assert f"the first: {said}. Mend the bounds" in note[0]

    record, folder = store.record(bad.id), store.folder(bad.id) / FAULT_CHECKPOINT
    assert record is not None
    assert record["status"] == "failed"
    assert f"Environments of '{NAME}' failed too often (4 times within" in record["error"]
    assert "RuntimeError: a pipe burst (leaky_pipes.py:23, in step)" in record["error"]
    assert record["error"].endswith(f"env steps is in {folder}.")
    assert "raise RuntimeError(" in record["traceback"]
    saved, last = Checkpoint.load(folder), metrics(store, bad.id)[-1]
    assert saved.build().schemas == bad.schemas
    assert 0 < saved.record["env_steps"] == last["env_steps"] < bad.budget
    assert record["faults"]["raised"] == 4 == last["env/faults"] == saved.record["faults"]["raised"]
    assert f"FAILED   {bad.label}: {record['error']}" in printed

    store.start(bad)
    assert folder.exists()  # another attempt does not throw it away


def metrics(store: Store, stage_id: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (store.folder(stage_id) / "metrics.jsonl").read_text().splitlines()]
