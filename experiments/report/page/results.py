"""Results in a report's page: tables, comparisons with scratch, what was kept, and heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graft.errors import GraftError
from graft.experiments.plan.stage import NOT_KEPT
from graft.experiments.report import continual, transfer
from graft.experiments.report.common import diverged_words, fixed
from graft.experiments.report.lifelong import COLUMNS as LIFELONG
from graft.experiments.report.lifelong import NOTE as LIFELONG_NOTE
from graft.experiments.report.page.cells import (
    NONE,
    Cell,
    Section,
    Table,
    ends_of,
    is_baseline,
    name,
    named,
    number,
    plus,
    ratio,
    rows_of,
    score,
    signed,
    targets_of,
    verdict,
    without_empty,
)
from graft.experiments.report.page.summary import best_rows
from graft.experiments.report.plots import LARGEST_RATIO
from graft.experiments.report.races import race_notes
from graft.experiments.report.run_folder import Row, RunFolder
from graft.experiments.report.sim2real import NOTE as SIM_TO_SIM_NOTE
from graft.transfer.metrics import data_efficiency
from graft.transfer.statistics import interquartile_mean


def headline(run: RunFolder) -> Section:
    """The closing table of the run."""
    if run.is_sequence:
        return Section("Results", (), [_sequence_table(run)], folded=[_lifelong_table(run)])
    measured = any(row["kept"] is not None for row in run.rows)
    notes = [
        f"{transfer.score_words(run.rows)} AUC: mean score over training. Zero-shot: before any training on the "
        f"target; jump: the same minus scratch's. Final: mean of the last tenth. Steps: until the score stays above "
        f"{run.results.get('threshold') or 0:g}.{' Kept: score on the source after, of that before.' * measured}"
        f" In brackets: 95 % intervals. Controls take nothing from the source."
    ]
    notes += [*transfer.undefined_notes(run.rows), *transfer.sign_notes(run.rows), *transfer.heads_notes(run.rows)]
    notes += race_notes(run.rows)
    best = {id(b.row) for b in best_rows(run)}
    head = [
        "method",
        "verdict",
        "AUC",
        "gain over scratch",
        "zero-shot",
        "jump",
        "final",
        "steps",
        *["kept"] * measured,
    ]
    tables = [
        Table(target, head, [_headline_row(row, rows, id(row) in best)[: len(head)] for row in rows])
        for target in targets_of(run)
        for rows in [rows_of(run, target)]
    ]
    return Section("Results", notes if measured else [*notes, *_not_measured(run)], tables)


def _headline_row(row: Row, rows: Sequence[Row], best: bool) -> list[Cell]:
    groups = transfer.BIMODAL if row["bimodal"] else ""
    area = score(row["auc"])
    steps, kept = row["steps_to_threshold"], row["kept"]
    surely = best and row["verdict"] == "positive"
    said = " (best)" if surely else " (highest mean)" if best and len(rows) > 1 else ""
    return [
        Cell(named(row, rows) + said + diverged_words(row), tone="best" if surely else ""),
        verdict(row),
        area._replace(text=f"{area.text}{groups}"),
        ratio(row["transfer_ratio"]),
        score(row["zero_shot"]),
        number(row["jumpstart"], None if row["jumpstart"] is None else plus(row["jumpstart"])),
        Cell(fixed(row["final"]), ends_of(row["final_interval"]) if row["final_interval"] else (row["final"],)),
        NONE if row["scored"] is False else Cell("never") if steps is None else number(steps, f"{steps:,.0f}"),
        Cell(transfer.kept_cell(row), () if kept is None else ends_of(kept)),
    ]


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
    head = [
        "method",
        "gain over scratch",
        "AUC minus scratch's",
        "improves",
        "p",
        "p corrected",
        "final minus scratch's",
    ]
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
                    name(named(row, rows)),
                    ratio(row["transfer_ratio"]),
                    signed(row["gain"]),
                    number(chance, None if chance is None else f"{chance:.0%}"),
                    *(number(value, None if value is None else _chance(value)) for value in (p, corrected)),
                    number(gain, None if gain is None else plus(gain)),
                    _efficiency(run, row),
                    number(row["forward_transfer"]),
                ]
            )
        if made:
            tables.append(without_empty(Table(target, head, made)))
    notes = [
        "Gain over scratch: AUC / AUC of scratch - 1, so +0.7 is 70 % more; inf: no upper end is known, as scratch may "
        "have learned nothing. Improves: the chance that a run of the method has a larger AUC than a run of scratch "
        "(probability of improvement). p: of the two-sided test that AUC differs from scratch's, alone and corrected "
        "for the number of methods on the target (Holm). Data efficiency: steps that scratch needs for its own final "
        "score, divided by the method's; at once: it is there before training, never: it does not get there. Forward "
        "transfer: (AUC - AUC of scratch) / (1 - AUC of scratch), the share of what scratch leaves to gain."
    ]
    return Section("Compared with scratch", notes, tables) if tables else None


def _efficiency(run: RunFolder, row: Row) -> Cell:
    """Data efficiency; where it is no number, which of the two reasons holds, by the curves."""
    base = next(filter(is_baseline, rows_of(run, row["target"])), None)
    found = [run.curves(r) for r in (row, base) if r is not None]
    if row["data_efficiency"] is not None or row["scored"] is False or len(found) < 2 or not all(found):
        return number(row["data_efficiency"])
    try:
        mine, its = (transfer.mean_curve(tuple(curves)) for curves in found)
        value = data_efficiency(mine, its)
    except (GraftError, ValueError):  # of other steps
        return NONE
    return Cell("never" if value is None else "at once")


def _chance(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


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
            made.append([*cells, number(steps, f"{steps or 0:,.0f}")])
        tables.append(Table("Sim-to-sim proxy of a transfer to reality", head, made, [SIM_TO_SIM_NOTE]))
    return Section("Kept and forgotten", _not_measured(run), tables) if tables else None


def _not_measured(run: RunFolder) -> list[str]:
    """Why some scores on sources are not known."""
    unplayable = run.results["not_kept"]
    reasons = dict.fromkeys(row["not_kept"] for row in run.rows if row["not_kept"])
    notes = [f"Kept is not measured from {source}: {why}" for source, why in unplayable.items()]
    if unplayable:
        reasons.pop("not playable", None)
    return notes + [f"Kept is not measured, {reason}: {NOT_KEPT.get(reason, reason)}." for reason in reasons]


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
