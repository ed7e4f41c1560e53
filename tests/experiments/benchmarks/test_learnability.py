"""Trainings of many games: results are kept as they come, also where one of them fails."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from graft.errors import GraftError
from graft.experiments.benchmarks import learnability
from graft.experiments.benchmarks.learnability import Job

JOBS = [Job("Graft/Gather-v0", seed, 10, 0.7) for seed in range(3)]


def test_a_training_that_fails_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def learn(job: Job) -> dict[str, Any]:
        tried.append(job.seed)
        if job.seed == 0 and len(tried) <= len(JOBS):
            raise ValueError("diverged")
        return {"curve": [[0, 0.1], [10, 0.8]], "reached": 10, "seconds": 1}

    monkeypatch.setattr(learnability, "learn", learn)
    monkeypatch.setattr(learnability, "ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(workers))
    screen, path = io.StringIO(), tmp_path / "learnability.json"
    with pytest.raises(ValueError, match="diverged"):
        learnability.learn_all(JOBS, path, 1, Console(file=screen, width=200))
    assert "Graft/Gather-v0 seed 0 failed: ValueError: diverged" in screen.getvalue()
    assert set(json.loads(path.read_text())) == {JOBS[1].name, JOBS[2].name}
    found = learnability.learn_all(JOBS, path, 1, Console(file=screen, width=200))
    assert tried == [0, 1, 2, 0]
    assert list(found) == [job.name for job in JOBS]


def test_a_damaged_file_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "learnability.json"
    path.write_text('{"Graft/Gather-v0 se')
    with pytest.raises(GraftError, match="is not JSON"):
        learnability.learn_all(JOBS, path, 1, Console(file=io.StringIO()))
    assert path.read_text() == '{"Graft/Gather-v0 se'
