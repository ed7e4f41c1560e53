"""What a report says of one run, section by section, as tables and sentences that its template draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from graft.experiments.report import continual, transfer
from graft.experiments.report.charts import Chart, Series, chart, series
from graft.experiments.report.common import (
    clip_notes,
    cost,
    evaluation_notes,
    failed_notes,
    fixed,
    format_score,
    format_steps,
    resume_notes,
    seed_notes,
    unfinished_notes,
)
from graft.experiments.report.lifelong import COLUMNS as LIFELONG
from graft.experiments.report.lifelong import NOTE as LIFELONG_NOTE
from graft.experiments.report.plots import LARGEST_RATIO, row_scores, score_axis, score_levels
from graft.experiments.report.run_folder import Row, RunFolder
from graft.experiments.report.sim2real import NOTE as SIM_TO_SIM_NOTE
from graft.transfer.metrics import Curve, break_even
from graft.transfer.statistics import Runs, interquartile_mean, performance_profile

PROFILE_LEVELS = 41


class Cell(NamedTuple):
    """What a cell of a table shows.

    Attributes:
        values: the numbers behind the text as the results have them: one, or a mean and both ends of its interval.
        tone: class of the style sheet.
        heat: from -1 to 1, by which the cell is coloured; None: not at all.
    """

    text: str
    values: tuple[float | None, ...] = ()
    tone: str = ""
    heat: float | None = None


class Table(NamedTuple):
    """The first cell of each row is its heading; ``numbers``: whether all others are numbers."""

    caption: str
    head: list[str]
    rows: list[list[Cell]]
    notes: Sequence[str] = ()
    numbers: bool = True


class Section(NamedTuple):
    """A part of the page under a heading. ``folded``: tables that are shown when asked for, under their captions."""

    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    folded: Sequence[Table] = ()


def number(value: float | None, text: str | None = None) -> Cell:
    """A number, by default with two decimals; a dash for None."""
    return Cell("–") if value is None else Cell(fixed(value) if text is None else text, (value,))


def score(values: Mapping[str, float | None] | None) -> Cell:
    """An interquartile mean with its interval."""
    return Cell("–") if values is None else Cell(format_score(values, ", "), _ends(values))


def _ends(values: Mapping[str, float | None]) -> tuple[float | None, ...]:
    return values["iqm"], values["low"], values["high"]


def ratio(values: Mapping[str, float | None] | None) -> Cell:
    """A transfer ratio with its interval."""
    return Cell("–") if values is None else Cell(transfer.format_ratio(values), _ends(values))


def signed(values: Mapping[str, float | None] | None) -> Cell:
    """A difference of scores with its interval."""
    if values is None or values["iqm"] is None:
        return Cell("–")
    low, high = values["low"], values["high"]
    ends = "" if low is None or high is None else f" [{_plus(low)}, {_plus(high)}]"
    return Cell(f"{_plus(values['iqm'])}{ends}", _ends(values))


def _plus(value: float) -> str:
    shown = fixed(value)
    return shown if shown.startswith("-") else f"+{shown}"


def name(text: str) -> Cell:
    """A row's heading."""
    return Cell(text)


def is_control(row: Row) -> bool:
    """Whether a row of a transfer experiment takes nothing from a source."""
    return row["source"] is None


# What it comes to


class Best(NamedTuple):
    """The row of a target with the largest area, and the one after it."""

    target: str
    row: Row
    second: Row | None


def best_rows(run: RunFolder) -> list[Best]:
    """Of each target of a transfer experiment."""
    found = []
    for target in _targets(run):
        ordered = sorted(_of(run, target), key=lambda row: -_middle(row["auc"]))
        found.append(Best(target, ordered[0], ordered[1] if len(ordered) > 1 else None))
    return found


def _middle(values: Mapping[str, float | None] | None) -> float:
    return -math.inf if values is None or values["iqm"] is None else values["iqm"]


def _targets(run: RunFolder) -> list[str]:
    return list(dict.fromkeys(row["target"] for row in run.rows))


