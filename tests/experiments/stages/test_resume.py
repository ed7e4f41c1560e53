"""A stage that was stopped, and then run again, leaves what a stage leaves that was never stopped."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import pytest
from support.stage_outcomes import assert_same, assert_same_outcomes, outcome
from support.tiny_experiment import write_config
from support.tiny_tasks import takes

from graft.agents.checkpoints import snapshotter
from graft.agents.checkpoints.snapshot import Snapshot
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.experiments.config.experiment import load_config
from graft.experiments.launchers.launcher import attempt
from graft.experiments.plan.pairs import expand
from graft.experiments.report.common import resume_notes
from graft.experiments.report.transfer import stage_records
from graft.experiments.stages import resume
from graft.experiments.stages.metrics_log import run_name
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.provenance import provenance
from graft.experiments.store.records import METRICS, RESUMED, SNAPSHOT, Store
from graft.transfer.method import METHODS

ROOT = Path(__file__).parents[3]
ROLLOUT = 128
STEPS = 4 * ROLLOUT
"""Env steps of a stage."""


class Stop(Exception):
    """As sudden as a kill, for whoever trains."""


@pytest.fixture
def eager(monkeypatch):
    """A snapshot at every rollout."""
    be_eager(monkeypatch)


def be_eager(patch):
    patch.setattr(resume, "SECONDS", 0.0)
    patch.setattr(snapshotter, "LARGEST_SHARE", 1e9)


def ignore(env_steps, values):
    """Nobody watches."""


def set_up(folder, **changes):
    """The tiny experiment's stages in order, and a store for them."""
    changes = {"seeds": 1, "pretrain": {"steps": STEPS}, "transfer": {"steps": STEPS}, **changes}
    config = load_config(str(write_config(folder, **changes)))
    store = Store(folder / "out")
    store.open(config)
    return list(expand(config).stages.values()), store


def stop(store, stage, at, tag):
    """Run the stage until it reports ``tag`` at ``at`` or more env steps."""

    def watch(env_steps, values):
        if env_steps >= at and any(name.startswith(tag) for name in values):
            raise Stop

    with pytest.raises(Stop):
        run_stage(stage, store, watch)


def go_on(store, stage):
    """Run the stage to its end; returns the env steps of its first metric, and of all reports."""
    reports, metrics = [], []

    def watch(env_steps, values):
        reports.append(env_steps)
        if values:
            metrics.append(env_steps)

    run_stage(stage, store, watch)
    return metrics[0], reports


SOON = {"retrain": STEPS, "every": 3, "gradual_unfreeze": True, "layer_decay": 0.5}
"""Options that make something happen within four rollouts, for the methods that have them."""


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("ewc", "packnet", "progressive") else pytest.mark.slow)
        for name in METHODS
        if METHODS[name].uses_source and takes(name, schemas(Task("Graft/Dodge-v0")))
    ],
)  # without the files of a stage, test_methods_training resumes every method
def test_under_every_method_a_stopped_stage_ends_as_if_it_had_not_been(tmp_path, name):
    options = {key: value for key, value in SOON.items() if key in {field.name for field in fields(METHODS[name])}}
    evaluation = {"every": 2 * ROLLOUT, "episodes": 8, "num_envs": 8}
    stages, store = set_up(tmp_path, methods=[{name: options} if options else name], evaluation=evaluation)
    tried = 0
    for stage in stages:
        if stage.method is not None and "control" in stage.method.provides:
            continue
        run_stage(stage, store, ignore)
        if stage.method is not None and (stage.kind != "consolidate" or stage.method.retraining):
            tried += 1
            expected = outcome(store, stage)
            shutil.rmtree(store.folder(stage.id))
            stop(store, stage, 3 * ROLLOUT, "rollout/")
            assert not store.done(stage.id)
            assert go_on(store, stage)[0] == 2 * ROLLOUT, "it did not go on from the last snapshot"
            assert_same(outcome(store, stage), expected)
    assert tried


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_a_stage_on_a_mixture_goes_on_and_its_record_has_each_tasks_returns(tmp_path):
    task = {"id": "Graft/Mixture-v0", "kwargs": {"tasks": ["Graft/Dodge-v0", "Graft/Shoot-v0"]}}
    stages, store = set_up(tmp_path, sources=[task], targets=[task], methods="finetune")
    stage = stages[0]
    run_stage(stage, store, ignore)
    expected = outcome(store, stage)
    shutil.rmtree(store.folder(stage.id))
    stop(store, stage, 3 * ROLLOUT, "train/")
    assert go_on(store, stage)[0] == 3 * ROLLOUT
    assert_same(outcome(store, stage), expected)
    last = [line for line in expected.metrics if "eval/return_mean/Dodge" in line][-1]
    means = {name: last[f"eval/return_mean/{name}"] for name in ("Dodge", "Shoot")}
    assert store.record(stage.id)["return_means"] == means
    assert store.checkpoint(stage.id).record["evaluation"]["return_means"] == means
    config = load_config(str(tmp_path / "tiny.yaml"))
    assert stage_records(expand(config), store, {})[0]["return_means"] == means
    last = stages[-1]
    run_stage(last, store, ignore)
    assert store.record(last.id)["recall"][0]["return_means"].keys() == means.keys()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The first stage stopped at 384 env steps, just after its update; and what it leaves when it is not stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    (stage, *_), store = set_up(folder)
    with pytest.MonkeyPatch.context() as patch:
        be_eager(patch)
        run_stage(stage, store, ignore)
        expected = outcome(store, stage)
        shutil.rmtree(store.folder(stage.id))
        stop(store, stage, 3 * ROLLOUT, "train/")
    return stage, folder / "out", expected


