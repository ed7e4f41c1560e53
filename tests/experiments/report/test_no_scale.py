"""Where nothing was learned there is no scale: returns are shown as they are, in full."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from graft.envs.core.task import Bounds, Task
from graft.experiments.plan.stage import Comparison, Graph
from graft.experiments.report import common, comparison, plots
from graft.experiments.report import transfer as report
from graft.experiments.report.common import NO_SCRATCH, UNLEARNED, estimate_bounds, fixed, has_scale, score_table
from graft.transfer.method import METHODS
from graft.transfer.metrics import Curve
from tests.experiments.report.test_continual import page_of

TARGET = Task("MountainCar-v0")
NOTHING_KEPT = SimpleNamespace(recall=())


class Finished:
    """Stages with mean returns at three evaluations."""

    def __init__(self, **returns):
        self._returns = returns

    def done(self, stage):
        return stage in self._returns

    def record(self, stage):
        return {}

    def diverged(self, stage):
        return False

    def evaluations(self, stage, scale=None):
        returns = self._returns[stage]
        return Curve((0, 100, 200), [r if scale is None else scale.normalise(r) for r in returns])


def test_an_estimate_needs_a_run_above_every_untrained_network():
    store = Finished(a=(-200.0, -190.0, -100.0), b=(-190.0, -190.0, -190.0), c=(-150.0, -150.0, -189.0))
    assert estimate_bounds(store, ["a", "b", "c"], ["a", "b"])[:2] == (-195.0, -100.0)
    assert estimate_bounds(store, ["b", "c"], ["b"])[:2] == (-190.0, -189.0)
    between = Finished(a=(-200.0, -200.0, -200.0), b=(-190.0, -190.0, -192.0))  # above the mean of both at first
    assert not has_scale(estimate_bounds(between, ["a", "b"], ["a", "b"]).how)
    assert estimate_bounds(store, ["b"], ["b"]) == Bounds(0.0, 1.0, UNLEARNED)
    assert estimate_bounds(store, ["c"], ["c"]) == Bounds(0.0, 1.0, UNLEARNED), "it ends below its start"
    assert estimate_bounds(store, ["c"], ["missing"]) == Bounds(0.0, 1.0, NO_SCRATCH)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_returns_of_any_size_have_a_scale_and_rounding_has_none(size):
    learned, rounded = Finished(a=(size, size, 1.5 * size)), Finished(a=(size, size, size * (1 + 1e-9)))
    assert estimate_bounds(learned, ["a"], ["a"])[:2] == (size, 1.5 * size)
    assert not has_scale(estimate_bounds(rounded, ["a"], ["a"]).how)


def unlearned():
    """Scratch that never leaves -200 on four seeds, and a method that falls to -156,250 at once."""
    stages = {f"base{i}": (-200.0,) * 3 for i in range(4)} | {f"fall{i}": (-156250.0,) * 3 for i in range(4)}
    base, fall = (tuple(f"{kind}{i}" for i in range(4)) for kind in ("base", "fall"))
    compared = [
        Comparison(source, TARGET, METHODS[name](), (0, 1, 2, 3), own, base)
        for source, name, own in ((None, "scratch", base), ("Source", "finetune", fall))
    ]
    graph, store = Graph(stages=dict.fromkeys(stages, NOTHING_KEPT), comparisons=compared), Finished(**stages)
    scales = {TARGET: estimate_bounds(store, [*base, *fall], base)}
    measured = report.measure(graph, store, scales)
    rows = report.rows(measured, 0.5)
    data = {"rows": rows, "stages": [], "bounds": {str(TARGET): scales[TARGET]._asdict()}, "threshold": 0.5}
    return measured, json.loads(json.dumps(data, allow_nan=False))


def test_rows_hold_returns_and_no_number_that_needs_a_scale():
    _, data = unlearned()
    scratch, fell = data["rows"]
    assert (scratch["auc"]["iqm"], fell["auc"]["iqm"], fell["jumpstart"]) == (-200.0, -156250.0, -156050.0)
    assert not scratch["scored"]
    assert [fell[key] for key in ("transfer_ratio", "steps_to_threshold", "forward_transfer")] == [None] * 3
    assert (fell["verdict"], fell["gain"]["iqm"]) == ("negative", -156050.0)
    notes = report.notes(data)
    assert any("NOTHING LEARNED on MountainCar: no run ends above untrained scratch" in line for line in notes)
    assert not any("estimates from this experiment" in line for line in notes)


def test_the_table_shows_every_digit():
    _, data = unlearned()
    (table,) = report.tables(data["rows"])
    lines = page_of(table)
    (line,) = (line for line in lines if "finetune" in line)
    assert line.split() == ["finetune", "-", "-156250", "-156250", "-156250", "-", "-", "negative"]
    assert max(map(len, lines)) <= 80


def test_pictures_show_returns_and_no_profile(tmp_path, monkeypatch):
    measured, data = unlearned()
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    plots.learning_curves(measured, tmp_path / "curves.png", "a title")
    plots.areas(data["rows"], tmp_path / "areas.png", "a title")
    assert figures[0].axes[0].get_ylabel() == "mean return (nothing was learned)"
    assert figures[1].axes[0].get_xlabel() == "mean return over training"
    assert plots.row_scores(data["rows"]) == {}
    fell = data["rows"][1]
    assert comparison.Pair(fell, fell).agree("auc") is None


def test_columns_grow_for_digits_and_shrink_for_names():
    table = score_table("a title", {"method": 40, "AUC": 6, "final": 6})
    table.add_row("a name that goes on and on, and on", "-1562500000000", "9" * 30)
    page = io.StringIO()
    Console(file=page, width=70).print(table)
    assert "-1562500000000" in page.getvalue()
    assert "9" * 30 in page.getvalue()


def test_numbers_lose_decimals_before_digits():
    shown = [fixed(x, 3) for x in (0.1234, -0.0001, 9.9996, 12.3456, 123.456, 1234.5678, -156250.4)]
    assert shown == ["0.123", "0.000", "10.00", "12.35", "123.5", "1235", "-156250"]


def test_a_sequence_counts_such_a_task_as_zero():
    scale = estimate_bounds(Finished(a=(-200.0,) * 3), ["a"], ["a"], expert=float("inf"))
    assert (scale.normalise(-156250.0), scale.normalise(-200.0), has_scale(scale.how)) == (0.0, 0.0, False)
    assert common.has_scale("given in the config")


def test_a_target_without_scratch_has_no_table_and_a_sentence(tmp_path):
    store = Finished(mine=(0.0, 0.5, 1.0))
    store.out = tmp_path
    found = Comparison("Source", TARGET, METHODS["finetune"](), (0,), ("mine",), ("base",))
    graph = Graph(stages={"mine": NOTHING_KEPT}, comparisons=[found])
    assert report.measure(graph, store, {TARGET: Bounds(0.0, 1.0, "x")}) == []
    (line,) = report.uncompared(graph, store)
    assert line.startswith("No table of MountainCar: no run of scratch has finished there")
    both = Finished(mine=(0.0, 0.5, 1.0), base=(0.0, 0.5, 1.0))
    both.out = tmp_path
    assert report.uncompared(graph, both) == []
