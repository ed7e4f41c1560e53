"""Sinks: what they are told comes out of their own files, and one that fails stops no stage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar

import imageio.v3 as imageio
import numpy as np
import pytest
from support.tiny_tasks import TASK, small_config

from graft.agents.sb3 import ALGORITHMS
from graft.agents.training.backend import Evaluation
from graft.envs.core.task import Bounds, Task
from graft.errors import GraftError
from graft.experiments.plan.stage import Stage
from graft.experiments.sinks.sink import SINKS, Sink, SinkRun
from graft.experiments.sinks.tensorboard import TensorBoard, write_gif
from graft.experiments.stages.metrics_log import MetricsLog, run_name

pytestmark = pytest.mark.usefixtures("tiny_tasks")

SETTINGS = {"method": "frozen", "seed": 3, "learning_rate": 0.002}


def stage_with(*sinks, task=TASK):
    algorithm = ALGORITHMS["ppo"](num_envs=8)
    scale = Bounds(0.0, 10.0, "given")
    return Stage(
        "pretrain", task, 0, 640, small_config("vector"), "ppo", algorithm, Evaluation(), scale=scale, sinks=sinks
    )


def folder_of(stage, tmp_path):
    folder = tmp_path / "stages" / stage.id
    folder.mkdir(parents=True)
    return folder


def events_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_a_run_is_named_by_method_task_and_seed_and_found_by_its_id():
    stage = stage_with(task=Task(TASK.id, {"map": "größe/ä·<1>"}))
    name = run_name(stage)
    assert re.fullmatch(rf"pretrain - [\w ().,=+-]+ - seed 0 - {stage.id}", name, re.ASCII)
    assert len(name.encode()) < 200


def test_hyperparameters_have_metrics_that_exist(tmp_path):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    stage = stage_with("tensorboard")
    with MetricsLog(folder_of(stage, tmp_path), stage, lambda *_: None) as log:
        log.text("transplant", "| tensor |\n| --- |")
        for step, value in ((0, 1.0), (64, 4.0)):
            log(step, {"eval/return_mean": value, "train/loss": 0.5})
        log.finish()
    events = events_of(tmp_path / "tb" / run_name(stage))
    told = HParamsPluginData.FromString(events.summary_metadata["_hparams_/experiment"].plugin_data.content)
    names = [info.name.tag for info in told.experiment.metric_infos]
    assert names == ["eval/return_mean", "eval/return_normalized"]
    assert [events.Scalars(name)[-1].value for name in names] == pytest.approx([4.0, 0.4])
    begun = HParamsPluginData.FromString(events.summary_metadata["_hparams_/session_start_info"].plugin_data.content)
    assert begun.session_start_info.hparams["stage"].string_value == stage.id
    assert events.Tensors("transplant/text_summary")[0].tensor_proto.string_val == [b"| tensor |\n| --- |"]


def test_a_stage_that_starts_over_leaves_no_old_metrics(tmp_path):
    for goes_on, known in ((False, [1]), (False, [1]), (True, [1, 1])):
        sink = TensorBoard(SinkRun(tmp_path, "1a", "run", SETTINGS, goes_on))
        sink.scalars(1, {"a": 1.0})
        sink.close(done=True)
        assert [event.step for event in events_of(tmp_path / "tb" / "run").Scalars("a")] == known


def test_clips_are_played(tmp_path):
    gif = tmp_path / "clip_1.gif"
    imageio.imwrite(gif, np.arange(2 * 8 * 6 * 3, dtype=np.uint8).reshape(2, 8, 6, 3), loop=0)
    write_gif(tmp_path, "Hunt", gif)
    (image,) = events_of(tmp_path / "tb" / "clip_1").Images("Hunt")
    assert (image.height, image.width, image.encoded_image_string) == (8, 6, gif.read_bytes())


class Fails(Sink):
    package = "json"
    closed: ClassVar[list[bool]] = []

    def scalars(self, env_steps, values):
        if env_steps:
            raise ConnectionError("no server")

    def close(self, done):
        self.closed.append(done)


def test_a_sink_of_ones_own_needs_no_package():
    class Own(Sink):
        pass

    class Lacks(Sink):
        package = "not_installed.part"

    Own.check()
    with pytest.raises(GraftError, match=r"needs the package not_installed.part"):
        Lacks.check()


def test_a_sink_that_fails_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(SINKS._entries, "fails", Fails)
    said, stage = [], stage_with("fails", "tensorboard")
    folder = folder_of(stage, tmp_path)
    with MetricsLog(folder, stage, lambda *_: None, note=said.append) as log:
        for step in (0, 64, 128):
            log(step, {"a": 1.0})
    assert said == [f"Note: {stage.label} goes on without fails (ConnectionError: no server)."]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["env_steps"] for line in lines] == [0, 64, 128]
    assert [e.step for e in events_of(tmp_path / "tb" / run_name(stage)).Scalars("a")] == [0, 64, 128]
    assert Fails.closed == []


def test_what_is_not_installed_is_said_before_any_training(monkeypatch):
    monkeypatch.setattr("graft.experiments.sinks.sink.find_spec", lambda _: None)
    with pytest.raises(GraftError, match=r"sinks: mlflow needs .* pip install 'graft-rl\[mlflow\]'"):
        SINKS["mlflow"].check()
    with pytest.raises(GraftError, match="mlflow"):
        SINKS["mlflo"]


def told(name, tmp_path, goes_on=False):
    sink = SINKS[name](SinkRun(tmp_path / "exp", "0a1b2c3d4e5f6071", "frozen - Hunt - seed 3", SETTINGS, goes_on))
    for step in (0, 64):
        sink.scalars(step, {"eval/return_mean": step / 8, "eval/return_mean/Hunt[a]": 1.0})
    sink.text("transplant", "| tensor |")
    sink.finish({"eval/return_mean": 8.0})
    sink.close(done=True)


@pytest.mark.slow
def test_mlflow_has_one_run_for_a_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    told("mlflow", tmp_path)
    told("mlflow", tmp_path, goes_on=True)
    client = MlflowClient((tmp_path / "exp" / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("exp").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "frozen - Hunt - seed 3"
    assert run.data.params == {key: str(value) for key, value in SETTINGS.items()}
    assert {(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "eval/return_mean")} == {
        (0, 0),
        (64, 8),
    }
    assert "eval/return_mean.Hunt_a_" in run.data.metrics
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["transplant.md"]


@pytest.mark.slow
def test_mlflow_says_what_was_killed_where_a_stage_starts_over(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    SINKS["mlflow"](SinkRun(tmp_path / "exp", "0a1b2c3d4e5f6071", "frozen", SETTINGS))  # which never closes
    told("mlflow", tmp_path)
    client = MlflowClient((tmp_path / "exp" / "mlruns").as_uri())
    runs = client.search_runs([client.get_experiment_by_name("exp").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]


@pytest.mark.slow
def test_wandb_keeps_an_offline_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    import wandb

    told("wandb", tmp_path)
    wandb.teardown()  # its other process writes on after a run has ended
    (file,) = Path(tmp_path / "exp" / "wandb").glob("offline-run-*/run-0a1b2c3d4e5f6071.wandb")
    written = file.read_bytes()
    for word in (b"frozen - Hunt - seed 3", b"eval/return_mean", b"learning_rate", b"transplant"):
        assert word in written