@pytest.fixture
def pretraining(tmp_path, stopped, eager):
    """`stopped`, in a folder that the test may change."""
    stage, out, expected = stopped
    shutil.copytree(out, tmp_path / "out")
    return stage, Store(tmp_path / "out"), expected


def test_whoever_watches_hears_first_where_it_goes_on(pretraining):
    stage, store, _ = pretraining
    assert go_on(store, stage)[1][0] == 3 * ROLLOUT


def test_env_steps_and_seconds_are_those_of_both_parts(pretraining):
    stage, store, _ = pretraining
    folder, plan = store.folder(stage.id) / SNAPSHOT, resume.identity_of(stage)
    found = Snapshot.read(folder, plan)
    found.parts["caller"].values["cost"]["core_seconds"] = 1000.0
    Snapshot(found.env_steps, 1000.0, found.parts).write(folder, plan)
    go_on(store, stage)
    assert 1000 < store.record(stage.id)["cost"]["core_seconds"] < 1100
    assert store.record(stage.id)["env_steps"] == STEPS
    assert 1000 < store.record(stage.id)["seconds"] < 1100


def test_tensorboard_shows_each_metric_once(pretraining):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage, store, _ = pretraining
    go_on(store, stage)
    folder = store.out / "tb" / run_name(stage)
    assert len(list(folder.glob("events*"))) > 1
    events = EventAccumulator(str(folder))
    events.Reload()
    lines = [json.loads(line) for line in (store.folder(stage.id) / METRICS).read_text().splitlines()]
    for tag in {tag for line in lines for tag in line} - {"env_steps"}:
        expected = [(line["env_steps"], line[tag]) for line in lines if tag in line]
        assert [(e.step, e.value) for e in events.Scalars(tag)] == [(s, pytest.approx(v)) for s, v in expected], tag


class Reports:
    """What a launcher hears of a stage."""

    def __init__(self):
        self.steps, self.notes = [], []

    def __call__(self, env_steps, values):
        self.steps.append(env_steps)

    def noted(self, text):
        self.notes.append(text)


def other_code(stage, store, monkeypatch):
    monkeypatch.setattr(resume, "code_hash", lambda: "other")


def other_libraries(stage, store, monkeypatch):
    monkeypatch.setattr(resume, "provenance", lambda: {"versions": {**provenance()["versions"], "torch": "9"}})


def other_system(stage, store, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))


def of_another_stage(stage, store, monkeypatch):
    folder = store.folder(stage.id) / SNAPSHOT
    identity = resume.identity_of(stage)
    Snapshot.read(folder, identity).write(folder, {**identity, "stage": "another"})


def truncated(stage, store, monkeypatch):
    (path,) = (store.folder(stage.id) / SNAPSHOT).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])


def shorter_metrics(stage, store, monkeypatch):
    path = store.folder(stage.id) / METRICS
    path.write_bytes(path.read_bytes()[:100])


def no_metrics(stage, store, monkeypatch):
    (store.folder(stage.id) / METRICS).unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (other_code, "its snapshot is of another version of Graft's code"),
        (other_libraries, f"its snapshot is of torch {version('torch')}, not 9"),
        (other_system, "its snapshot is of another operating system or C library"),
        (of_another_stage, "its snapshot is of stage"),
        (truncated, "its snapshot is damaged"),
        (shorter_metrics, "metrics.jsonl was altered"),
        (no_metrics, "metrics.jsonl was altered"),
    ],
)
def test_what_cannot_go_on_starts_over_and_says_why(pretraining, monkeypatch, spoil, why):
    stage, store, expected = pretraining
    assert resume.Resumption(stage, store).refusal == ""
    spoil(stage, store, monkeypatch)
    assert resume.Resumption(stage, store).refusal == why
    reports = Reports()
    assert attempt(stage, store, reports, 1) is None
    assert reports.notes == [f"Note: {stage.label} starts over: {why}."]
    assert reports.steps[0] == 0
    assert_same(outcome(store, stage), expected)
    assert resume.Resumption(stage, store).refusal == ""


