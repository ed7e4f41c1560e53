"""Results in a report's page: tables, learning curves, comparisons with scratch, profiles and heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft.experiments.plan.stage import NOT_KEPT
from graft.experiments.report import continual, transfer
from graft.experiments.report.common import diverged_words, fixed, format_steps, has_scale, is_estimated
from graft.experiments.report.lifelong import COLUMNS as LIFELONG
from graft.experiments.report.lifelong import NOTE as LIFELONG_NOTE
from graft.experiments.report.page.cells import (
    NONE,
    Cell,
    Section,
    Table,
    ends_of,
    is_baseline,
    is_control,
    name,
    number,
    plus,
    ratio,
    rows_of,
    score,
    signed,
    targets_of,
)
from graft.experiments.report.page.charts import Chart, Series, Style, chart, series, style
from graft.experiments.report.page.summary import best_rows
from graft.experiments.report.plots import LARGEST_RATIO, Panels, row_scores, score_axis, score_levels
from graft.experiments.report.races import race_notes
from graft.experiments.report.run_folder import Row, RunFolder
from graft.experiments.report.sim2real import NOTE as SIM_TO_SIM_NOTE
from graft.transfer.metrics import Curve
from graft.transfer.statistics import Runs, interquartile_mean, performance_profile

PROFILE_LEVELS = 41


def headline(run: RunFolder) -> Section:
    """The closing table of the run."""
    if run.is_sequence:
        return Section("Results", (), [_sequence_table(run)], folded=[_lifelong_table(run)])
    notes = [
        f"{transfer.score_words(run.rows)} AUC: mean score over training. Zero-shot: before any training on the "
        f"target; jump: the same minus scratch's. Final: mean of the last tenth. Steps: until the score stays above "
        f"{run.results.get('threshold') or 0:g}. Kept: score on the source afterwards, of the score before. In "
        f"brackets: 95 % intervals."
    ]
    notes += [*transfer.undefined_notes(run.rows), *transfer.sign_notes(run.rows), *transfer.heads_notes(run.rows)]
    notes += race_notes(run.rows)
    best = {id(b.row) for b in best_rows(run)}
    head = ["method", "verdict", "AUC", "ratio to scratch", "zero-shot", "jump", "final", "steps", "kept"]
    tables = [
        Table(target, head, [_headline_row(row, rows, id(row) in best) for row in rows])
        for target in targets_of(run)
        for rows in [rows_of(run, target)]
    ]
    return Section("Results", notes, tables)


def _headline_row(row: Row, rows: Sequence[Row], best: bool) -> list[Cell]:
    groups = transfer.BIMODAL if row["bimodal"] else ""
    area = score(row["auc"])
    steps, kept = row["steps_to_threshold"], row["kept"]
    surely = best and row["verdict"] == "positive"
    said = " (best)" if surely else " (highest mean)" if best and len(rows) > 1 else ""
    return [
        Cell(transfer.row_name(row, rows) + said + diverged_words(row), tone="best" if surely else ""),
        Cell(_verdict(row), tone=str(row["verdict"] or "")),
        area._replace(text=f"{area.text}{groups}"),
        ratio(row["transfer_ratio"]),
        score(row["zero_shot"]),
        number(row["jumpstart"], None if row["jumpstart"] is None else plus(row["jumpstart"])),
        Cell(fixed(row["final"]), ends_of(row["final_interval"]) if row["final_interval"] else (row["final"],)),
        NONE if row["scored"] is False else Cell(format_steps(steps), () if steps is None else (steps,)),
        Cell(transfer.kept_cell(row), () if kept is None else ends_of(kept)),
    ]


def _verdict(row: Row) -> str:
    if row["verdict"] is None:
        return "-"
    return f"{row['verdict']}{transfer.sign_alone(row)}"


def _sequence_table(run: RunFolder) -> Table:
    head = ["method", "performance", "forgetting", "learned", "forward transfer", "intransigence", "size"]
    rows = []
    for row in run.rows:
        size = 4 * row["parameters"] + row["bytes_beside"]
        forgotten = NONE if row["network_per_task"] else score(row["forgetting"])
        names = ("learned", "forward_transfer", "intransigence")
        cells = [score(row["average_performance"]), forgotten, *(score(row[key]) for key in names)]
        rows.append([name(row["method"]), *cells, number(size, f"{size / 1000:,.0f} kB")])
    notes = [*continual.notes(run.results)[:2], *continual.reference_notes(run.results)]
    return Table(" → ".join(run.results["sequence"]), head, rows, notes)


def _lifelong_table(run: RunFolder) -> Table:
    rows = []
    for row in run.rows:
        cells = [name(row["method"])]
        for key in LIFELONG.values():
            known = [value for value in (row["lifelong"] or {}).get(key, ()) if value is not None]
            cells.append(number(interquartile_mean(known) if known else None))
        rows.append(cells)
    return Table("Lifelong metrics", ["method", *LIFELONG], rows, [LIFELONG_NOTE])


def ratios(run: RunFolder) -> Section | None:
    """How each method compares with scratch, with intervals and chances."""
    if run.is_sequence:
        return None
    head = ["method", "ratio", "AUC minus scratch's", "improves", "p", "p corrected", "final minus scratch's"]
    head += ["data efficiency", "forward transfer"]
    tables = []
    for target in targets_of(run):
        rows = [row for row in rows_of(run, target) if not is_baseline(row)]
        made = []
        for row in rows:
            chance, p, corrected = (row[key] for key in ("probability_of_improvement", "p_value", "p_corrected"))
            gain = row["asymptotic_gain"]
            made.append(
                [
                    name(transfer.row_name(row, rows)),
                    ratio(row["transfer_ratio"]),
                    signed(row["gain"]),
                    number(chance, None if chance is None else f"{chance:.0%}"),
                    *(number(value, None if value is None else _chance(value)) for value in (p, corrected)),
                    number(gain, None if gain is None else plus(gain)),
                    number(row["data_efficiency"]),
                    number(row["forward_transfer"]),
                ]
            )
        if made:
            tables.append(Table(target, head, made))
    notes = [
        "Ratio: (AUC - AUC of scratch) / AUC of scratch. Improves: the chance that a run of the method has a larger "
        "AUC than a run of scratch (probability of improvement). p: of the two-sided test that AUC differs from "
        "scratch's, alone and corrected for the number of methods on the target (Holm). Data efficiency: steps that "
        "scratch needs for its own final score, divided by the method's."
    ]
    return Section("Compared with scratch", notes, tables) if tables else None


def _chance(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


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
            found = [(transfer.row_name(row, run.rows), run.curves(row), is_control(row)) for row in rows]
            charts += _curve_chart(target, found, label, styles)
    notes = [
        "Lines: interquartile mean over seeds; bands: its 95 % interval; thin lines: single seeds. Buttons show and "
        "hide methods, intervals and seeds; the slider reads values."
    ]
    return Section("Learning curves", notes, charts=charts) if charts else None


def _styles(run: RunFolder, rows: Sequence[Row]) -> dict[str, Style]:
    """Colour and dashes of each name of ``rows``, the same in all charts of a run; controls first."""

    def key(row: Row) -> tuple[str, str]:
        return str(row["method"]), "" if run.is_sequence else str(row["source"] or "")

    every = dict.fromkeys(key(row) for row in sorted(run.rows, key=lambda row: not _alone(run, row)))
    controls = len({key(row) for row in run.rows if _alone(run, row)})
    found = {pair: style(index, controls) for index, pair in enumerate(every)}
    return {row["method"] if run.is_sequence else transfer.row_name(row, rows): found[key(row)] for row in rows}


def _curve_chart(
    title: str, found: Sequence[tuple[str, list[Curve], bool]], label: str, styles: Mapping[str, Style]
) -> list[Chart]:
    known = [(method, runs, control) for method, runs, control in found if runs]
    if not known:
        return []
    ordered = sorted(known, key=lambda line: not line[2])  # controls first, in the order of the rows
    lines = [series(method, runs) for method, runs, _ in ordered]
    return [chart(title, "env steps", label, lines, styles=styles)]


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
    styles = _styles(run, rows)
    charts = [
        chart(
            title[0].upper() + title[1:],
            "score",
            "share of runs x targets above",
            [_profile(method, runs, score_levels(lines, PROFILE_LEVELS)) for method, runs in lines.items()],
            styles=styles,
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


def kept(run: RunFolder) -> Section | None:
    """What was kept of the source, or forgotten, where it was measured."""
    if run.is_sequence:
        return None
    tables = []
    rows = [row for row in run.rows if row["kept"] is not None]
    if rows:
        head = ["method", "kept", "of", "lost"]
        made = []
        for row in rows:
            before = row["kept_of"]
            known = before is not None and None not in (before["iqm"], row["kept"]["iqm"])
            lost = before["iqm"] - row["kept"]["iqm"] if known else None
            title = f"{transfer.row_name(row, run.rows)} on {row['target']}"
            cells = [name(title), score(row["kept"]), score(before)]
            made.append([*cells, number(lost, None if lost is None else plus(lost))])
        tables.append(Table("Score on the source after the transfer, and before", head, made))
    recovery = run.results.get("recovery")
    if recovery:
        keys = ("zero_shot", "gap", "final", "worst_at_first", "worst_at_last", "forgotten")
        head = ["method", "source", "zero-shot", "gap", "final", "worst", "then", "forgot", "steps to 90 %"]
        made = []
        for row in recovery:
            steps = row["recovery_steps"]
            cells = [name(row["method"]), Cell(row["source"] or "-"), *(score(row[key]) for key in keys)]
            made.append([*cells, number(steps, None if steps is None else format_steps(steps))])
        tables.append(Table("Sim-to-sim proxy of a transfer to reality", head, made, [SIM_TO_SIM_NOTE]))
    unplayable = run.results["not_kept"]
    reasons = dict.fromkeys(row["not_kept"] for row in run.rows if row["not_kept"])
    notes = [f"Not measured from {source}: {why}" for source, why in unplayable.items()]
    if unplayable:
        reasons.pop("not playable", None)
    notes += [f"Not measured, {reason}: {NOT_KEPT.get(reason, reason)}." for reason in reasons]
    return Section("Kept and forgotten", notes, tables) if tables or notes else None


def heat_maps(run: RunFolder) -> Section | None:
    """R of each method of a sequence; the ratios from every source to every target."""
    if run.is_sequence:
        tasks = [f"{j + 1}. {task}" for j, task in enumerate(run.results["sequence"])]
        tables = []
        for row in run.rows:
            lines = [[name(f"after {tasks[k]}"), *map(_matrix_cell, line)] for k, line in enumerate(row["matrix"])]
            tables.append(Table(row["method"], ["", *tasks], lines))
        notes = ["Rows: after which task; columns: mean score over seeds on which task."]
        return Section("Scores after each task", notes, tables) if tables else None
    rows = [row for row in run.rows if row["source"]]
    sources, targets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("source", "target"))
    if len(sources) < 2 or len(targets) < 2:
        return None
    tables = []
    for method in dict.fromkeys(row["method"] for row in rows):
        found = {(row["source"], row["target"]): row["transfer_ratio"] for row in rows if row["method"] == method}
        lines = [[name(source), *(_pair_cell(found.get((source, target))) for target in targets)] for source in sources]
        tables.append(Table(method, ["", *targets], lines))
    notes = ["Transfer ratios with 95 % intervals; rows: source, columns: target. 0: as good as scratch."]
    return Section("From every source to every target", notes, tables)


def _matrix_cell(value: float | None) -> Cell:
    return number(value)._replace(heat=None if value is None else float(np.clip(value, -1, 1)))


def _pair_cell(values: Mapping[str, float | None] | None) -> Cell:
    if values is None:
        return NONE
    middle = values["low"] if values["iqm"] is None else values["iqm"]
    heat = None if middle is None else float(np.clip(middle / LARGEST_RATIO, -1, 1))
    return ratio(values)._replace(heat=heat)