def _of(run: RunFolder, target: str) -> list[Row]:
    return [row for row in run.rows if row["target"] == target]


SURE = {
    "positive": "surely better than training from scratch",
    "negative": "surely worse than training from scratch",
    "unclear": "not surely better than training from scratch",
    None: "of one seed, or without scratch, which is no evidence",
}


def summary(run: RunFolder) -> list[str]:
    """Which method is best on each target and what it cost, in plain words."""
    return _sequence_summary(run) if run.is_sequence else [_best_sentence(run, best) for best in best_rows(run)]


def _best_sentence(run: RunFolder, best: Best) -> str:
    row, rows = best.row, run.rows
    scale = "the best of this experiment" if row["estimated"] else "an expert"
    unit = f"score (0 is a random policy, 1 {scale})" if row["scored"] is not False else "return"
    mean = f"its mean {unit} over training is {format_score(row['auc'], ' to ')}"
    spent = row["env_steps"] or {}
    price = f"It took {_count(spent.get('transfer'))} env steps on the target for each seed"
    if is_control(row):
        judged = "no transfer learned more" if row["method"] == "scratch" else "it is a control, which uses no source"
        return f"On {best.target}, best is {row['method']}: {judged}; {mean}. {price}.{_lead(best, rows)}"
    before = [_count(spent.get("pretrain")) + " of pretraining"]
    before += [_count(spent["consolidation"]) + " of consolidation"] if spent.get("consolidation") else []
    paid = break_even_of(run, row)
    return (
        f"On {best.target}, best is {transfer.row_name(row, rows)}, {SURE[row['verdict']]}: {mean}. {price}, after "
        f"{' and '.join(before)}. Pretraining has paid {paid.text}.{_lead(best, rows)}"
    )


def _lead(best: Best, rows: Sequence[Row]) -> str:
    if best.second is None:
        return ""
    second = f"{transfer.row_name(best.second, rows)} ({format_score(best.second['auc'])})"
    first, other = best.row["auc"], best.second["auc"]
    if first is None or other is None or first["low"] is None or other["high"] is None:
        return f" Next is {second}."
    apart = first["low"] > other["high"]
    return f" Next is {second}; their intervals {'are apart' if apart else 'overlap, so their order is not certain'}."


def _sequence_summary(run: RunFolder) -> list[str]:
    single = [row for row in run.rows if not row["network_per_task"]]
    if not single:
        return []
    best = max(single, key=lambda row: _middle(row["average_performance"]))
    steps = best["env_steps"] or {}
    more = f" and {_count(steps['consolidation'])} of consolidation" if steps.get("consolidation") else ""
    return [
        f"Of methods with one network for all tasks, best at the end is {best['method']}: its mean score over the "
        f"tasks is {format_score(best['average_performance'], ' to ')}, and what it forgot of each is "
        f"{format_score(best['forgetting'], ' to ')}. It took {_count(steps.get('training'))} env steps of training"
        f"{more} for each seed."
    ]


def _count(steps: float | None) -> str:
    return "an unknown number" if steps is None else f"{steps:,.0f}"


# Warnings


def warnings(run: RunFolder) -> list[str]:
    """All that a reader must know before the numbers."""
    data = run.results
    if run.is_sequence:
        split = [row["method"] for row in run.rows if row["bimodal"]]
        groups = [f"{', '.join(split)}: {continual.TWO_GROUPS}"] if split else []
        scales = continual.scale_notes(data)
        own: list[str] = []
    else:
        own = transfer.negative_notes(run.rows)
        counts = [row["evaluations"] for row in run.rows if row["evaluations"] is not None]
        groups = [*evaluation_notes(counts), *transfer.verdict_notes(run.rows)]
        scales = transfer.scale_notes(data)
    lines = [*own, *failed_notes(data), *unfinished_notes(data), *groups, *seed_notes(run.rows)]
    lines += [*clip_notes(data), *resume_notes(data), *scales]
    if not run.rows:
        lines.append("No comparison has finished yet; the table of stages says how far they are.")
    elif not run.is_sequence and not any(run.curves(row) for row in run.rows):
        lines.append("No learning curves: the folder has no stages, or its results were written by an older Graft.")
    return lines


