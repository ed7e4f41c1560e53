"""The system's clock, which people and time servers set back and forth."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from support.stage_outcomes import assert_same, outcome
from support.tiny_experiment import write_config

from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store


@pytest.mark.slow
def test_a_clock_that_jumps_by_days_changes_no_result_and_no_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = next(iter(expand(load_config(str(write_config(tmp_path)))).stages.values()))
    stores = Store(tmp_path / "steady"), Store(tmp_path / "jumps")
    run_stage(stage, stores[0], lambda *_: None)
    now, now_ns, jumps = time.time, time.time_ns, itertools.cycle([0, 100_000, -200_000])
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + 10**9 * next(jumps))
    began = time.monotonic()
    run_stage(stage, stores[1], lambda *_: None)
    assert_same(*(outcome(store, stage) for store in stores))
    assert 0 < (stores[1].record(stage.id) or {})["seconds"] <= time.monotonic() - began + 0.01