def test_another_kernel_is_the_same_machine_for_a_snapshot(pretraining, monkeypatch):
    stage, store, _ = pretraining
    monkeypatch.setattr(platform, "release", lambda: "0.0-other")
    monkeypatch.setattr(platform, "platform", lambda *rest: "Linux-0.0-other")
    assert go_on(store, stage)[1][0] == 3 * ROLLOUT


def test_a_short_stage_takes_no_snapshot(tmp_path):
    (stage, *_), store = set_up(tmp_path)
    stop(store, stage, 3 * ROLLOUT, "train/")
    assert not (store.folder(stage.id) / SNAPSHOT).exists()
    assert go_on(store, stage)[1][0] == 0


@pytest.mark.usefixtures("eager")
def test_a_stage_on_cartpole_goes_on_with_fresh_episodes_and_its_record_says_so(tmp_path):
    evaluation = {"every": 2 * ROLLOUT, "episodes": 8, "num_envs": 8}
    given = {"sources": "CartPole-v1", "targets": "CartPole-v1", "network": None, "methods": "finetune"}
    (stage, *_), store = set_up(tmp_path, **given, evaluation=evaluation)
    stop(store, stage, 2 * ROLLOUT, "train/")
    stop(store, stage, 3 * ROLLOUT, "train/")
    reports = Reports()
    assert attempt(stage, store, reports, 1) is None
    assert reports.steps[0] == 3 * ROLLOUT, "more than one interval was trained again"
    assert reports.notes == [
        f"goes on  {stage.label} from 384 env steps, its latest snapshot",
        f"Note: {stage.label} has fresh episodes from 384 env steps on, as the state of its environments cannot be "
        f"saved.",
    ]
    said = {"count": 2, "env_steps": [2 * ROLLOUT, 3 * ROLLOUT]}
    record, made = store.record(stage.id), store.checkpoint(stage.id)
    assert (record[RESUMED], made.record[RESUMED], record["env_steps"]) == (said, said, STEPS)
    assert list(store.evaluations(stage.id).steps) == [0, 2 * ROLLOUT, STEPS]
    entries = stage_records(expand(load_config(str(tmp_path / "tiny.yaml"))), store, {})
    assert [entry.get(RESUMED) for entry in entries] == [said] + [None] * (len(entries) - 1)
    (note,) = resume_notes({"stages": entries})
    assert note.startswith("Stopped, and gone on with fresh episodes")
    assert f"{stage.label} (at 256, 384 env steps)" in note


OWN_GAME = """
import gymnasium as gym


class Own(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype("float32"), {}

    def step(self, action):
        return self.np_random.uniform(-1, 1, 1).astype("float32"), float(action), False, False, {}


gym.register("Own-v0", "own_game_of_a_user:Own", max_episode_steps=5)
"""


@pytest.mark.usefixtures("eager")
def test_a_stage_starts_over_where_the_users_environment_was_changed(tmp_path, monkeypatch):
    file = tmp_path / "own_game_of_a_user.py"
    file.write_text(OWN_GAME)
    monkeypatch.syspath_prepend(tmp_path)
    task = "own_game_of_a_user:Own-v0"
    (stage, *_), store = set_up(tmp_path, sources=task, targets=task, network=None, methods="finetune")
    stop(store, stage, 2 * ROLLOUT, "train/")
    assert resume.Resumption(stage, store).possible
    file.write_text(OWN_GAME.replace("float(action)", "-float(action)"))
    assert resume.Resumption(stage, store).refusal == "its snapshot is of another version of the environment's code"
    del gym.registry["Own-v0"]


KILLED_STAGE = """
import sys
from pathlib import Path

import graft.agents.checkpoints.snapshotter
import graft.experiments.stages.resume
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store

graft.agents.checkpoints.snapshotter.LARGEST_SHARE = 1e9
graft.experiments.stages.resume.SECONDS = 0.0
folder = Path(sys.argv[1])
stage = next(iter(expand(load_config(str(folder / "tiny.yaml"))).stages.values()))
run_stage(stage, Store(folder / "out"), lambda *_: None)
"""
"""A process that runs the first stage with a snapshot at every rollout."""


@pytest.mark.usefixtures("eager")
def test_a_stage_whose_process_is_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    budget = 20 * ROLLOUT
    for folder in folders:
        folder.mkdir()
    ((stage, *_), undisturbed), (_, killed) = (
        set_up(f, methods="finetune", pretrain={"steps": budget}) for f in folders
    )
    manifest = killed.folder(stage.id) / SNAPSHOT / "snapshot.json"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_STAGE, str(folders[1])],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    run_stage(stage, undisturbed, ignore)
    while not manifest.exists() or json.loads(manifest.read_text())["env_steps"] < 5 * ROLLOUT:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    reached = json.loads(manifest.read_text())["env_steps"]
    assert 5 * ROLLOUT <= reached < budget
    assert go_on(killed, stage)[1][0] == reached
    assert_same(outcome(killed, stage), outcome(undisturbed, stage))


