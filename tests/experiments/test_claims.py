"""The claims of the README, trained in full: an hour on two cores. Stages that `runs/` holds are not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]
RUNS = Path(__file__).parents[2] / "runs"


def rows_of(name):
    """(target, method) -> row of the experiment ``name``, run as `make test-slow`'s user would run it."""
    assert run.main([name, "--out", str(RUNS / name)]) == 0
    rows = json.loads((RUNS / name / "results.json").read_text())["rows"]
    assert all(row["seeds"] == 5 for row in rows)
    return {(row["target"], row["method"]): row for row in rows}


def test_changed_mechanics():
    rows = rows_of("mechanics")
    for target in ("Gather(slip=0.3)", "Gather(invert=True)"):
        assert rows[target, "frozen"]["transfer_ratio"]["low"] > 2
        assert rows[target, "finetune"]["verdict"] == "positive"
        assert rows[target, "random_frozen"]["verdict"] != "positive"
    assert rows["Hunt", "frozen"]["verdict"] == "positive"
    mirrored = rows["Gather(invert=True)", "finetune(heads=by_name)"]
    assert mirrored["jumpstart"] < 0
    assert mirrored["verdict"] != "positive"


def test_a_larger_room():
    rows = rows_of("minigrid")
    target = "envpool/MiniGrid-DoorKey-8x8"
    carried = rows[target, "finetune(heads=by_name)"]
    assert carried["verdict"] == "positive"
    assert carried["steps_to_threshold"] <= 100_000
    assert carried["final"] > 0.9
    assert rows[target, "random_frozen"]["verdict"] != "positive"
