"""A stage that was stopped, and then run again, leaves what a stage leaves that was never stopped."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_experiment import write_config

from agents.sb3 import snapshot
from experiments import resume
from experiments.config import load_config
from experiments.graph import expand
from experiments.stage import run_stage
from experiments.store import METRICS, SNAPSHOT, Store
from transfer.method import METHODS

ROOT = Path(__file__).parents[2]
STEPS = 512
"""Env steps of a stage: four rollouts."""


class Stop(Exception):
    """As sudden as a kill, for whoever trains."""


@pytest.fixture
def eager(monkeypatch):
    """A snapshot at every rollout."""
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    monkeypatch.setattr(snapshot, "LARGEST_SHARE", 1e9)


def ignore(env_steps, values):
    """Nobody watches."""


def set_up(folder, **changes):
    """The tiny experiment's stages in order, and a store for them."""
    changes = {"seeds": 1, "pretrain": {"steps": STEPS}, "transfer": {"steps": STEPS}, **changes}
    config = load_config(str(write_config(folder, **changes)))
    store = Store(folder / "out")
    store.open(config)
    return list(expand(config).stages.values()), store


def left(store, stage):
    """What a finished stage left: metrics without the clock's, tensors by part, and its record."""
    folder = store.folder(stage.id)
    text = re.sub(r'"time/[a-z_]+": [^,}]+', "", (folder / METRICS).read_text())
    made = store.checkpoint(stage.id)
    record = store.record(stage.id)
    assert store.done(stage.id)
    assert not (folder / SNAPSHOT).exists()
    clocked = ("seconds", "checkpoint", "metrics_sha256")
    return text, {"": made.tensors, **made.parts}, {key: v for key, v in record.items() if key not in clocked}


def assert_left_the_same(mine, theirs):
    assert mine[0] == theirs[0]
    assert mine[1].keys() == theirs[1].keys()
    for part, tensors in mine[1].items():
        assert tensors.keys() == theirs[1][part].keys()
        assert [name for name, t in tensors.items() if not torch.equal(t, theirs[1][part][name])] == []
    assert mine[2] == theirs[2]


def stop(store, stage, at, tag):
    """Run the stage until it reports ``tag`` at ``at`` or more env steps."""

    def watch(env_steps, values):
        if env_steps >= at and any(name.startswith(tag) for name in values):
            raise Stop

    with pytest.raises(Stop):
        run_stage(stage, store, watch)


def go_on(store, stage):
    """Run the stage to its end; returns the env steps of its first report."""
    reported = []
    run_stage(stage, store, lambda env_steps, values: reported.append(env_steps))
    return reported[0]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].uses_source])
def test_under_every_method_a_stopped_stage_ends_as_if_it_had_not_been(tmp_path, name):
    stages, store = set_up(tmp_path, methods=[name], evaluation={"every": 256, "episodes": 8, "num_envs": 8})
    needed = [stage for stage in stages if stage.method is None or not stage.method.control]
    for stage in needed:
        run_stage(stage, store, ignore)
        if stage.method is not None and (stage.kind != "consolidate" or stage.method.retraining):
            expected = left(store, stage)
            shutil.rmtree(store.folder(stage.id))
            last = stage.method.retraining if stage.kind == "consolidate" else 3 * STEPS // 4
            stop(store, stage, min(last, 3 * STEPS // 4), "rollout/")
            assert not store.done(stage.id)
            if (store.folder(stage.id) / SNAPSHOT).exists():
                assert go_on(store, stage) > 0
            assert_left_the_same(left(store, stage), expected)
