"""A run's folder whose numbers are known, for tests of its page, and what a reader finds of them there."""

from __future__ import annotations

import json
import re

import pytest

from graft.envs.core.task import Bounds, Task
from graft.experiments.plan.stage import Comparison
from graft.experiments.report import transfer
from graft.experiments.report.results import RESULTS, VERSION
from graft.experiments.report.transfer import TransferResult
from graft.experiments.store.records import Store
from graft.transfer import METHODS

TARGET = Task("Graft/Gather-v0", {"slip": 0.3})
SCALE = Bounds(0.0, 10.0, "given")
HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>"
LEVELS = {"scratch": (0.0, 1.0, 2.0, 3.0), "finetune": (4.0, 6.0, 8.0, 9.0), "frozen": (0.0, 0.0, 0.0, 0.1)}
"""Mean returns of the methods' first seeds, at each evaluation."""


def numbers(attributes):
    """What a cell says of the number behind its text: one, or a mean and its interval."""
    return [float(attributes[name]) for name in ("data-value", "data-low", "data-high") if name in attributes]


def read(text):
    """The numbers that a reader sees."""
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", text)]


def write_stage(out, stage, label, returns, source=None, **logged):
    folder = out / "stages" / stage
    folder.mkdir(parents=True)
    lines = [{"env_steps": 1000 * k, "eval/return_mean": value, **logged} for k, value in enumerate(returns)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "stage.json").write_text(json.dumps({"status": "done", "label": label, "spec": {"source": source}}))
    record = {"id": stage, "kind": "transfer" if source is not None or "p" not in stage else "pretrain", "label": label}
    return record | {"status": "done", "env_steps": 3000, "seconds": 2.5, "error": None}


def write_run(out, seeds=5):
    """A folder as ``graft run`` leaves it: three methods on a target, of which one is good and one bad."""
    stages = [write_stage(out, "p0", "pretrain · Gather · seed 0", (0.0, 5.0, 5.0, 5.0))]
    store, measured, base = Store(out), [], ()
    for method, levels in LEVELS.items():
        ids = tuple(f"{method}{seed}" for seed in range(seeds))
        start, logged = (None, {}) if method == "scratch" else ("p0", {"transfer/cka": 0.25, "transfer/cka/block0": 1})
        for seed, stage in enumerate(ids):
            label = f"{method} · {TARGET} · seed {seed}"
            stages.append(write_stage(out, stage, label, [x + seed / 10 for x in levels], start, **logged))
        curves = tuple(store.evaluations(stage, SCALE) for stage in ids)
        base = base or curves
        own = None if method == "scratch" else HOSTILE
        comparison = Comparison(
            own, TARGET, METHODS[method](), tuple(range(seeds)), ids, tuple(f"scratch{s}" for s in range(seeds))
        )
        steps = {"pretrain": 0 if own is None else 5000, "consolidation": 0, "transfer": 3000}
        measured.append(
            TransferResult(comparison, curves, base, 0, (0.2,) * seeds, (0.5,) * seeds, "", steps, finished=ids)
        )
    tensors = [{"tensor": HOSTILE, "status": "padded", "share": 0.5, "detail": "new", "wanted": True}]
    report = {"rows": tensors, "lost": ["is_prey"], "summary": "1 padded"}
    (out / "stages" / "finetune0" / "transplant.json").write_text(json.dumps(report))
    data = {"version": VERSION, "name": "known", "threshold": 0.5, "bounds": {str(TARGET): SCALE._asdict()}}
    data |= {"rows": transfer.rows(measured, 0.5), "not_kept": {}, "stages": stages}
    RESULTS.validate_python(data)
    (out / "results.json").write_text(json.dumps(data))
    config = {"name": "known", "sources": [HOSTILE]}
    record = {"config": config, "versions": {"graft": "1"}, "invocations": [{"command": ["graft", "run", HOSTILE]}]}
    (out / "experiment.json").write_text(json.dumps(record))
    return data


def assert_numbers_are_those_of(data, page):
    """The page's tables have the results' numbers, as text and exactly."""
    shown = page.rows(str(TARGET), "Results")
    assert len(shown) == len(data["rows"]) == 3
    for row, cells in zip(data["rows"], shown, strict=True):
        assert cells[0][0] == row["method"] + {"scratch": " (control)", "finetune": " (best)"}.get(row["method"], "")
        assert cells[1][0] == row["verdict"]
        for key, (text, attributes) in zip(("auc", "transfer_ratio", "zero_shot"), cells[2:], strict=False):
            known_ones = [] if row[key] is None else [row[key][end] for end in ("iqm", "low", "high")]
            assert numbers(attributes) == known_ones, key
            assert read(text) == pytest.approx(known_ones, abs=0.051 if key == "transfer_ratio" else 0.0051), key
        assert numbers(cells[5][1]) == [row["jumpstart"]]
        assert read(cells[5][0]) == pytest.approx([row["jumpstart"]], abs=0.0051)
        assert numbers(cells[6][1]) == [row["final_interval"][end] for end in ("iqm", "low", "high")]
        assert read(cells[6][0]) == pytest.approx([row["final"]], abs=0.0051)
        assert numbers(cells[8][1])[0] == row["kept"]["iqm"]
        assert cells[8][0] == "0.20 of 0.50"
    compared = page.rows(str(TARGET), "Compared with scratch")
    for row, cells in zip(data["rows"][1:], compared, strict=True):
        assert numbers(cells[2][1]) == [row["gain"][end] for end in ("iqm", "low", "high")]
        assert read(cells[2][0]) == pytest.approx(numbers(cells[2][1]), abs=0.0051)
        assert read(cells[3][0]) == pytest.approx([100 * row["probability_of_improvement"]], abs=0.51)
        assert [numbers(cells[i][1]) for i in (3, 4, 5)] == [
            [row[key]] for key in ("probability_of_improvement", "p_value", "p_corrected")
        ]
