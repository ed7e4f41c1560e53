"""Blocks of a sequence's runs, their table, and logs that l2metrics reads."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime

import numpy as np
import pytest
from rich.console import Console

from graft.experiments.report import lifelong
from graft.experiments.report.continual import ContinualResult
from graft.transfer.lifelong import Block
from graft.transfer.method import METHODS
from graft.transfer.metrics import Curve

NAN = float("nan")
TASKS = ["Gather", "Gather(invert=True)", "Hunt"]
R = [[0.8, NAN, NAN], [0.6, 0.7, NAN], [0.2, 0.6, 0.9]]


def lived(method, seeds=2):
    curves = tuple(Curve((0, 100, 200), scores) for scores in ((0.1, 0.4, 0.8), (0.2, 0.5, 0.7), (0.4, 0.6, 0.9)))
    return ContinualResult(METHODS[method](), np.array([R] * seeds), (curves,) * seeds, (), 0)


def test_a_run_is_told_in_order():
    assert lifelong.blocks(lived("ewc"), 0, TASKS, [0.1, 0.05, 0.2]) == [
        Block("test", "Gather", [0.1]),
        Block("test", "Gather(invert=True)", [0.05]),
        Block("test", "Hunt", [0.2]),
        Block("train", "Gather", (0.4, 0.8)),
        Block("test", "Gather", [0.8]),
        Block("test", "Gather(invert=True)", [0.2]),  # before its training
        Block("train", "Gather(invert=True)", (0.5, 0.7)),
        Block("test", "Gather", [0.6]),
        Block("test", "Gather(invert=True)", [0.7]),
        Block("test", "Hunt", [0.4]),
        Block("train", "Hunt", (0.6, 0.9)),
        Block("test", "Gather", [0.2]),
        Block("test", "Gather(invert=True)", [0.6]),
        Block("test", "Hunt", [0.9]),
    ]


def test_the_suite_by_hand():
    found = lifelong.metrics_of(lived("ewc"), lived("scratch"), TASKS)
    # Gather: 0.6 and 0.2 against 0.8; inverted: 0.6 against 0.7.
    assert found["performance_maintenance"] == pytest.approx([(-0.4 - 0.1) / 2] * 2)
    # Untrained 0.2 and 0.4; before their training 0.2 and 0.4: nothing was gained.
    assert found["forward_transfer_ratio"] == pytest.approx([1.0] * 2)
    assert found["backward_transfer_ratio"] == pytest.approx([(0.6 / 0.8 + 0.2 / 0.6 + 0.6 / 0.7) / 3] * 2)
    assert found["relative_performance"] == pytest.approx([1.0] * 2)
    assert found["sample_efficiency"] == pytest.approx([1.0] * 2)
    alone = lifelong.metrics_of(lived("ewc"), None, TASKS)
    assert alone["relative_performance"] == alone["forward_transfer_ratio"] == [None, None]


def test_the_table_fits_eighty_columns():
    scratch = lived("scratch")
    rows = [{"method": name, "lifelong": lifelong.metrics_of(lived(name), scratch, TASKS)} for name in METHODS]
    page = io.StringIO()
    Console(file=page, width=80).print(lifelong.table(rows))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert ["ewc", "-0.25", "1.00", "0.65", "1.00", "1.00"] in [line.split() for line in lines]


def test_logs_hold_the_blocks_in_order(tmp_path):
    lifelong.write_logs([lived("scratch", 1), lived("ewc", 1)], TASKS, tmp_path)
    folders = {path.name for path in tmp_path.iterdir()}
    assert folders == {"method0-run0", "method1-run0", "ste-task0-run0", "ste-task1-run0", "ste-task2-run0"}
    assert json.loads((tmp_path / "method1-run0" / "logger_info.json").read_text())["metrics_columns"] == ["score"]
    assert json.loads((tmp_path / "method1-run0" / "scenario_info.json").read_text())["method"] == "ewc"
    logs = sorted((tmp_path / "method1-run0").rglob("data-log.tsv"))
    assert [log.parent.name for log in logs] == [
        f"{i}-{kind}" for i, kind in enumerate(("test", "train") * 3 + ("test",))
    ]
    rows = [row for log in logs for row in csv.DictReader(log.read_text().splitlines(), delimiter="\t")]
    assert [int(row["exp_num"]) for row in rows] == list(range(17))
    times = [datetime.strptime(row["timestamp"], "%Y%m%dT%H%M%S.%f") for row in rows]
    assert times == sorted(set(times))
    assert [float(row["score"]) for row in rows[3:7]] == [0.4, 0.8, 0.8, 0.2]
    assert [row["task_name"] for row in rows[:3]] == ["task0_1", "task1_1", "task2_1"]
    assert json.loads(rows[1]["task_params"]) == {"task": "Gather(invert=True)"}