EAGER_RUN = """
import sys

import graft.agents.checkpoints.snapshotter
import graft.experiments.stages.resume
from graft.experiments.run import main

graft.agents.checkpoints.snapshotter.LARGEST_SHARE = 1e9
graft.experiments.stages.resume.SECONDS = 0.0
if __name__ == "__main__":
    sys.exit(main())
"""
"""The command line with a snapshot at every rollout, in the workers as well, which import the file that was run."""


def eager_run(folder, config):
    script = folder / "eager_run.py"
    script.write_text(EAGER_RUN)
    return subprocess.Popen(
        [sys.executable, str(script), str(config), "--out", str(folder / "out"), "--jobs", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


@pytest.mark.slow
def test_killed_in_the_middle_of_a_stage_the_same_command_ends_with_the_same_results(tmp_path):
    budget = 20 * ROLLOUT
    changes = {
        "methods": "finetune",
        "pretrain": {"steps": budget},
        "evaluation": {"every": 5000, "episodes": 8, "num_envs": 8},
    }
    for folder in ("undisturbed", "killed"):
        (tmp_path / folder).mkdir()
    stages, undisturbed = set_up(tmp_path / "undisturbed", **changes)
    _, killed = set_up(tmp_path / "killed", **changes)
    pretrain, manifest = stages[0], killed.folder(stages[0].id) / SNAPSHOT / "snapshot.json"

    process = eager_run(tmp_path / "killed", tmp_path / "killed" / "tiny.yaml")
    while not manifest.exists() or json.loads(manifest.read_text())["env_steps"] < 5 * ROLLOUT:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    reached = json.loads(manifest.read_text())["env_steps"]
    assert 5 * ROLLOUT <= reached < budget
    assert killed.record(pretrain.id)["status"] == "running"
    begun = json.loads((killed.folder(pretrain.id) / METRICS).read_text().splitlines()[1])["time/env_steps_per_s"]

    process = eager_run(tmp_path / "killed", tmp_path / "killed" / "tiny.yaml")
    for stage in stages:
        run_stage(stage, undisturbed, ignore)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    assert_same_outcomes(stages, killed, undisturbed)
    again = json.loads((killed.folder(pretrain.id) / METRICS).read_text().splitlines()[1])["time/env_steps_per_s"]
    assert again == begun, "it started over"


CHEETAH = {
    "algorithm": {
        "name": "sac",
        "num_envs": 4,
        "train_freq": 16,
        "batch": 32,
        "learning_starts": 200,
        "buffer": 20_000,
    },
    "network": {"head": [32]},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("task", "changes", "budget"),
    [
        ("CartPole-v1", {"network": None}, 20_000),
        ("HalfCheetah-v5", CHEETAH, 1_500),
        ("minigrid:MiniGrid-Empty-5x5-v0", {"network": None}, 10_000),
    ],
)
def test_killed_in_an_environment_that_cannot_be_saved_one_interval_at_most_is_lost(tmp_path, task, changes, budget):
    evaluation = {"every": budget, "episodes": 2, "num_envs": 2}
    given = {"sources": task, "targets": task, "methods": "finetune", "recall": 2}
    given |= {"pretrain": {"steps": budget}, "transfer": {"steps": ROLLOUT}}
    stages, store = set_up(tmp_path, **given, evaluation=evaluation, **changes)
    pretrain, config = stages[0], tmp_path / "tiny.yaml"
    manifest, metrics = (store.folder(pretrain.id) / name for name in (f"{SNAPSHOT}/snapshot.json", METRICS))

    process = eager_run(tmp_path, config)
    while not manifest.exists() or json.loads(manifest.read_text())["env_steps"] < budget // 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = metrics.read_text().splitlines()
    reached = json.loads(manifest.read_text())["env_steps"]
    assert json.loads(before[-1])["env_steps"] - ROLLOUT <= reached < budget

    process = eager_run(tmp_path, config)
    printed = " ".join(process.communicate(timeout=600)[0].split())
    assert process.returncode == 0, printed
    assert f"from {reached:,} env steps, its latest snapshot" in printed
    assert f"has fresh episodes from {reached:,} env steps on" in printed
    assert "Stopped, and gone on with fresh episodes" in printed
    assert store.record(pretrain.id)[RESUMED] == {"count": 1, "env_steps": [reached]}
    kept = [line for line in before if json.loads(line)["env_steps"] < reached]
    assert metrics.read_text().splitlines()[: len(kept)] == kept, "it started over"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["stages"][0][RESUMED]["env_steps"] == [reached]
