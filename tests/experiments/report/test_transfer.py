"""Rows, notes and tables from curves whose metrics are known by hand."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from graft.envs.core.task import AVERAGED, Bounds, Task
from graft.experiments.plan.stage import Comparison
from graft.experiments.report import transfer as report
from graft.experiments.report.common import in_lines
from graft.experiments.report.transfer import TransferResult
from graft.transfer.method import METHODS
from graft.transfer.metrics import Curve

TARGET = Task("Graft/Gather-v0", {"slip": 0.3})


def measured(method, curves, scratch, source="Gather"):
    stages = ("base",) if method == "scratch" else ("other",)
    comparison = Comparison(source, TARGET, METHODS[method](), tuple(range(len(curves))), stages, ("base",), ("p",))
    return TransferResult(comparison, tuple(curves), tuple(scratch), 0)


def judged(found):
    """The row of a method that is alone on its target."""
    return report.rows([found], 0.5)[0]


def flat(level, seeds=5):
    """Seeds whose score stays at ``level``, with a spread of a thousandth."""
    return [Curve((0, 100, 200), (level + s / 1000,) * 3) for s in range(seeds)]


def test_a_row_holds_the_metrics():
    rising = [Curve((0, 100, 200), (0.3, 0.5, 0.7)) for _ in range(5)]
    base = [Curve((0, 100, 200), (0.0, 0.1, 0.2)) for _ in range(5)]
    (row,) = report.rows([measured("frozen", rising, base)], threshold=0.25)
    assert row["auc"]["iqm"] == pytest.approx(0.5)
    assert row["transfer_ratio"] == pytest.approx({"iqm": 4.0, "low": 4.0, "high": 4.0})
    assert row["jumpstart"] == pytest.approx(0.3)
    assert row["final"] == pytest.approx(0.7)
    assert row["asymptotic_gain"] == pytest.approx(0.5)
    assert row["steps_to_threshold"] == 0
    assert row["probability_of_improvement"] == 1.0
    assert row["verdict"] == "positive"
    assert row["starts"] == "positive"


@pytest.mark.parametrize(("level", "verdict"), [(0.1, "negative"), (0.5, "unclear"), (0.9, "positive")])
def test_verdicts_follow_the_interval(level, verdict):
    assert judged(measured("finetune", flat(level), flat(0.5)))["verdict"] == verdict


def test_scratch_is_its_own_baseline():
    row = judged(measured("scratch", flat(0.5), flat(0.5), source=None))
    assert (row["transfer_ratio"], row["verdict"], row["jumpstart"]) == (None, "baseline", 0.0)


def test_an_undefined_ratio_has_a_lower_bound():
    # 0.5 / (0.01 + t(4) * error) - 1, where the error of scratch is 0.0009.
    row = report.row(measured("frozen", [Curve((0, 100, 200), (0.5,) * 3)] * 5, flat(0.0)), 0.5)
    assert row["transfer_ratio"] == {"iqm": None, "low": pytest.approx(39, abs=1), "high": None}
    assert "> +39" in report._cells(row)
    row = report.row(measured("frozen", flat(-0.5), flat(0.0)), 0.5)
    assert row["transfer_ratio"] == {"iqm": None, "low": None, "high": None}
    assert "undefined" in report._cells(row)


def test_alarms_come_before_the_cost():
    rows = report.rows(
        [measured("scratch", flat(0.005), flat(0.005)), measured("finetune", flat(-0.4), flat(0.005))], 0.5
    )
    stages = [
        {"kind": "pretrain", "env_steps": 7, "seconds": 60.0},
        {"kind": "transfer", "env_steps": 9, "seconds": 60.0},
    ]
    notes = report.notes({"rows": rows, "stages": stages, "bounds": {}, "threshold": 0.5})
    assert any(line.startswith("NEGATIVE: finetune on Gather(slip=0.3)") for line in notes)
    assert any("the ratio is undefined" in line for line in notes), "scratch's mean score is below 0.01"
    assert "7 env steps of pretraining, 9 of transfer, 2.0 minutes of training" in notes[-1]


def test_scales_that_are_means_are_pointed_out():
    bounds = {"Mixture(tasks=[a, b])": Bounds(0.0, 1.0, AVERAGED)._asdict()}
    notes = report.notes({"rows": [], "stages": [], "bounds": bounds, "threshold": 0.5})
    assert any("Mixture(tasks=[a, b]) are on the mean of their tasks' scales" in line for line in notes)
    assert not any("Changed tasks" in line for line in notes)


def notes_of(rows):
    return report.notes({"rows": rows, "stages": [], "bounds": {}, "threshold": 0.5})


@pytest.mark.parametrize(("seeds", "lacking"), [(1, 3), (3, 1), (4, 0)])
def test_few_seeds_are_pointed_out(seeds, lacking):
    row = judged(measured("finetune", flat(0.5, seeds), flat(0.2, seeds)))
    notes = notes_of([row])
    assert any(f"Only {seeds} seed" in line for line in notes)
    where = "finetune on Gather(slip=0.3)"
    assert any(line.endswith(f"{where} lacks {lacking}.") for line in notes) is (lacking > 0)
    verdict = {1: None, 3: "unclear", 4: "positive"}[seeds]
    assert (row["verdict"], row["p_value"] is None) == (verdict, lacking > 0)


def test_a_single_seed_has_no_interval_ratio_or_verdict():
    row = judged(measured("finetune", flat(0.5, 1), flat(0.2, 1)))
    assert row["auc"] == {"iqm": pytest.approx(0.5), "low": None, "high": None}
    assert [row[name] for name in ("transfer_ratio", "data_efficiency", "probability_of_improvement")] == [None] * 3
    assert row["verdict"] is row["verdict_alone"] is row["starts"] is None
    cells = report._cells(row)
    assert (cells[0], cells[-1]) == ("-", "-")
    one_of_scratch = judged(measured("finetune", flat(0.5, 5), flat(0.2, 1)))
    assert one_of_scratch["transfer_ratio"] is one_of_scratch["verdict"] is None


def test_verdicts_allow_for_the_methods_on_their_target():
    wide = [Curve((0, 100, 200), (level,) * 3) for level in (0.52, 0.58, 0.6, 0.62, 0.68)]
    base = [Curve((0, 100, 200), (level,) * 3) for level in (0.42, 0.48, 0.5, 0.52, 0.58)]
    names = [name for name in METHODS if name not in ("scratch", "chain", "finetune")][:10]  # p times 11 is below 1
    others = [measured(name, base, base) for name in names]
    rows = report.rows([measured("scratch", base, base), measured("finetune", wide, base), *others], 0.5)
    row = rows[1]
    assert (row["verdict"], row["verdict_alone"]) == ("unclear", "positive")
    assert row["p_corrected"] == pytest.approx((1 + len(names)) * row["p_value"])
    assert row["gain"]["low"] > 0
    assert report._cells(row)[-1] == "[yellow]unclear+[/]"
    assert any(line.startswith("unclear+, unclear-") for line in notes_of(rows))
    assert judged(measured("finetune", wide, base))["verdict"] == "positive"


def test_seeds_in_two_groups_are_marked():
    split = [Curve((0, 100, 200), (level,) * 3) for level in (0.0, 0.02, 0.8, 0.85, 0.9)]
    row = judged(measured("finetune", split, flat(0.1)))
    assert row["bimodal"]
    assert row["areas"] == pytest.approx([0.0, 0.02, 0.8, 0.85, 0.9])
    assert "0.557*" in report._cells(row)
    assert any("two groups" in line for line in notes_of([row]))
    assert not any("two groups" in line for line in notes_of([judged(measured("finetune", flat(0.5), flat(0.1)))]))


def test_tables_fit_eighty_columns():
    rows = report.rows([measured(name, flat(0.5), flat(0.2)) for name in METHODS], 0.5)
    page = io.StringIO()
    console = Console(file=page, width=80)
    for table in report.tables(rows):
        console.print(table)
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("positive" in line for line in lines) == len(rows) - 1
    assert any("Gather → Gather(slip=0.3)" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("finetune(heads=by_name)", "finetune\n(heads=by_name)"),
        ("ewc(heads=by_name, strength=100)", "ewc\n(heads=by_name,\nstrength=100)"),
        ("progress_compress", "progress_compress"),
        ("finetune(depth=1)", "finetune(depth=1)"),
        ("ewc(heads=by_name) from Gather", "ewc\n(heads=by_name)\nfrom Gather"),
        ("a_method_of_ones_own", "a_method_of_ones_\nown"),
        ("packnet(retraining_of_the_rest=1)", "packnet\n(retraining_of_\nthe_rest=1)"),
        ("encoder.blocks.0.0.weight", "encoder.blocks.0.\n0.weight"),
    ],
)
def test_names_are_broken_where_a_reader_would(name, lines):
    assert in_lines(name, 17) == lines
    assert "".join(in_lines(name, 17).split()) == "".join(name.split())


def page_of(tables, width):
    page = io.StringIO()
    for table in tables:
        Console(file=page, width=width).print(table)
    return page.getvalue()


def test_no_name_is_broken_in_a_word():
    rows = report.rows([measured(name, flat(-0.55), flat(2.0)) for name in METHODS], 0.5)
    words = set(page_of(report.tables(rows), 80).split())
    for row in rows:
        assert row["method"] in words or {*re.findall(r"[^_(,]+_?|[(][^,]*", row["method"])} <= words


def test_a_wide_page_has_names_in_one_line_and_the_jump_as_well():
    long = METHODS["ewc"](heads="by_name", strength=1.5)
    found = measured("ewc", flat(0.5), flat(0.2))
    rows = report.rows([replace(found, comparison=replace(found.comparison, method=long))], 0.5)
    wide, narrow = (page_of(report.tables(rows, width), width) for width in (160, 80))
    assert "ewc(heads=by_name, strength=1.5)" in wide
    assert "jump" in wide
    assert "+0.30" in wide
    assert "jump" not in narrow
    assert "zero-" in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_zero_shot_is_a_score():
    row = judged(measured("frozen", [Curve((0, 100, 200), (0.3, 0.5, 0.7))] * 5, flat(0.2)))
    assert row["zero_shot"] == pytest.approx({"iqm": 0.3, "low": 0.3, "high": 0.3})
    assert report._cells(row)[2] == "0.30"


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({"kept": (0.42,) * 5, "kept_of": (0.55,) * 5}, "0.42 of 0.55"),
        ({"kept": (0.42,) * 5}, "0.42"),
        ({"not_kept": "other inputs"}, "other inputs"),
        ({}, "-"),
    ],
)
def test_kept_is_of_what_was_there_or_a_reason(changes, cell):
    row = judged(replace(measured("frozen", flat(0.5), flat(0.2)), **changes))
    assert report._cells(row)[-2] == cell
    said = [line for line in notes_of([row]) if line.startswith("kept, ")]
    assert len(said) == ("not_kept" in changes)
    assert all("the target lacks something that the source shows" in line for line in said)


def test_no_alarm_over_a_control():
    rows = report.rows([measured("random_frozen", flat(-0.4), flat(0.5), source=None)], 0.5)
    assert rows[0]["verdict"] == "negative"
    assert not any(line.startswith("NEGATIVE") for line in notes_of(rows))
    assert report._cells(rows[0])[-1] == "[dim]negative[/]"


@pytest.mark.parametrize(("count", "warned"), [(2, True), (4, True), (5, False)])
def test_few_evaluations_come_with_a_warning(count, warned):
    curves = [Curve(tuple(range(0, 100 * count, 100)), (0.5,) * count)] * 5
    notes = notes_of([judged(measured("finetune", curves, curves))])
    assert any(line.startswith(f"WARNING: only {count} evaluations") for line in notes) is warned
