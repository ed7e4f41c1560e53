"""Progress: plain lines for a file, a live table for a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from support.tiny_experiment import write_config

from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.report import progress


@pytest.fixture
def stage(tmp_path):
    return next(iter(expand(load_config(str(write_config(tmp_path)))).stages.values()))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3661, "1:01:01"), (-3, "0:00")])
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_plain_lines_say_what_runs_and_how_it_ended(stage, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    page = io.StringIO()
    with progress.Progress(Console(file=page, width=200), todo=[stage, stage], done=1) as shown:
        shown.started(stage)
        shown.progressed(stage, 128, {"eval/return_mean": 1.25})
        shown.tick()
        shown.finished(stage, None)
        shown.started(stage)
        shown.finished(stage, "the disk is full")
    lines = page.getvalue().splitlines()
    assert lines[0] == f"start    {stage.label} (256 env steps)"
    assert "128 of 256 env steps" in lines[1]
    assert "return 1.25" in lines[1]
    assert "ETA" in lines[1]
    assert lines[2].endswith("[2/3]")
    assert lines[4] == f"FAILED   {stage.label}: the disk is full"


def test_a_terminal_gets_a_table(stage):
    page = io.StringIO()
    with progress.Progress(Console(file=page, width=120, force_terminal=True), [stage, stage], 1) as shown:
        shown.started(stage)
        shown.progressed(stage, 128, {"eval/return_mean": 1.25})
        shown._live.refresh()
    text = page.getvalue()
    assert "1 of 3 stages done" in text
    for word in ("env steps", "speed", "return", "ETA", "1.25", "128"):
        assert word in text


def test_a_resumed_stage_starts_at_its_snapshot_and_its_speed_counts_from_there(stage, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    page = io.StringIO()
    shown = progress.Progress(Console(file=page, width=200), todo=[stage])
    shown.started(stage)
    start = shown._rows[stage.id].start
    shown.progressed(stage, 128, {})
    shown.tick()
    shown.progressed(stage, 192, {})
    monkeypatch.setattr(progress.time, "monotonic", lambda: start + 32)
    shown.tick()
    _, first, second = page.getvalue().splitlines()
    assert "128 of 256 env steps, 0/s" in first
    assert "ETA -; all stages: ETA -" in first
    assert "192 of 256 env steps, 2/s" in second
    assert "ETA 0:32; all stages: ETA 0:3" in second


def test_where_a_stage_runs_and_notes_are_shown(stage):
    for terminal in False, True:
        page = io.StringIO()
        console = Console(file=page, width=200, force_terminal=terminal)
        with progress.Progress(console, todo=[stage]) as shown:
            shown.started(stage)
            shown.placed(stage, "node 10.0.0.3")
            shown.noted("lost     its node")
            shown.placed(stage, "node 10.0.0.4, try 2")
            if terminal:
                console.print(shown._render())
        printed = page.getvalue()
        assert "lost     its node\n" in printed
        assert "node 10.0.0.4, try 2" in printed
        assert ("where" in printed) == terminal


def test_evaluations_after_the_last_step_are_shown_and_count_in_the_eta(stage, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    page = io.StringIO()
    shown = progress.Progress(Console(file=page, width=200), todo=[stage, stage])

    def train(seconds):
        shown.started(stage)
        shown.progressed(stage, 0, {})
        now[0] += seconds
        shown.progressed(stage, 256, {"time/evaluation_s": 3.0})

    train(16)
    now[0] += 20
    shown.tick()
    shown.progressed(stage, 256, {"time/recall_s": 19.0})
    shown.finished(stage, None)
    train(16)
    now[0] += 5
    shown.tick()
    _, first, done, _, second = page.getvalue().splitlines()
    assert "256 of 256 env steps, evaluation 0:20, return -, ETA 0:00" in first
    assert "in 0:36 (0:22 of it evaluations)" in done
    assert "evaluation 0:05, return -, ETA 0:15; all stages: ETA 0:15" in second


def test_the_eta_counts_consolidations_by_the_seconds_that_they_take(stage, monkeypatch):
    """Two of them, of 50 s each, then two trainings of 256 env steps at 8 a second, each with all that was before."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    memories = [replace(stage, kind="consolidate", seed=seed) for seed in (0, 1)]
    shown = progress.Progress(Console(file=io.StringIO()), [*memories, stage, stage])

    def run(of, seconds, env_steps):
        shown.started(of)
        shown.progressed(of, 0, {})
        now[0] += seconds
        shown.progressed(of, env_steps, {})
        shown.finished(of, None)

    assert shown._eta() == "-"
    run(memories[0], 50, 30_000)
    assert shown._eta() == "-", "nothing was trained yet"
    run(stage, 32, 256)
    assert shown._eta() == "1:22"
    run(memories[1], 50, 30_000)
    assert shown._eta() == "0:32"
    shown.started(stage)
    shown.progressed(stage, 0, {})
    now[0] += 16
    shown.progressed(stage, 128, {})
    assert shown._eta() == "0:16"
    only = progress.Progress(Console(file=io.StringIO()), memories)
    only.started(memories[0])
    assert only._eta() == "-", "none has ended yet"


def test_a_narrow_terminal_shows_numbers_in_full(stage):
    page = io.StringIO()
    console = Console(file=page, width=80, force_terminal=True)
    with progress.Progress(console, [stage, stage], 1) as shown:
        shown.started(stage)
        shown.progressed(stage, 128, {"eval/return_mean": -1.25})
        shown._live.refresh()
    for words in ("env steps", "128 of 256", "return", "-1.25", "ETA", "seed 0"):
        assert words in page.getvalue()
