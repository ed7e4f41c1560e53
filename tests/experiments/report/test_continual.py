"""A sequence's numbers from matrices and curves that are known by hand, its table, notes and heat map."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from graft.experiments.report import continual, plots
from graft.experiments.report.continual import ContinualResult
from graft.transfer.method import METHODS, label
from graft.transfer.metrics import Curve, average_performance
from graft.transfer.statistics import iqm_estimate

NAN = float("nan")
TASKS = ["Gather", "Gather(invert=True)", "Hunt"]
SIZE = {"parameters": 1000, "bytes_beside": 500}
R = [[0.8, NAN, NAN], [0.6, 0.7, NAN], [0.2, 0.6, 0.9]]


def lived(method, matrices, scores, missing=0):
    """A method whose curves stay at ``scores``, one per task, in every seed."""
    curves = tuple(tuple(Curve((0, 100, 200), (score,) * 3) for score in scores) for _ in matrices)
    return ContinualResult(METHODS[method](), np.array(matrices), curves, (SIZE,) * len(matrices), missing)


def scratch_of(scores, seeds=1):
    """Scratch with a network per task, whose score never changes once the task was learned."""
    matrix = [[scores[j] if j <= k else NAN for j in range(len(scores))] for k in range(len(scores))]
    return lived("scratch", [matrix] * seeds, scores)


def report(*rows, task_known=True, heads="per_task", how="known"):
    bounds = [{"random": 0.0, "expert": 1.0, "how": how}] * len(TASKS)
    return {
        "sequence": TASKS,
        "heads": heads,
        "task_known": task_known,
        "bounds": bounds,
        "rows": list(rows),
        "stages": [{"kind": kind, "env_steps": 7, "seconds": 60.0} for kind in ("pretrain", "transfer", "consolidate")],
    }


def page_of(table):
    page = io.StringIO()
    Console(file=page, width=80).print(table)
    return page.getvalue().splitlines()


def test_a_row_holds_the_metrics_of_the_matrix():
    row = continual.row(lived("finetune", [R], (0.8, 0.5, 0.6)), scratch_of((0.8, 0.4, 0.5)))
    assert row["average_performance"]["iqm"] == pytest.approx((0.2 + 0.6 + 0.9) / 3)
    assert row["forgetting"]["iqm"] == pytest.approx(((0.8 - 0.2) + (0.7 - 0.6)) / 2)
    assert row["backward_transfer"]["iqm"] == pytest.approx(-0.35)
    assert row["learned"]["iqm"] == pytest.approx((0.7 + 0.9) / 2)
    assert row["forward_transfer"]["iqm"] == pytest.approx(((0.5 - 0.4) / 0.6 + (0.6 - 0.5) / 0.5) / 2)
    assert row["intransigence"]["iqm"] == pytest.approx(((0.4 - 0.7) + (0.5 - 0.9)) / 2)
    assert row["matrix"] == [[0.8, None, None], [0.6, 0.7, None], [0.2, 0.6, 0.9]]
    assert (row["seeds"], row["missing_seeds"], row["network_per_task"]) == (1, 0, False)
    assert (row["parameters"], row["bytes_beside"]) == (1000, 500)


def test_metrics_are_of_each_seed_and_the_matrix_is_their_mean():
    worse = [[0.8, NAN, NAN], [0.6, 0.5, NAN], [0.0, 0.1, 0.5]]
    row = continual.row(lived("finetune", [R, worse], (0.8, 0.5, 0.6), missing=1), None)
    assert row["average_performance"]["iqm"] == pytest.approx((1.7 / 3 + 0.6 / 3) / 2)
    half = 12.71 * (1.7 / 3 - 0.2) / 2  # t(1) * standard error of two seeds
    assert row["average_performance"]["low"] == pytest.approx((1.7 / 3 + 0.2) / 2 - half, rel=0.05)
    assert row["matrix"][2] == [0.1, 0.35, 0.7]
    assert row["matrices"][1][2] == [0.0, 0.1, 0.5]
    assert row["missing_seeds"] == 1
    assert row["forward_transfer"] is row["intransigence"] is None, "there is no scratch to compare with"


def test_scratch_neither_forgets_nor_gains():
    scratch = scratch_of((0.8, 0.4, 0.5))
    row = continual.row(scratch, scratch)
    for metric in ("forgetting", "forward_transfer", "intransigence"):
        assert row[metric]["iqm"] == pytest.approx(0)
    assert row["network_per_task"]


def test_forward_transfer_leaves_out_tasks_that_scratch_masters():
    own = lived("finetune", [R], (0.8, 0.5, 0.6))
    assert continual.forward_transfer(own, scratch_of((0.0, 1.0, 0.5))).value == pytest.approx(0.2)
    assert continual.forward_transfer(own, scratch_of((0.0, 1.0, 1.0))) is None


def test_scratch_is_the_mean_of_its_seeds():
    low, high = scratch_of((0.8, 0.2, 0.3)), scratch_of((0.8, 0.6, 0.7))
    both = ContinualResult(
        low.method, np.concatenate([low.matrices, high.matrices]), low.curves + high.curves, (SIZE,) * 2, 0
    )
    own, mean = lived("finetune", [R], (0.8, 0.5, 0.6)), scratch_of((0.8, 0.4, 0.5))
    for metric in (continual.forward_transfer, continual.intransigence):
        assert metric(own, both).value == pytest.approx(metric(own, mean).value)


def test_the_error_of_scratch_counts():
    rng = np.random.default_rng(0)
    finals = rng.normal(0.5, 0.1, (5, 3))
    scratches = [scratch_of(line) for line in finals]
    scratch = ContinualResult(
        METHODS["scratch"](),
        np.concatenate([one.matrices for one in scratches]),
        tuple(curves for one in scratches for curves in one.curves),
        (SIZE,) * 5,
        0,
    )
    own = lived("finetune", [R] * 5, (0.8, 0.5, 0.6))  # without spread of its own
    found = continual.intransigence(own, scratch)
    assert found.variance == pytest.approx(finals[:, 1:].mean(axis=1).var(ddof=1) / 5, rel=0.05)
    assert found.freedom == 4
    assert continual.forward_transfer(own, scratch).variance > 0


def test_notes_compare_with_finetune_and_warn():
    scratch = scratch_of((0.8, 0.4, 0.5))
    half = [[0.8, NAN, NAN], [0.6, 0.7, NAN], [0.5, 0.65, 0.9]]
    reference = lived("finetune", [R, R], (0.8, 0.5, 0.6))
    rows = [
        continual.row(scratch, scratch, reference),
        continual.row(reference, scratch, reference),
        continual.row(lived("ewc", [half, half], (0.8, 0.5, 0.6), missing=2), scratch, reference),
    ]
    lines = continual.notes(report(*rows, how="estimated from this experiment"))
    assert "ewc: 50% [50%, 50%] of finetune's forgetting, performance +0.12 [+0.12, +0.12]." in lines
    assert not any(line.startswith(("finetune:", "scratch:")) for line in lines)
    alone = continual.row(lived("ewc", [half], (0.8, 0.5, 0.6)), scratch, lived("finetune", [R], (0.8, 0.5, 0.6)))
    assert alone["against_reference"]["forgetting"] is None, "one seed has no ratio"
    assert "ewc: 2 seeds missing." in lines
    assert any("no interval, ratio or verdict" in line for line in lines), "of scratch's one seed"
    assert any(line.startswith("Scores of Gather, Gather(invert=True), Hunt are scaled by estimates") for line in lines)
    assert "7 env steps of pretraining, 7 of transfer and 7 of consolidation, 3.0 minutes" in lines[-1]


def test_finetune_is_the_reference_under_shared_heads_as_well():
    half = [[0.8, NAN, NAN], [0.6, 0.7, NAN], [0.5, 0.65, 0.9]]
    both = [lived(name, [matrix] * 2, (0.8, 0.5, 0.6)) for name, matrix in (("finetune", R), ("ewc", half))]
    both = [replace(own, method=own.method.with_shared_heads()) for own in both]
    rows = [continual.row(own, None, both[0]) for own in both]
    lines = continual.notes(report(*rows, heads="shared"))
    said = "ewc(heads=shared): 50% [50%, 50%] of finetune(heads=shared)'s forgetting, performance +0.12 [+0.12, +0.12]."
    assert said in lines


def test_a_comparison_with_finetune_knows_the_error_of_both():
    rng = np.random.default_rng(0)
    tuned = lived("finetune", [np.array(R) + rng.normal(0, 0.02, (3, 3)) for _ in range(5)], (0.8, 0.5, 0.6))
    own = lived("ewc", [[[0.8, NAN, NAN], [0.6, 0.7, NAN], [0.5, 0.65, 0.9]]] * 5, (0.8, 0.5, 0.6))  # no spread
    found = continual.row(own, None, tuned)["against_reference"]
    base = iqm_estimate([average_performance(matrix) for matrix in tuned.matrices])
    assert found["performance"]["high"] - found["performance"]["iqm"] == pytest.approx(
        base.interval().high - base.value
    )
    assert found["forgetting"]["low"] < 0.5 < found["forgetting"]["high"]
    (line,) = [
        line
        for line in continual.notes(report(continual.row(tuned, None), continual.row(own, None, tuned)))
        if "ewc:" in line
    ]
    share, gain = r"53% \[\d\d%, \d\d%\]", r"\+0.11 \[\+0.1\d, \+0.1\d\]"
    assert re.fullmatch(rf"ewc: {share} of finetune's forgetting, performance {gain}\.", line)


@pytest.mark.parametrize(("known", "words"), [(True, "is told which task"), (False, "is not told which task")])
def test_notes_say_what_the_agent_knows(known, words):
    row = continual.row(lived("finetune", [R] * 5, (0.8, 0.5, 0.6)), None)
    lines = continual.notes(report(row, task_known=known, heads="shared"))
    assert "Heads are shared" in lines[0]
    assert words in lines[0]
    assert not any("intervals are wide" in line or "scaled by estimates" in line for line in lines)


def test_seeds_in_two_groups_are_pointed_out():
    split = lived("ewc", [np.array(R) * scale for scale in (0.0, 0.05, 0.9, 1.0, 1.1)], (0.8, 0.5, 0.6))
    rows = [continual.row(split, None), continual.row(lived("finetune", [R] * 5, (0.8, 0.5, 0.6)), None)]
    assert [row["bimodal"] for row in rows] == [True, False]
    assert any(line.startswith("ewc: the seeds fall into two groups") for line in continual.notes(report(*rows)))


def test_notes_of_nothing_finished_are_possible():
    assert continual.notes(report())[-1].startswith("Cost: ")


def test_the_table_fits_eighty_columns():
    scratch = scratch_of((0.8, 0.4, 0.5), seeds=5)
    negative = [[-0.8, NAN, NAN], [-0.6, -0.7, NAN], [-0.2, -0.6, -0.9]]
    rows = [continual.row(scratch, scratch)]
    longest = max((name for name in METHODS if name != "chain"), key=lambda name: len(label(METHODS[name]())))
    rows.append(continual.row(lived(longest, [R, negative, R], (-0.8, -0.5, -0.6)), scratch))
    lines = page_of(continual.table(report(*rows)))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for column in ("method", "performance", "forgetting", "learned", "forward", "size"):
        assert column in text
    assert "…" not in text, "nothing is cut off"


def test_the_table_shows_numbers_and_leaves_out_what_cannot_be():
    scratch = scratch_of((0.8, 0.4, 0.5))
    rows = [continual.row(scratch, scratch), continual.row(lived("finetune", [R, R], (0.8, 0.5, 0.6)), scratch)]
    lines = page_of(continual.table(report(*rows)))
    control, tuned = (next(line.split() for line in lines if line.split()[:1] == [n]) for n in ("scratch", "finetune"))
    assert control == ["scratch", "0.57", "-", "0.45", "0.00", "4k"]  # a single seed has no interval
    assert tuned == ["finetune", "0.57", "[0.57,", "0.57]", "0.35", "[0.35,", "0.35]", "0.80", "0.18", "4k"]


def test_the_heat_map_holds_the_matrix(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    measured = [lived(name, [R], (0.8, 0.5, 0.6)) for name in ("finetune", "ewc", "packnet", "l2", "mas")]
    plots.score_matrices(measured, TASKS, tmp_path / "matrix.png", "a title")
    shown = [axis for axis in figures[0].axes if axis.get_visible() and axis.texts]
    assert [axis.get_title() for axis in shown] == [label(m.method) for m in measured]
    for axis in shown:
        np.testing.assert_array_equal(np.ma.filled(axis.images[0].get_array(), NAN), R)