# Tables


def headline(run: RunFolder) -> Section:
    """The closing table of the run."""
    if run.is_sequence:
        return Section("Results", (), [_sequence_table(run)], folded=[_lifelong_table(run)])
    notes = [
        f"Scores: 0 = random policy, 1 = expert. AUC: mean score over training. Zero-shot: before any training on the "
        f"target; jump: the same minus scratch's. Final: mean of the last tenth. Steps: until the score stays above "
        f"{run.results.get('threshold') or 0:g}. Kept: score on the source afterwards, of the score before. In "
        f"brackets: 95 % intervals."
    ]
    best = {id(b.row) for b in best_rows(run)}
    head = ["method", "AUC", "ratio to scratch", "zero-shot", "jump", "final", "steps", "kept", "verdict"]
    tables = [
        Table(target, head, [_headline_row(row, rows, id(row) in best) for row in rows])
        for target in _targets(run)
        for rows in [_of(run, target)]
    ]
    return Section("Results", notes, tables)


def _headline_row(row: Row, rows: Sequence[Row], best: bool) -> list[Cell]:
    groups = transfer.BIMODAL if row["bimodal"] else ""
    area = score(row["auc"])
    steps, kept = row["steps_to_threshold"], row["kept"]
    return [
        Cell(transfer.row_name(row, rows) + (" (best)" if best else ""), tone="best" if best else ""),
        area._replace(text=f"{area.text}{groups}"),
        ratio(row["transfer_ratio"]),
        score(row["zero_shot"]),
        number(row["jumpstart"], None if row["jumpstart"] is None else _plus(row["jumpstart"])),
        Cell(fixed(row["final"]), _ends(row["final_interval"]) if row["final_interval"] else (row["final"],)),
        Cell("–") if row["scored"] is False else Cell(format_steps(steps), () if steps is None else (steps,)),
        Cell(transfer.kept_cell(row), () if kept is None else _ends(kept)),
        Cell(_verdict(row), tone=str(row["verdict"] or "")),
    ]


def _verdict(row: Row) -> str:
    if row["verdict"] is None:
        return "–"
    alone = transfer.sign_alone(row) if row["verdict_alone"] is not None else ""
    return f"{row['verdict']}{alone}"


def _sequence_table(run: RunFolder) -> Table:
    head = ["method", "performance", "forgetting", "learned", "forward transfer", "intransigence", "size"]
    rows = []
    for row in run.rows:
        size = 4 * row["parameters"] + row["bytes_beside"]
        forgotten = Cell("–") if row["network_per_task"] else score(row["forgetting"])
        names = ("learned", "forward_transfer", "intransigence")
        cells = [score(row["average_performance"]), forgotten, *(score(row[key]) for key in names)]
        rows.append([name(row["method"]), *cells, number(size, f"{size / 1000:,.0f} kB")])
    said = continual.notes(run.results)[0]
    return Table(" → ".join(run.results["sequence"]), head, rows, [said])


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
    for target in _targets(run):
        rows = [row for row in _of(run, target) if row["verdict"] != "baseline"]
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
                    *(number(value, None if value is None else f"{value:.3f}") for value in (p, corrected)),
                    number(gain, None if gain is None else _plus(gain)),
                    number(row["data_efficiency"]),
                    number(row["forward_transfer"]),
                ]
            )
        if made:
            tables.append(Table(target, head, made))
    notes = [
        "Ratio: (AUC − AUC of scratch) / AUC of scratch. Improves: the chance that a run of the method has a larger "
        "AUC than a run of scratch (probability of improvement). p: of the two-sided test that AUC differs from "
        "scratch's, alone and corrected for the number of methods on the target (Holm). Data efficiency: steps that "
        "scratch needs for its own final score, divided by the method's."
    ]
    return Section("Compared with scratch", notes, tables) if tables else None


