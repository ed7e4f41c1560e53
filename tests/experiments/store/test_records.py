"""The store: what counts as done, what is refused, and that nothing is written over."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata

import pytest
from filelock import FileLock
from support.tiny_experiment import write_config

from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.launchers.launcher import attempt
from graft.experiments.plan.pairs import expand
from graft.experiments.stages.metrics_log import run_name
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.lock import TakenOver
from graft.experiments.store.provenance import provenance
from graft.experiments.store.records import Store


@pytest.fixture
def pretrained(tmp_path):
    """A store with one finished pretraining, and its stage."""
    config = load_config(str(write_config(tmp_path)))
    store = Store(tmp_path / "out")
    store.open(config)
    stage = next(iter(expand(config).stages.values()))
    run_stage(stage, store, lambda *_: None)
    return store, stage


def test_a_finished_stage_is_done(pretrained):
    store, stage = pretrained
    assert store.done(stage.id)
    record = store.record(stage.id)
    assert record["env_steps"] == 256
    assert record["spec"] == json.loads(json.dumps(stage.to_json()))
    checkpoint = store.checkpoint(stage.id)
    assert checkpoint.id == record["checkpoint"]
    assert checkpoint.record["env_steps"] == 256


def test_metrics_carry_the_tags_and_steps(pretrained):
    store, stage = pretrained
    lines = [json.loads(line) for line in (store.folder(stage.id) / "metrics.jsonl").read_text().splitlines()]
    assert [line["env_steps"] for line in lines if "eval/return_mean" in line] == [0, 128, 256]
    tags = {tag for line in lines for tag in line}
    assert {
        "eval/return_mean",
        "eval/return_normalized",
        "rollout/return_mean",
        "rollout/length_mean",
        "train/loss",
        "time/env_steps_per_s",
    } <= tags


def test_metrics_are_scaled_by_the_bounds_of_the_config(tmp_path):
    targets = [{"id": "Graft/Dodge-v0", "bounds": [-1.0, 9.0]}]
    config = load_config(str(write_config(tmp_path, targets=targets, seeds=1)))
    store = Store(tmp_path / "out")
    stage = next(s for s in expand(config).stages.values() if s.kind == "transfer")
    run_stage(stage, store, lambda *_: None)
    lines = [json.loads(line) for line in (store.folder(stage.id) / "metrics.jsonl").read_text().splitlines()]
    scaled = [(x["eval/return_mean"], x["eval/return_normalized"]) for x in lines if "eval/return_mean" in x]
    assert scaled
    assert all(score == pytest.approx((value + 1) / 10) for value, score in scaled)


def test_tensorboard_holds_what_metrics_jsonl_holds(pretrained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store, stage = pretrained
    events = EventAccumulator(str(store.out / "tb" / run_name(stage)))
    events.Reload()
    curve = store.evaluations(stage.id)
    scalars = events.Scalars("eval/return_mean")
    assert [s.step for s in scalars] == list(curve.steps)
    assert [s.value for s in scalars] == pytest.approx(curve.scores, rel=1e-6)
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "checkpoint/weights.safetensors", "checkpoint/manifest.json", "stage.json"]
)
def test_an_altered_file_of_a_finished_stage_is_an_error(pretrained, name):
    store, stage = pretrained
    path = store.folder(stage.id) / name
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(GraftError, match="altered"):
        store.done(stage.id)


@pytest.mark.parametrize("name", ["metrics.jsonl", "stage.json"])
def test_a_file_that_the_machine_cannot_read_is_not_altered(pretrained, monkeypatch, name):
    store, stage = pretrained

    def fails(path):
        raise OSError(errno.EIO if path.name == name else errno.EACCES, "it is the disk", str(path))

    monkeypatch.setattr("graft.experiments.store.records.read_file", fails)
    read = store.record if name == "stage.json" else store.evaluations
    with pytest.raises(GraftError, match=r"be read \(it is the disk\)\.$"):
        read(stage.id)


def test_an_interrupted_stage_is_not_done_and_starts_over(pretrained):
    store, stage = pretrained
    folder = store.start(stage)
    assert not store.done(stage.id)
    assert [path.name for path in folder.iterdir()] == ["stage.json"]


def test_another_experiment_is_refused(tmp_path):
    first = load_config(str(write_config(tmp_path)))
    store = Store(tmp_path / "out")
    store.open(first)
    before = (store.out / "experiment.json").read_bytes()
    with pytest.raises(GraftError, match=r"another experiment \('tiny', which differs in .*steps"):
        store.open(load_config(str(write_config(tmp_path)), ["transfer.steps=512"]))
    assert (store.out / "experiment.json").read_bytes() == before


@pytest.mark.parametrize(
    "override",
    [
        "seeds=1",
        "methods=[finetune]",
        "targets=Graft/Hunt-v0",
        "sources=Graft/Hunt-v0",
        "cost.watts_per_core=5",
        "sinks=[]",
    ],
)
def test_methods_seeds_and_tasks_may_change_in_place(tmp_path, override):
    store = Store(tmp_path / "out")
    store.open(load_config(str(write_config(tmp_path))))
    changed = load_config(str(write_config(tmp_path)), [override])
    store.open(changed)
    record = json.loads((store.out / "experiment.json").read_text())
    assert record["config"] == changed.model_dump(mode="json", by_alias=True)
    assert len(record["invocations"]) == 2


def test_a_folder_of_something_else_is_refused(tmp_path):
    config = load_config(str(write_config(tmp_path)))
    with pytest.raises(GraftError, match="not an experiment's folder and not empty"):
        Store(tmp_path).open(config)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    (tmp_path / "empty").mkdir()
    Store(tmp_path / "empty").open(config)
    record = json.loads((tmp_path / "empty" / "experiment.json").read_text())
    assert record["versions"]["torch"]
    assert len(record["invocations"]) == 1


def test_versions_of_what_is_installed_are_recorded(monkeypatch):
    known = {"torch": "1", "ray": "2", "ale-py": "3"}

    def version(name):
        if name not in known:
            raise metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(metadata, "version", version)
    versions = provenance()["versions"]
    assert {name: v for name, v in versions.items() if name not in ("graft", "python")} == known


def test_a_folder_that_recorded_fewer_libraries_differs_in_those_alone(tmp_path):
    store = Store(tmp_path / "out")
    store.open(load_config(str(write_config(tmp_path))))
    assert store.software_changes() == []
    path = store.out / "experiment.json"
    record = json.loads(path.read_text())
    del record["versions"]["ray"]
    path.write_text(json.dumps(record | {"versions": record["versions"] | {"optuna-dashboard": None, "torch": "0.1"}}))
    assert store.software_changes() == ["versions.torch"]


def test_two_runs_cannot_share_a_folder(tmp_path):
    mine = rf"in use by another run, process {os.getpid()} on {re.escape(platform.node())}; wait for it"
    refused = pytest.raises(GraftError, match=mine)
    with Store(tmp_path / "out").lock(), refused, Store(tmp_path / "out").lock():
        pass
    with Store(tmp_path / "out").lock():
        pass


def test_a_folder_that_cannot_be_written_is_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root may write everywhere
    with (
        pytest.raises(GraftError, match=r"out cannot be written; make it writable, or"),
        Store(tmp_path / "out").lock(),
    ):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from graft.experiments.store.provenance import provenance
from graft.experiments.store.records import Store
store = Store(Path(sys.argv[1]))
with store.lock(), store.lock_stage("stage", 0):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_frees_the_folder_and_its_stage(tmp_path):
    store = Store(tmp_path / "out")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(store.out)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(GraftError, match=f"in use by another run, process {holder.pid} on"), store.lock():
            pass
        with (
            pytest.raises(GraftError, match=f"Process {holder.pid} on .* still writes"),
            store.lock_stage("stage", 0.2),
        ):
            pass
        holder.kill()
    with store.lock(), store.lock_stage("stage", 10):
        pass


def without_locks(self):
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_stage_that_was_taken_over_is_finished_by_the_last_alone(pretrained, monkeypatch):
    """As on two machines whose shared disk has no locks: the first was cut off, and still works."""
    first, stage = pretrained
    monkeypatch.setattr(FileLock, "_acquire", without_locks)
    second = Store(first.out)
    with first.lock_stage(stage.id, 0):
        first.start(stage)
        with second.lock_stage(stage.id, 0):
            second.start(stage)
            before = (second.folder(stage.id) / "stage.json").read_bytes()
            (second.folder(stage.id) / "metrics.jsonl").write_bytes(b"")
            for record in first.finish, first.stop, lambda stage: first.fail(stage, "lost"):
                with pytest.raises(TakenOver, match=f"taken over by process {os.getpid()} on"):
                    record(stage)
            assert (second.folder(stage.id) / "stage.json").read_bytes() == before
            second.finish(stage)
    assert json.loads((first.folder(stage.id) / "stage.json").read_text())["status"] == "done"


def test_a_worker_whose_stage_was_taken_over_leaves_all_as_it_is(tmp_path, monkeypatch):
    config = load_config(str(write_config(tmp_path)))
    first, second = Store(tmp_path / "out"), Store(tmp_path / "out")
    stage = next(iter(expand(config).stages.values()))
    monkeypatch.setattr(FileLock, "_acquire", without_locks)

    class Cut:
        """The other worker comes when this one has begun."""

        def __init__(self):
            self.entered = None

        def __call__(self, env_steps, values):
            if self.entered is None:
                self.entered = second.lock_stage(stage.id, 0)
                self.entered.__enter__()

        def noted(self, text):
            pass

    cut = Cut()
    assert attempt(stage, first, cut, 1).startswith("It was taken over by process")
    assert second.record(stage.id)["status"] == "running"
    assert not (second.folder(stage.id) / "checkpoint").exists()
    cut.entered.__exit__(None, None, None)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    file = write_config(tmp_path)
    with pytest.raises(GraftError, match="cannot be made"), Store(file / "x").lock():
        pass
    with pytest.raises(GraftError, match="cannot be used"):
        Store(file).check(load_config(str(file)))


def test_a_record_that_lost_its_status_is_an_error(pretrained):
    store, stage = pretrained
    path = store.folder(stage.id) / "stage.json"
    path.write_text(path.read_text().replace('"status": "done"', '"status": "dome"'))
    with pytest.raises(GraftError, match="altered"):
        store.done(stage.id)


def test_an_unreadable_record_is_refused(tmp_path):
    config = load_config(str(write_config(tmp_path)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "experiment.json").write_text("{")
    with pytest.raises(GraftError, match="cannot be read"):
        Store(tmp_path / "out").open(config)
