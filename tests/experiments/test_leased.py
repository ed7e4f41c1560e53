"""A worker lives as long as it hears of its launcher, by a clock that the test turns."""

from __future__ import annotations

import os
import time

import pytest

from experiments.launchers import leased
from experiments.launchers.leased import LeasedWorker, Progress


class Ended(BaseException):
    """What `os._exit` raises here."""


@pytest.fixture
def clock(monkeypatch):
    """Turned by hand; threads that would watch it do not start."""
    turned = [0.0]

    def end(code):
        raise Ended

    monkeypatch.setattr(leased, "now", lambda: turned[0])
    monkeypatch.setattr(leased.threading.Thread, "start", lambda thread: None)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return turned


@pytest.fixture
def worker(clock, tmp_path):
    made = LeasedWorker(str(tmp_path), 1, 10.0, gpu=False)
    assert not made.hello("token", "nowhere" if clock else "").sees
    return made


@pytest.fixture(autouse=True)
def folders_show_at_once(monkeypatch):
    monkeypatch.setattr(leased, "SECONDS_TO_SEE", 0.0)


def test_it_sees_the_folder_where_the_token_is(clock, tmp_path):
    (tmp_path / ".shared").write_text("token")
    made = LeasedWorker(str(tmp_path), 1, 10.0, gpu=False)
    assert made.hello("token", ".shared").sees
    assert not made.hello("other", ".shared").sees


def test_it_hides_gpus_and_takes_one_thread(worker):
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_it_lives_while_it_is_looked_at(worker, clock):
    for clock[0] in range(0, 100, 4):
        assert worker.look() == Progress()


def test_it_ends_when_it_is_not(worker, clock):
    clock[0] = 4
    worker.look()
    clock[0] = 10.1  # a lease after it said hello, the answer before that call
    with pytest.raises(Ended):
        worker._end_in_time()
    with pytest.raises(Ended):
        worker.look()


def test_a_call_that_was_long_on_its_way_does_not_renew_from_its_arrival(worker, clock):
    """The launcher asked at 0.1 at the earliest and counts from then: it may not find the worker alive at 10.2."""
    clock[0] = 0.1
    worker.look()
    clock[0] = 9.9
    worker.look()
    clock[0] = 10.2
    with pytest.raises(Ended):
        worker._end_in_time()


def test_its_own_thread_ends_it(tmp_path, monkeypatch):
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    LeasedWorker(str(tmp_path), 1, 0.2, gpu=False)
    deadline = time.monotonic() + 20
    while not ends and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ends == [1]


def test_what_a_stage_notes_stays_while_it_goes_on():
    reporter = leased._Reporter(2)
    reporter.noted("Note: it starts over.")
    assert reporter.latest == Progress(2, 1, 0, {}, "Note: it starts over.")
    reporter(128, {"a": 1.0})
    reporter(256, {"b": 2.0})
    assert reporter.latest == Progress(2, 3, 256, {"a": 1.0, "b": 2.0}, "Note: it starts over.")