def curves(run: RunFolder) -> Section | None:
    """Learning curves, a chart for each target, or each task of a sequence."""
    charts = []
    if run.is_sequence:
        for j, task in enumerate(run.results["sequence"]):
            found = [(row["method"], run.task_curves(row, j), row["network_per_task"]) for row in run.rows]
            charts += _curve_chart(f"{j + 1}. {task}", found, "score (0 random, 1 expert)")
    else:
        for target in _targets(run):
            rows = _of(run, target)
            scored = rows[0]["scored"] is not False
            label = score_axis(bool(row["estimated"]) for row in rows) if scored else "mean return"
            found = [(transfer.row_name(row, rows), run.curves(row), is_control(row)) for row in rows]
            charts += _curve_chart(target, found, label)
    notes = [
        "Lines: interquartile mean over seeds; bands: its 95 % interval; thin lines: single seeds. The buttons show and "
        "hide methods, the slider reads values."
    ]
    return Section("Learning curves", notes, charts=charts) if charts else None


def _curve_chart(title: str, found: Sequence[tuple[str, list[Curve], bool]], label: str) -> list[Chart]:
    known = [(method, runs, control) for method, runs, control in found if runs]
    if not known:
        return []
    ordered = sorted(known, key=lambda line: not line[2])  # controls first, in the order of the rows
    lines = [series(method, runs) for method, runs, _ in ordered]
    return [chart(title, "env steps", label, lines, sum(control for _, _, control in known))]


def profiles(run: RunFolder) -> Section | None:
    """Performance profiles: the share of runs above each score."""
    if run.is_sequence:
        tasks = run.results["sequence"]
        lines: dict[str, dict[str, Runs]] = {
            row["method"]: {f"{j}. {t}": [m[-1][j] for m in row["matrices"]] for j, t in enumerate(tasks)}
            for row in run.rows
            if all(value is not None for matrix in row["matrices"] for value in matrix[-1])
        }
        panels = {"score at the end of the sequence": lines} if lines else {}
    else:
        rows = [row for row in run.rows if row["areas"] is not None and row["finals"] is not None]
        panels = row_scores(rows)
    charts = [
        chart(
            title[0].upper() + title[1:],
            "score",
            "share of runs × targets above",
            [_profile(method, runs, score_levels(lines, PROFILE_LEVELS)) for method, runs in lines.items()],
            sum(row["method"] in lines and is_control(row) for row in _first_rows(run)),
        )
        for title, lines in panels.items()
    ]
    notes = ["A line that lies above another everywhere is better whatever average is taken. Bands: 95 % intervals."]
    return Section("Performance profiles", notes, charts=charts) if charts else None


def _first_rows(run: RunFolder) -> list[Row]:
    if run.is_sequence:
        return []
    return list({row["method"]: row for row in run.rows}.values())


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
        head = ["method", "target", "kept", "of", "lost"]
        made = []
        for row in rows:
            before = row["kept_of"]
            lost = None if before is None else before["iqm"] - row["kept"]["iqm"]
            cells = [name(transfer.row_name(row, run.rows)), Cell(row["target"]), score(row["kept"]), score(before)]
            made.append([*cells, number(lost, None if lost is None else _plus(lost))])
        tables.append(Table("Score on the source after the transfer, and before", head, made))
    recovery = run.results.get("recovery")
    if recovery:
        keys = ("zero_shot", "gap", "final", "worst_at_first", "worst_at_last", "forgotten")
        head = ["method", "source", "zero-shot", "gap", "final", "worst", "then", "forgot", "steps to 90 %"]
        made = []
        for row in recovery:
            steps = row["recovery_steps"]
            cells = [name(row["method"]), Cell(row["source"] or "–"), *(score(row[key]) for key in keys)]
            made.append([*cells, number(steps, None if steps is None else format_steps(steps))])
        tables.append(Table("Sim-to-sim proxy of a transfer to reality", head, made, [SIM_TO_SIM_NOTE]))
    reasons = dict.fromkeys(row["not_kept"] for row in run.rows if row["not_kept"])
    notes = [f"Not measured, {reason}: {transfer.NOT_KEPT.get(reason, reason)}." for reason in reasons]
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
        return Cell("–")
    middle = values["low"] if values["iqm"] is None else values["iqm"]
    heat = None if middle is None else float(np.clip(middle / LARGEST_RATIO, -1, 1))
    return ratio(values)._replace(heat=heat)


