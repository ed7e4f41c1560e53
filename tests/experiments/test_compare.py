"""Two runs side by side."""

from __future__ import annotations

import json

import pytest

from graft.experiments.compare import main
from graft.experiments.report.comparison import Pair, pairs


def interval(low, high):
    return {"iqm": None if low is None or high is None else (low + high) / 2, "low": low, "high": high}


def row(method, ratio, auc=(0.1, 0.2), target="B", source="A"):
    found = None if ratio is None else interval(*ratio)
    return {"source": source, "target": target, "method": method, "transfer_ratio": found, "auc": interval(*auc)}


@pytest.fixture
def runs(tmp_path):
    """Writes two runs with these rows; returns their folders."""

    def write(*rows):
        for name, its in zip(("one", "other"), rows, strict=True):
            (tmp_path / name).mkdir()
            (tmp_path / name / "results.json").write_text(json.dumps({"rows": its}))
        return [str(tmp_path / name) for name in ("one", "other")]

    return write


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((0.1, 0.3), (0.2, 0.4), True),
        ((0.1, 0.3), (0.3, 0.4), True),
        ((0.1, 0.3), (0.31, 0.4), False),
        ((0.5, 0.6), (-0.2, 0.4), False),
        ((2.0, None), (3.0, 4.0), True),
        ((5.0, None), (3.0, 4.0), False),
        ((None, None), (3.0, 4.0), None),
        (None, (3.0, 4.0), None),
    ],
)
def test_whether_intervals_overlap(one, other, same):
    assert Pair(row("frozen", one), row("frozen", other)).agree("transfer_ratio") is same
    assert Pair(row("frozen", other), row("frozen", one)).agree("transfer_ratio") is same


def test_rows_are_matched_by_source_target_and_method(runs, capsys):
    first = [row("scratch", None, source=None), row("frozen", (1.0, 2.0)), row("ewc", (1.0, 2.0)), row("lora", (0, 1))]
    second = [row("ewc", (3.0, 4.0)), row("frozen", (1.5, 2.5)), row("scratch", None, (0.3, 0.4), source=None)]
    assert main([*runs(first, second), "--names", "sb3", "rllib", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| target | method | ratio, sb3 | ratio, rllib | overlap | AUC, sb3 | AUC, rllib | overlap |"
    assert [[cell.strip() for cell in line.split("|")][2:6] for line in lines[2:5]] == [
        ["scratch", "-", "-", "-"],
        ["frozen", "+1.5 [+1.0, +2.0]", "+2.0 [+1.5, +2.5]", "yes"],
        ["ewc", "+1.5 [+1.0, +2.0]", "+3.5 [+3.0, +4.0]", "no"],
    ]
    assert lines[-2] == "Transfer ratios: intervals overlap in 1 of 2; apart: ewc on B."
    assert lines[-1] == "Areas under the curves: intervals overlap in 2 of 3; apart: scratch on B."


def test_profiles_of_both_are_drawn(runs, tmp_path, capsys):
    seeds = {"areas": [0.1, 0.2], "finals": [0.3, 0.4]}
    one, other = runs([row("frozen", (1, 2)) | seeds], [row("frozen", (1, 2)) | seeds])
    assert main([one, other, "--profiles", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").stat().st_size > 10_000
    (tmp_path / "one" / "results.json").write_text(json.dumps({"rows": [row("frozen", (1, 2))]}))
    assert main([one, other, "--profiles", str(tmp_path / "q.png")]) == 2
    assert "no scores of each seed" in capsys.readouterr().err


def test_what_cannot_be_compared_is_said(runs, tmp_path, capsys):
    one, other = runs([row("frozen", (1, 2))], [row("frozen", (1, 2), target="C")])
    assert main([one, other]) == 2
    assert "in common: B in one, C in the other" in capsys.readouterr().err
    assert main([one, str(tmp_path / "nothing")]) == 2
    assert "has no results of a transfer experiment" in capsys.readouterr().err
    assert pairs({("A", "B", "m"): {}}, {("A", "B", "m"): {}})


def test_what_only_one_has_and_what_does_not_compare_is_said(tmp_path, capsys):
    steps = {"pretrain": 100, "transfer": 50, "consolidation": 0}
    one = [row("frozen", (1, 2)) | {"env_steps": steps}, row("ewc", (1, 2)), row("lora", (1, 2), target="C")]
    other = [row("frozen", (1, 2)) | {"env_steps": steps | {"transfer": 2000}}, row("ewc", (1, 2)), row("l2", (1, 2))]
    for name, rows, expert in (("one", one, 5.0), ("other", other, 6.5)):
        (tmp_path / name).mkdir()
        bounds = {"B": {"random": 0.0, "expert": expert, "how": "x"}, "C": {"random": 0.0, "expert": 1.0, "how": "x"}}
        data = {"version": 2, "rows": rows, "bounds": bounds}
        (tmp_path / name / "results.json").write_text(json.dumps(data))
    assert main([str(tmp_path / "one"), str(tmp_path / "other"), "--markdown"]) == 0
    assert capsys.readouterr().out.splitlines()[5:-2] == [
        "Only in one: lora on C.",
        "Only in other: l2 on B.",
        "WARNING: scores on B are on different scales (0 to 5 in one and 0 to 6.5 in other): they do not compare.",
        "WARNING: budgets differ, 50 env steps of transfer in one, 2,000 in other: frozen on B.",
    ]


def test_results_of_a_newer_graft_are_refused(runs, tmp_path, capsys):
    one, other = runs([row("frozen", (1, 2))], [row("frozen", (1, 2))])
    (tmp_path / "other" / "results.json").write_text(json.dumps({"version": 99, "rows": []}))
    assert main([one, other]) == 2
    assert "version 99, which a newer Graft wrote" in capsys.readouterr().err
