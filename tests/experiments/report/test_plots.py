"""Pictures say what the numbers say."""

from __future__ import annotations

import numpy as np
from matplotlib import image

from graft.envs.core.task import Task
from graft.experiments.plan.stage import Comparison
from graft.experiments.report import plots, transfer
from graft.experiments.report.transfer import TransferResult
from graft.transfer.method import METHODS
from graft.transfer.metrics import Curve

NAMES = ("Dodge", "Gather")
RATIOS = {
    ("Dodge", "Dodge"): {"iqm": 1.25, "low": -0.5, "high": 20.0},
    ("Dodge", "Gather"): {"iqm": None, "low": 2.0, "high": None},
    ("Gather", "Dodge"): {"iqm": None, "low": None, "high": None},
    ("Gather", "Gather"): {"iqm": -4.0, "low": -5.0, "high": -3.0},
}


def rows():
    found = [{"source": s, "target": t, "method": "finetune", "transfer_ratio": r} for (s, t), r in RATIOS.items()]
    scratch = [{"source": None, "target": t, "method": "scratch", "transfer_ratio": None} for t in NAMES]
    return scratch + found[::-1]


def test_the_heat_map_of_pairs_holds_ratios_and_intervals(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    plots.pairs(rows(), tmp_path / "pairs.png", "a title")
    axis = figures[0].axes[0]
    sources = [label.get_text() for label in axis.get_yticklabels()]
    targets = [label.get_text() for label in axis.get_xticklabels()]
    assert sources == targets == ["Gather", "Dodge"]  # the diagonal is a task to itself
    texts = {(sources[int(t.get_position()[1])], targets[int(t.get_position()[0])]): t.get_text() for t in axis.texts}
    assert texts == {
        ("Dodge", "Dodge"): "+1.2\n[-0.5, +20]",
        ("Dodge", "Gather"): "> +2.0",
        ("Gather", "Dodge"): "undefined",
        ("Gather", "Gather"): "-4.0\n[-5.0, -3.0]",
    }
    colours = np.ma.filled(axis.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(colours, [[-4.0, np.nan], [2.0, 1.25]])


def test_it_is_written(tmp_path):
    plots.pairs(rows(), tmp_path / "pairs.png", "a title")
    assert image.imread(tmp_path / "pairs.png")[..., :3].std() > 0.05, "an empty page has no contrast"


def test_profiles_hold_the_share_of_runs_above_each_level(tmp_path, monkeypatch):
    rows = [
        {"source": "A", "target": "B", "method": "finetune", "areas": [0.2, 0.6], "finals": [0.5, 0.9]},
        {"source": "A", "target": "C", "method": "finetune", "areas": [0.2, 0.2], "finals": [0.5, 1.5]},
        {"source": None, "target": "B", "method": "scratch", "areas": [-0.5, 0.1], "finals": [0.0, 0.3]},
    ]
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    plots.profiles(plots.row_scores(rows), tmp_path / "profiles.png", "a title")
    areas, finals = figures[0].axes
    assert (areas.get_xlabel(), finals.get_xlabel()) == ("mean score over training", "final score")
    lines = {line.get_label(): line.get_xydata() for line in areas.get_lines()}
    assert list(lines) == ["finetune", "scratch"]
    levels, shares = lines["finetune"].T
    assert (levels[0], levels[-1]) == (-0.5, 1.0)
    np.testing.assert_allclose(shares, [(level < 0.2) * 0.75 + (level < 0.6) * 0.25 for level in levels])
    assert finals.get_lines()[0].get_xdata()[-1] == 1.5
    assert len(areas.collections) == 2, "a band for each line"


def test_a_scale_of_ones_own_is_called_so_on_every_axis(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    curves = tuple(Curve((0, 100), (0.1, level)) for level in (0.5, 0.6))
    for estimated in (True, False):
        compared = Comparison("A", Task("B-v0"), METHODS["finetune"](), (0, 1), ("a", "b"), ("c", "d"))
        found = [TransferResult(compared, curves, curves, 0, estimated=estimated)]
        rows = transfer.rows(found, 0.5)
        plots.learning_curves(found, tmp_path, "a title")
        plots.areas(rows, tmp_path, "a title")
        plots.profiles(plots.row_scores(rows), tmp_path, "a title")
        said = [" ".join([axis.get_xlabel(), axis.get_ylabel()]) for figure in figures for axis in figure.axes]
        named = ["best of this experiment" in text.replace("\n", " ") for text in said]
        assert named == [estimated] * 4, said
        figures.clear()


def test_pairs_of_one_seed_have_no_ratio(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    plots.pairs([{**row, "transfer_ratio": None} for row in rows()], tmp_path / "pairs.png", "a title")
    assert {text.get_text() for text in figures[0].axes[0].texts} == {"-"}