# What transfers carried, did, and cost


def transplants(run: RunFolder) -> Section | None:
    """What was carried over, of the first seed: a line for each method, and its tensors."""
    lines, folded = [], []
    for row in run.rows:
        ids = run.stages_of(row) if not run.is_sequence else [run_ids[-1] for run_ids in row["stages"] or ()]
        report = run.transplant(ids[0]) if ids else {}
        if not report.get("rows"):
            continue
        title = row["method"] if run.is_sequence else f"{transfer.row_name(row, run.rows)} on {row['target']}"
        lost = ", ".join(report.get("lost", ())) or "–"
        share = sum(tensor["share"] for tensor in report["rows"]) / len(report["rows"])
        lines.append([name(title), Cell(report["summary"]), number(share, f"{share:.0%}"), Cell(lost)])
        changed = [tensor for tensor in report["rows"] if tensor["status"] != "copied"]
        if changed:
            head = ["tensor", "status", "from source", "detail"]
            cells = [
                [name(t["tensor"]), Cell(t["status"]), number(t["share"], f"{t['share']:.0%}"), Cell(t["detail"])]
                for t in changed
            ]
            folded.append(Table(title, head, cells, numbers=False))
    if not lines:
        return None
    head = ["method", "tensors", "mean share", "lost"]
    notes = ["Of the first seed. Mean share: of each tensor's values that came from the source, over tensors."]
    table = Table("Tensors by what became of them", head, lines, numbers=False)
    return Section("What was carried over", notes, [table], folded=_few(folded))


FOLDED = 24


def _few(tables: Sequence[Table]) -> Sequence[Table]:
    return tables[:FOLDED]


def diagnostics(run: RunFolder) -> Section | None:
    """What transfers did to the network: first and last values that were logged."""
    if run.is_sequence:
        return None
    main, parts = [], []
    for target in _targets(run):
        rows = [row for row in _of(run, target) if not is_control(row) or row["method"] != "scratch"]
        logged = {transfer.row_name(row, rows): _logged(run, row) for row in rows}
        tags = list(dict.fromkeys(tag for found in logged.values() for tag in found))
        for into, wanted in ((main, [t for t in tags if "/" not in t]), (parts, [t for t in tags if "/" in t])):
            lines = [[name(method), *(_change(found.get(t)) for t in wanted)] for method, found in logged.items() if found]
            if wanted and lines:
                into.append(Table(target, ["method", *wanted], lines))
    notes = [
        "First → last value of a training, interquartile mean over seeds. cka: similarity of the features to the "
        "source's, 1 is the same. dormant: share of units that are as good as silent. effective_rank: of the features. "
        "penalty_share: of the gradient. conflict: cosine between the task's gradient and what the method adds."
    ]
    folded = [table._replace(caption=f"{table.caption}: by layer") for table in parts]
    return Section("What transfers did to the network", notes, main, folded=folded) if main or parts else None


def _logged(run: RunFolder, row: Row) -> dict[str, tuple[float, float]]:
    """Tag -> its first and last value, over seeds."""
    seeds = [run.diagnostics(stage) for stage in run.stages_of(row)]
    tags = [tag for tag in (seeds[0] if seeds else {}) if all(tag in seed for seed in seeds)]
    made = {}
    for tag in tags:
        ends = [[seed[tag][end] for seed in seeds] for end in (0, -1)]
        if np.isfinite(ends).all():
            made[tag] = interquartile_mean(ends[0]), interquartile_mean(ends[1])
    return made


def _change(ends: tuple[float, float] | None) -> Cell:
    return Cell("–") if ends is None else Cell(f"{ends[0]:.3g} → {ends[1]:.3g}", ends)


