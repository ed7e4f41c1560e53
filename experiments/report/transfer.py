"""Report of a transfer experiment: from finished stages to ``results.json`` and the closing table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from graft.envs.core.task import AVERAGED, Bounds, Task
from graft.envs.factory import bounds
from graft.experiments.config.experiment import GIVEN, Config
from graft.experiments.plan.stage import Comparison, Graph
from graft.experiments.report.common import (
    TWO_GROUPS,
    bounded,
    clip_notes,
    cost,
    estimate_bounds,
    fixed,
    format_score,
    format_signed,
    format_steps,
    has_scale,
    in_lines,
    interval,
    resume_notes,
    score_table,
    seed_notes,
    stage_records,
)
from graft.experiments.store.records import STARTS, Store
from graft.transfer import metrics
from graft.transfer.method import TransferMethod, label, to_json
from graft.transfer.metrics import Curve
from graft.transfer.statistics import interquartile_mean, is_bimodal, probability_of_improvement


@dataclass(frozen=True)
class TransferResult:
    """A comparison with the normalised curves of its finished seeds, and those of scratch.

    Attributes:
        missing: number of seeds whose stages failed or have not run.
        kept: per seed, the normalised score on the source after the transfer; empty where its schemas differ.
        env_steps: of one seed's pretraining, consolidation and transfer; None for a checkpoint that was given.
        scored: whether the target has a scale; else scores are returns.
        starts: per seed, scores before training of what the method could start from, and the name of what it took.
    """

    comparison: Comparison
    curves: tuple[Curve, ...]
    scratch: tuple[Curve, ...]
    missing: int
    kept: tuple[float, ...] = ()
    env_steps: Mapping[str, int | None] = field(default_factory=dict)
    scored: bool = True
    starts: tuple[tuple[str, Mapping[str, float]], ...] = ()

    @property
    def is_scratch(self) -> bool:
        """Whether it is the baseline itself."""
        return self.comparison.stages == self.comparison.scratch


def target_bounds(config: Config, graph: Graph, store: Store) -> dict[Task, Bounds]:
    """Scale of every target: the config's, else the registered one, else an estimate from this experiment's runs.

    Bounds of 0 and 1, which leave returns as they are, where there is none (`has_scale`).
    """
    scales = {}
    for target in config.targets:
        comparisons = [c for c in graph.comparisons if c.target == target.task]
        ids = [i for c in comparisons for i in c.stages]
        scales[target.task] = target.scale or estimate_bounds(store, ids, comparisons[0].scratch)
    return scales


def measure(graph: Graph, store: Store, scales: Mapping[Task, Bounds]) -> list[TransferResult]:
    """Normalised curves of every comparison that has any."""
    measured = []
    for comparison in graph.comparisons:
        scale = scales[comparison.target]
        curves, scratch = (
            tuple(store.evaluations(i, scale) for i in stage_ids if store.done(i))
            for stage_ids in (comparison.stages, comparison.scratch)
        )
        if curves and scratch:
            missing = len(comparison.stages) - len(curves)
            kept, steps = _kept(graph, store, comparison), _env_steps(store, comparison)
            scored = has_scale(scale.how)
            starts = _alternatives(store, comparison, scale)
            measured.append(TransferResult(comparison, curves, scratch, missing, kept, steps, scored, starts))
    return measured


def _alternatives(store: Store, comparison: Comparison, scale: Bounds) -> tuple[tuple[str, Mapping[str, float]], ...]:
    records = (store.record(i) or {} for i in comparison.stages if store.done(i))
    found = (record[STARTS] for record in records if STARTS in record)
    return tuple(
        (start["taken"], {name: scale.normalise(mean) for name, mean in start["return_means"].items()})
        for start in found
    )


def _env_steps(store: Store, comparison: Comparison) -> dict[str, int | None]:
    def of_one_seed(stage_ids: Sequence[str]) -> int:
        return max(((store.record(i) or {}).get("env_steps", 0) for i in stage_ids), default=0)

    given = comparison.source is not None and not comparison.pretrain
    return {
        "pretrain": None if given else of_one_seed(comparison.pretrain),
        "consolidation": of_one_seed(comparison.consolidated),
        "transfer": of_one_seed(comparison.stages),
    }


def _kept(graph: Graph, store: Store, comparison: Comparison) -> tuple[float, ...]:
    scores = []
    for stage_id in comparison.stages:
        recall = graph.stages[stage_id].recall
        scale = bounds(recall[0].task) if recall else None
        record = store.record(stage_id)
        if scale is not None and record is not None and store.done(stage_id):
            scores.append(scale.normalise(record["recall"][0]["return_mean"]))
    return tuple(scores)


def _transfer_ratio(areas: list[float], base: list[float]) -> dict[str, float | None]:
    """The ratio with its interval; where it is undefined, only a lower bound, or nothing."""
    ratio = metrics.transfer_ratio(areas, base)
    if ratio is None:
        return {"iqm": None, "low": metrics.transfer_ratio_bound(areas, base), "high": None}
    return bounded(ratio)


def _steps_to_threshold(curves: Sequence[Curve], threshold: float) -> float | None:
    return metrics.aggregate_steps_to_threshold([metrics.steps_to_threshold(c, threshold) for c in curves])


def _areas(curves: Sequence[Curve]) -> list[float]:
    return [metrics.area(curve) for curve in curves]


def _starts(curves: Sequence[Curve]) -> list[float]:
    return [curve.scores[0] for curve in curves]


def row(measured: TransferResult, threshold: float) -> dict[str, Any]:
    """A row of the table before `rows` judges it, in normalised score; the fields are described in docs/output.md."""
    comparison, is_scratch, scored = measured.comparison, measured.is_scratch, measured.scored
    curves, scratch = measured.curves, measured.scratch
    areas, base = _areas(curves), _areas(scratch)
    finals, base_finals = ([metrics.final_score(c) for c in group] for group in (curves, scratch))
    starts, base_starts = _starts(curves), _starts(scratch)
    efficiency = metrics.data_efficiency(mean_curve(curves), mean_curve(scratch))
    return {
        "source": comparison.source,
        "target": str(comparison.target),
        "method": label(comparison.method),
        "seeds": len(curves),
        "missing_seeds": measured.missing,
        "scored": scored,
        "transfer_ratio": None if is_scratch or not scored else _transfer_ratio(areas, base),
        "auc": interval(areas),
        "areas": areas,
        "bimodal": scored and is_bimodal(areas),
        "jumpstart": interquartile_mean(starts) - interquartile_mean(base_starts),
        "final": interquartile_mean(finals),
        "final_interval": interval(finals),
        "finals": finals,
        "asymptotic_gain": interquartile_mean(finals) - interquartile_mean(base_finals),
        "steps_to_threshold": _steps_to_threshold(curves, threshold) if scored else None,
        "data_efficiency": efficiency if efficiency is None or np.isfinite(efficiency) else None,
        "forward_transfer": metrics.forward_transfer(interquartile_mean(areas), interquartile_mean(base))
        if scored
        else None,
        "kept": interval(measured.kept),
        "heads": _heads(measured.starts),
        "gain": None if is_scratch else bounded(metrics.difference(areas, base).interval()),
        "probability_of_improvement": None if is_scratch else probability_of_improvement(areas, base),
        "verdict": "baseline",
        "verdict_alone": "baseline",
        "starts": "baseline",
        "p_value": None,
        "p_corrected": None,
        "env_steps": dict(measured.env_steps),
    }


def _heads(starts: Sequence[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """For each kind of heads, its score before training, and in how many seeds it was taken; empty where the method's
    option says which it has.
    """
    taken, scores = [name for name, _ in starts], [start for _, start in starts]
    return {
        name: {"start": interquartile_mean([start[name] for start in scores]), "seeds": taken.count(name)}
        for name in (scores[0] if scores else ())
    }


def _better_heads(mine: TransferResult, measured: Sequence[TransferResult]) -> str | None:
    """The same method with other heads, where its area is larger by an interval; of several, the best."""
    found: dict[str, float] = {}
    for other in measured:
        same = (other.comparison.target, other.comparison.source) == (mine.comparison.target, mine.comparison.source)
        if (
            same
            and other is not mine
            and _but_for_heads(other.comparison.method) == _but_for_heads(mine.comparison.method)
        ):
            gain = metrics.difference(_areas(other.curves), _areas(mine.curves)).interval()
            if gain.low > 0:
                found[label(other.comparison.method)] = gain.iqm
    return max(found, key=lambda name: found[name], default=None)


def _but_for_heads(method: TransferMethod) -> dict[str, Any]:
    return {name: value for name, value in to_json(method).items() if name != "heads"}


def rows(measured: Sequence[TransferResult], threshold: float) -> list[dict[str, Any]]:
    """All rows, with verdicts that allow for the number of methods on the same target."""
    made = [row(m, threshold) | {"better_heads": _better_heads(m, measured)} for m in measured]
    for target in dict.fromkeys(entry["target"] for entry in made):
        judged = [i for i, m in enumerate(measured) if made[i]["target"] == target and not m.is_scratch]
        groups = [(measured[i].curves, measured[i].scratch) for i in judged]
        areas = metrics.verdicts([(_areas(curves), _areas(scratch)) for curves, scratch in groups])
        starts = metrics.verdicts([(_starts(curves), _starts(scratch)) for curves, scratch in groups])
        for i, area, start in zip(judged, areas, starts, strict=True):
            made[i] |= {"verdict": area.verdict, "verdict_alone": area.alone, "starts": start.verdict}
            made[i] |= {"p_value": area.p_value, "p_corrected": area.corrected}
    return made


def mean_curve(curves: tuple[Curve, ...]) -> Curve:
    """Interquartile mean over seeds at every evaluation."""
    return Curve(curves[0].steps, interquartile_mean(np.array([c.scores for c in curves]), axis=0).tolist())


def results(
    config: Config,
    graph: Graph,
    store: Store,
    measured: list[TransferResult],
    scales: Mapping[Task, Bounds],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """What ``results.json`` holds."""
    return {
        "name": config.name,
        "threshold": config.threshold,
        "bounds": {str(task): scale._asdict() for task, scale in scales.items()},
        "rows": rows(measured, config.threshold),
        "not_kept": dict(graph.unplayable),
        "stages": stage_records(graph, store, failed),
    }


def format_ratio(ratio: Mapping[str, float | None] | None, separator: str = " ") -> str:
    """A transfer ratio and its interval, if it has one; ``separator`` is between the two."""
    if ratio is None:
        return "-"
    iqm, low, high = (ratio[name] for name in ("iqm", "low", "high"))
    if iqm is None:
        return "undefined" if low is None else f"> {format_signed(low)}"
    if low is None and high is None:
        return format_signed(iqm)
    start, end = ("-inf" if low is None else format_signed(low)), ("inf" if high is None else format_signed(high))
    return f"{format_signed(iqm)}{separator}[{start}, {end}]"


BIMODAL = "*"
"""Beside an area of seeds that fall into two groups."""

VERDICT_STYLE = {"positive": "green", "negative": "bold red", "unclear": "yellow", "baseline": "dim"}

WIDTHS = {"method": 17, "ratio [95 %]": 19, "AUC": 6, "jump": 6, "final": 5, "steps": 5, "kept": 5, "verdict": 8}
"""Column of the closing table -> width."""


def tables(rows: list[dict[str, Any]], width: int = 80) -> list[Table]:
    """The closing tables, one for each target, controls first; they fit ``width`` columns and line up."""
    longest = max((len(row["method"]) for row in rows), default=0)
    widths = WIDTHS | {"method": max(WIDTHS["method"], min(longest, WIDTHS["method"] + width - 80))}
    made = []
    for target in dict.fromkeys(row["target"] for row in rows):
        of_target = [row for row in rows if row["target"] == target]
        sources = list(dict.fromkeys(row["source"] for row in of_target if row["source"]))
        table = score_table(f"{' and '.join(sources)} → {target}", widths, ("method", "verdict"))
        for entry in of_target:
            table.add_row(in_lines(row_name(entry, of_target), widths["method"]), *_cells(entry))
        made.append(table)
    return made


def _cells(entry: Mapping[str, Any]) -> list[str]:
    return [
        format_ratio(entry["transfer_ratio"]),
        f"{fixed(entry['auc']['iqm'], 3)}{BIMODAL if entry['bimodal'] else ''}",
        f"{'' if entry['jumpstart'] < 0 and fixed(entry['jumpstart'])[0] == '-' else '+'}{fixed(entry['jumpstart'])}",
        fixed(entry["final"]),
        format_steps(entry["steps_to_threshold"]) if entry["scored"] else "-",
        format_score(entry["kept"]),
        f"[{VERDICT_STYLE[entry['verdict']]}]{entry['verdict']}{_alone(entry)}[/]",
    ]


def _alone(entry: Mapping[str, Any]) -> str:
    """The sign of a verdict that holds for its row alone, but not among all of its table."""
    return (
        "" if entry["verdict"] == entry["verdict_alone"] else {"positive": "+", "negative": "-"}[entry["verdict_alone"]]
    )


def _verdict_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    if any(_alone(entry) for entry in rows):
        lines.append(
            "unclear+, unclear-: above or below scratch by its own interval (5 % of equal methods are), but not once "
            "the number of methods on this target is allowed for (Holm)."
        )
    if any(entry["bimodal"] for entry in rows):
        lines.append(f"{BIMODAL}: {TWO_GROUPS} curves.png and 'areas' in results.json show them.")
    return lines


HEADS = {"fresh": "fresh", "by_name": "carried"}
"""Option of a method -> its word in sentences."""


def _heads_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which heads methods took where no option said which, and where others were better."""
    alike: dict[tuple[str, str], list[str]] = {}
    for entry in rows:
        if entry["heads"]:
            name, taken = max(entry["heads"].items(), key=lambda item: item[1]["seeds"])
            seeds = sum(heads["seeds"] for heads in entry["heads"].values())
            share = "" if taken["seeds"] == seeds else f" in {taken['seeds']} of {seeds} seeds"
            start = ", ".join(f"{HEADS[other]} {heads['start']:.2f}" for other, heads in entry["heads"].items())
            what = f"{HEADS[name]}{share}, by the score before training ({start})"
            alike.setdefault((entry["target"], what), []).append(row_name(entry, rows))
    lines = [f"Heads on {target} of {', '.join(methods)}: {what}." for (target, what), methods in alike.items()]
    return lines + [
        f"{row_name(entry, rows)} on {entry['target']}: {entry['better_heads']} learned better, by an interval."
        for entry in rows
        if entry["better_heads"]
    ]


