"""Learning curves and performance profiles in a report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft.experiments.report import transfer
from graft.experiments.report.common import has_scale, is_estimated
from graft.experiments.report.page.cells import Section, is_control, named, rows_of, targets_of
from graft.experiments.report.page.charts import COLOURS, Chart, Series, Style, chart, series, style
from graft.experiments.report.plots import Panels, row_scores, score_axis, score_levels
from graft.experiments.report.run_folder import Row, RunFolder
from graft.transfer.metrics import Curve
from graft.transfer.statistics import Runs, performance_profile

PROFILE_LEVELS = 41

RETURN = "eval/return_mean"

LARGEST = 1e30
"""Mean returns beyond it are in no chart; nor is what is no number."""

DOTTED = 2  # of the style sheet's dashes
NOTHING = np.array([])


def curves(run: RunFolder) -> Section | None:
    """Learning curves, a chart for each target, or each task of a sequence."""
    charts, styles = list[Chart](), _styles(run, run.rows)
    if run.is_sequence:
        for j, (task, scale) in enumerate(zip(run.results["sequence"], run.results["bounds"], strict=True)):
            found = [(row["method"], run.task_curves(row, j), row["network_per_task"]) for row in run.rows]
            how = scale["how"]
            label = score_axis([is_estimated(how)]) if has_scale(how) else "score (0, as there is no scale)"
            charts += _curve_chart(f"{j + 1}. {task}", found, label, styles)
    else:
        for target in targets_of(run):
            rows = rows_of(run, target)
            scored = rows[0]["scored"] is not False
            label = score_axis(bool(row["estimated"]) for row in rows) if scored else "mean return"
            found = [(named(row, run.rows), run.curves(row), is_control(row)) for row in rows]
            charts += _curve_chart(target, found, label, styles)
    notes = [
        "Lines: interquartile mean over seeds; bands: its 95 % interval; thin lines: single seeds. Buttons show and "
        "hide methods, intervals and seeds; the slider reads values."
    ]
    return Section("Learning curves", notes, charts=charts) if charts else None


def running(run: RunFolder) -> Section | None:
    """Learning curves of stages that have not ended, a chart for each task, from what they have logged so far."""
    found: dict[str, list[Series]] = {}
    for stage in run.results["stages"]:
        if stage["status"] not in ("running", "stopped"):
            continue
        points = [(p["env_steps"], _number(p.get(RETURN))) for p in run.logged(stage["id"])]
        if known := [(x, y) for x, y in points if y is not None]:
            kind, _, words = str(stage["label"]).partition(" · ")  # pretraining, or the method; the task; the seed
            task, _, seed = words.rpartition(" · ")
            budget = (run.record(stage["id"]).get("spec") or {}).get("budget")
            share = f", {min(100, 100 * points[-1][0] // budget)} %" if budget else ""
            x, y = np.array(known, float).T
            name = f"{kind} · {seed} ({stage['status']}{share})"
            if any(line.name == name for shown in found.values() for line in shown):  # of another source
                name += f" {stage['id']}"
            found.setdefault(task, []).append(Series(name, x, y, NOTHING, NOTHING, np.zeros((0, len(x)))))
    lines = [line for shown in found.values() for line in shown]
    styles = {line.name: (2 + i % (COLOURS - 2), DOTTED) for i, line in enumerate(lines)}
    charts = [chart(task, "env steps", "mean return", shown, styles=styles) for task, shown in found.items()]
    notes = ["Dotted lines: evaluations so far of stages that have not ended, one seed each; no table has them yet."]
    return Section("Running", notes, charts=charts) if charts else None


def _number(value: Any) -> float | None:
    """Of a metric that somebody else may have written."""
    return float(value) if isinstance(value, int | float) and abs(value) < LARGEST else None


def _styles(run: RunFolder, rows: Sequence[Row]) -> dict[str, Style]:
    """Colour and dashes of each name of ``rows``, the same in all charts of a run; controls first."""

    def key(row: Row) -> tuple[str, str]:
        return str(row["method"]), "" if run.is_sequence else str(row["source"] or "")

    every = dict.fromkeys(key(row) for row in sorted(run.rows, key=lambda row: not _alone(run, row)))
    controls = len({key(row) for row in run.rows if _alone(run, row)})
    found = {pair: style(index, controls) for index, pair in enumerate(every)}
    return {row["method"] if run.is_sequence else named(row, rows): found[key(row)] for row in rows}


def _curve_chart(
    title: str, found: Sequence[tuple[str, list[Curve], bool]], label: str, styles: Mapping[str, Style]
) -> list[Chart]:
    known = [(method, runs, control) for method, runs, control in found if runs]
    if not known:
        return []
    ordered = sorted(known, key=lambda line: not line[2])  # controls first, in the order of the rows
    lines = [series(method, runs) for method, runs, _ in ordered]
    return [chart(title, "env steps on the target", label, lines, styles=styles)]


def profiles(run: RunFolder) -> Section | None:
    """Performance profiles: the share of runs above each score."""
    if run.is_sequence:
        tasks = run.results["sequence"]
        ended: dict[str, Runs] = {
            row["method"]: {f"{j}. {t}": [m[-1][j] for m in row["matrices"]] for j, t in enumerate(tasks)}
            for row in run.rows
            if all(value is not None for matrix in row["matrices"] for value in matrix[-1])
        }
        panels: Panels = {"score at the end of the sequence": ended} if ended else {}
        rows = list(run.rows)
    else:
        rows = [row for row in run.rows if row["areas"] is not None and row["finals"] is not None]
        panels, rows = row_scores(rows), [row for row in rows if row["scored"] is not False]
    labels = {} if run.is_sequence else {transfer.row_name(row, rows): named(row, rows) for row in rows}
    label = "score" if run.is_sequence else score_axis(bool(row["estimated"]) for row in rows)
    styles = _styles(run, rows)
    charts = [
        chart(
            title[0].upper() + title[1:],
            label,
            "share of runs with a higher score",
            [
                _profile(labels.get(method, method), runs, score_levels(lines, PROFILE_LEVELS))
                for method, runs in lines.items()
            ],
            styles=styles,
            start=0.5,
        )
        for title, lines in panels.items()
    ]
    notes = ["A line that lies above another everywhere is better whatever average is taken. Bands: 95 % intervals."]
    return Section("Performance profiles", notes, charts=charts) if charts else None


def _alone(run: RunFolder, row: Row) -> bool:
    """Whether a row takes nothing from a source."""
    return bool(row["network_per_task"]) if run.is_sequence else is_control(row)


def _profile(method: str, runs: Runs, levels: Any) -> Series:
    shares, low, high = performance_profile(runs, levels)
    return Series(method, levels, shares, low, high, np.zeros((0, len(levels))))