def break_even_of(run: RunFolder, row: Row) -> Cell:
    """After how many transfers what came before them has paid."""
    spent = row["env_steps"] or {}
    base = next((r for r in _of(run, row["target"]) if r["verdict"] == "baseline"), None)
    if is_control(row) or base is None or row["scored"] is False:
        return Cell("–")
    if spent.get("pretrain") is None:
        return Cell("after a number that is not known")
    budget, before = spent["transfer"], spent["pretrain"] + (spent.get("consolidation") or 0)
    slow, fast = base["steps_to_threshold"], row["steps_to_threshold"]
    count = break_even(before, budget if slow is None else slow, fast)
    if count is None:
        return Cell("never, as it reaches the threshold no sooner" if fast is not None else "never, at this threshold")
    times = f"{count:,} transfer{'' if count == 1 else 's'}"
    return Cell(f"after {times}{' or fewer' if slow is None else ''}", (float(count),))


def costs(run: RunFolder) -> Section:
    """What everything took, and after how many transfers pretraining has paid."""
    tables = []
    if not run.is_sequence:
        head = ["method", "pretraining", "consolidation", "transfer", "core seconds before", "core seconds of transfer"]
        for target in _targets(run):
            rows = _of(run, target)
            lines = [_cost_row(run, row, rows) for row in rows]
            tables.append(Table(f"{target}: env steps and core seconds for each seed", [*head, "has paid"], lines))
    else:
        lines = []
        for row in run.rows:
            steps = row["env_steps"] or {}
            kinds = [number(steps.get(kind), _count(steps.get(kind))) for kind in ("training", "consolidation")]
            lines.append([name(row["method"]), *kinds])
        tables.append(Table("Env steps for each seed, over all tasks", ["method", "training", "consolidation"], lines))
    notes = [cost(run.results)]
    if not run.is_sequence:
        notes.append(
            f"Has paid: after (pretraining + consolidation) / (scratch's steps − the method's steps) transfers, rounded "
            f"up, by the env steps until the score stays above {run.results.get('threshold') or 0:g}, the median over "
            f"seeds. Where scratch never gets there its whole training counts, and the number is an upper bound. It has "
            f"no interval."
        )
    return Section("Cost", notes, tables, folded=[_stage_table(run)])


def _cost_row(run: RunFolder, row: Row, rows: Sequence[Row]) -> list[Cell]:
    spent, ids = row["env_steps"] or {}, run.stages_of(row)
    kinds = [number(spent.get(kind), _count(spent.get(kind))) for kind in ("pretrain", "consolidation", "transfer")]
    if is_control(row):
        kinds[:2] = [Cell("–"), Cell("–")]
    before = sum(run.seconds(source) for stage in ids for source in run.sources_of(stage))
    own = sum(map(run.seconds, ids))
    seconds = [_seconds(total, len(ids)) for total in (before, own)]
    if is_control(row):
        seconds[0] = Cell("–")
    return [name(transfer.row_name(row, rows)), *kinds, *seconds, break_even_of(run, row)]


def _seconds(total: float, seeds: int) -> Cell:
    return number(total / seeds, f"{total / seeds:,.1f}") if seeds else Cell("–")


def _stage_table(run: RunFolder) -> Table:
    lines = [
        [
            name(stage["label"]),
            Cell(stage["status"], tone="negative" if stage.get("error") else ""),
            number(stage["env_steps"], f"{stage['env_steps']:,}"),
            number(stage["seconds"], f"{stage['seconds']:,.1f}"),
            Cell(stage.get("error") or ""),
        ]
        for stage in run.results["stages"]
    ]
    return Table("All stages", ["stage", "status", "env steps", "core seconds", "error"], lines, numbers=False)


def sections(run: RunFolder) -> list[Section]:
    """All parts of a run that have something to say, in the order of the page."""
    if not run.rows:
        return [costs(run)]
    made = [headline(run), curves(run), ratios(run), profiles(run), kept(run), heat_maps(run), transplants(run)]
    return [section for section in (*made, diagnostics(run), costs(run)) if section is not None]
