"""A worker: what it tells its launcher."""

from __future__ import annotations

import os

import pytest

from graft.experiments.launchers import worker as working
from graft.experiments.launchers.worker import StageProgress, StageWorker


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Folders show at once, and the environment's variables are put back."""
    monkeypatch.setattr(working, "SHARED_SECONDS", 0.0)
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_it_sees_the_folder_where_the_token_is(tmp_path):
    (tmp_path / ".shared").write_text("token")
    made = StageWorker(str(tmp_path), 1, gpu=False)
    assert made.prepare("token", ".shared").sees_folder
    assert not made.prepare("other", ".shared").sees_folder
    assert not made.prepare("token", "nowhere").sees_folder


def test_it_hides_gpus_and_takes_one_thread(tmp_path):
    StageWorker(str(tmp_path), 1, gpu=False)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_what_a_stage_notes_stays_while_it_goes_on():
    reporter = working._Reporter(2)
    reporter.noted("Note: it starts over.")
    assert reporter.latest == StageProgress(2, 1, 0, {}, "Note: it starts over.")
    reporter(128, {"a": 1.0})
    reporter(256, {"b": 2.0})
    assert reporter.latest == StageProgress(2, 3, 256, {"a": 1.0, "b": 2.0}, "Note: it starts over.")