def _no_scale_notes(scales: Mapping[str, Mapping[str, Any]]) -> list[str]:
    without = [task for task, scale in scales.items() if not has_scale(scale["how"])]
    return [
        f"NOTHING LEARNED on {', '.join(without)}: no run ends above untrained scratch. So there is no scale, and AUC, "
        f"jump and final are mean returns; train for longer, or give the target 'bounds: [random, expert]'."
    ][: len(without)]


def notes(data: Mapping[str, Any]) -> list[str]:
    """Sentences under the table: alarms first, then what the numbers cost and how to read them."""
    rows, scales = data["rows"], data["bounds"]
    lines = [
        f"Scores: 0 = random policy, 1 = expert. AUC: mean over training; jump: start minus scratch's start; final: "
        f"mean of the last tenth; steps: to {data['threshold']:g}, and held; kept: score on the source afterwards."
    ]
    for entry in rows:
        if entry["verdict"] == "negative":
            why = " It starts below an untrained network." if entry["starts"] == "negative" else ""
            lines.append(f"NEGATIVE: {row_name(entry, rows)} on {entry['target']} learns worse than scratch.{why}")
    failed = [stage for stage in data["stages"] if stage.get("error")]
    if failed:
        first = f"the first, {failed[0]['label']}: {failed[0]['error']}"
        lines.append(f"FAILED: {len(failed)} of {len(data['stages'])} stages; {first}")
    lines += [*_heads_notes(rows), *_verdict_notes(rows), *seed_notes(rows)]
    lines += [*clip_notes(data), *resume_notes(data)]
    if any(r["transfer_ratio"] is not None and r["transfer_ratio"]["iqm"] is None for r in rows):
        lines.append(
            "Where scratch's mean score is below 0.01 the ratio is undefined; "
            "a method that is surely above 0.01 gets a lower bound."
        )
    lines += [f"kept is not measured from {source}: {why}" for source, why in data.get("not_kept", {}).items()]
    shown = {r["target"] for r in rows}
    lines += _no_scale_notes({task: scale for task, scale in scales.items() if task in shown})
    estimated = [t for t, scale in scales.items() if scale["how"].startswith("estimated") and t in shown]
    if estimated:
        lines.append(
            f"Scores of {', '.join(estimated)} are scaled by estimates from this experiment, not by registered bounds: "
            f"0 is untrained scratch, 1 the best final return here."
        )
    mixed = [task for task, scale in scales.items() if scale["how"] == AVERAGED]
    if mixed:
        lines.append(
            f"Scores of {', '.join(mixed)} are on the mean of their tasks' scales, in which large returns weigh most; "
            f"metrics.jsonl has each task's own."
        )
    own_scale = {*estimated, *mixed, *(task for task, scale in scales.items() if not has_scale(scale["how"]))}
    if any("(" in t and t not in own_scale and scale["how"] != GIVEN for t, scale in scales.items()):
        lines.append("Changed tasks are on the scale of the unchanged ones; give 'bounds' for another.")
    lines.append(f"{cost(data)} Curves compare equal steps on the target; pretraining comes on top.")
    return lines


def row_name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Its method, and its source where ``rows`` have several."""
    several = len({other["source"] for other in rows if other["source"]}) > 1
    return f"{row['method']} from {row['source']}" if several and row["source"] else str(row["method"])
