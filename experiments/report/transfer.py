"""From finished stages to numbers: `results.json` and the closing table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from graft.envs.core.task import AVERAGED, Bounds, Task
from graft.envs.factory import bounds
from graft.experiments.config.experiment import GIVEN, Config
from graft.experiments.plan.stage import Comparison, Graph
from graft.experiments.store.records import Store
from graft.transfer import metrics
from graft.transfer.method import label
from graft.transfer.metrics import Curve
from graft.transfer.statistics import interquartile_mean, iqm_interval, probability_of_improvement

SMALLEST_SPAN = 1e-6
"""Of estimated bounds, so that a task on which nothing was learned does not divide by zero."""


@dataclass(frozen=True)
class TransferResult:
    """A comparison with the normalised curves of its finished seeds, and those of scratch.

    ``missing`` counts the seeds whose stages failed or have not run; a comparison without curves is left out. ``kept``
    holds, per seed, the normalised score on the source after the transfer; empty where the tasks look different.
    ``env_steps``: of one seed's pretraining, consolidation and transfer; None where a checkpoint came from elsewhere.
    """

    comparison: Comparison
    curves: tuple[Curve, ...]
    scratch: tuple[Curve, ...]
    missing: int
    kept: tuple[float, ...] = ()
    env_steps: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def is_scratch(self) -> bool:
        """Whether it is the baseline itself."""
        return self.comparison.stages == self.comparison.scratch


def target_bounds(config: Config, graph: Graph, store: Store) -> dict[Task, Bounds]:
    """Scale of every target: the config's, else the registered one, else an estimate from this experiment's runs."""
    found = {}
    for target in config.targets:
        comparisons = [c for c in graph.comparisons if c.target == target.task]
        ids = [i for c in comparisons for i in c.stages]
        found[target.task] = target.scale or estimate(store, ids, comparisons[0].scratch)
    return found


def estimate(store: Store, stages: Sequence[str], scratch: Sequence[str]) -> Bounds:
    """Scale of a task. Random: scratch before training. Expert: the best final return of the stages that trained."""
    ran = {i: store.evaluations(i) for i in stages if store.done(i)}
    untrained = [ran[i].scores[0] for i in scratch if i in ran]
    low = float(np.mean(untrained)) if untrained else 0.0
    best = max((metrics.final_score(curve) for curve in ran.values()), default=low)
    how = "estimated from this experiment: untrained scratch, and the best final return; give 'bounds' to fix it"
    return Bounds(low, max(best, low + SMALLEST_SPAN), how)


def _normalised(store: Store, stage_ids: Iterable[str], scale: Bounds) -> tuple[Curve, ...]:
    curves = (store.evaluations(stage_id) for stage_id in stage_ids if store.done(stage_id))
    return tuple(Curve(c.steps, [scale.normalise(s) for s in c.scores]) for c in curves)


def measure(graph: Graph, store: Store, scales: Mapping[Task, Bounds]) -> list[TransferResult]:
    """Normalised curves of every comparison that has any."""
    found = []
    for comparison in graph.comparisons:
        scale = scales[comparison.target]
        curves = _normalised(store, comparison.stages, scale)
        scratch = _normalised(store, comparison.scratch, scale)
        if curves and scratch:
            missing = len(comparison.stages) - len(curves)
            kept = _kept(graph, store, comparison)
            found.append(TransferResult(comparison, curves, scratch, missing, kept, _env_steps(store, comparison)))
    return found


def _env_steps(store: Store, comparison: Comparison) -> dict[str, int | None]:
    def taken(stage_ids: Sequence[str]) -> int:
        return max((store.record(i) or {}).get("env_steps", 0) for i in stage_ids) if stage_ids else 0

    elsewhere = comparison.source is not None and not comparison.pretrain
    return {
        "pretrain": None if elsewhere else taken(comparison.pretrain),
        "consolidation": taken(comparison.consolidated),
        "transfer": taken(comparison.stages),
    }


def _kept(graph: Graph, store: Store, comparison: Comparison) -> tuple[float, ...]:
    found = []
    for stage_id in comparison.stages:
        recall = graph.stages[stage_id].recall
        scale = bounds(recall[0].task) if recall else None
        record = store.record(stage_id)
        if scale is not None and record is not None and store.done(stage_id):
            found.append(scale.normalise(record["recall"][0]["return_mean"]))
    return tuple(found)


def _transfer_ratio(areas: list[float], base: list[float]) -> dict[str, float | None]:
    """The ratio with its interval; where it is undefined, only a lower bound, or nothing."""
    found = metrics.transfer_ratio(areas, base)
    if found is None:
        return {"iqm": None, "low": metrics.transfer_ratio_bound(areas), "high": None}
    return {"iqm": found.iqm, "low": found.low, "high": found.high}


def _interval(values: Any) -> dict[str, float] | None:
    return None if values is None else {"iqm": values.iqm, "low": values.low, "high": values.high}


def row(measured: TransferResult, threshold: float) -> dict[str, Any]:
    """A row of the table, in normalised score; the fields are described in docs/output.md."""
    curves, scratch = measured.curves, measured.scratch
    areas, base = [metrics.area(c) for c in curves], [metrics.area(c) for c in scratch]
    finals, base_finals = ([metrics.final_score(c) for c in group] for group in (curves, scratch))
    starts, base_starts = [c.scores[0] for c in curves], [c.scores[0] for c in scratch]
    steps = metrics.aggregate_steps_to_threshold([metrics.steps_to_threshold(c, threshold) for c in curves])
    iqm_curve, iqm_scratch = mean_curve(curves), mean_curve(scratch)
    comparison = measured.comparison
    return {
        "source": comparison.source,
        "target": str(comparison.target),
        "method": label(comparison.method),
        "seeds": len(curves),
        "missing_seeds": measured.missing,
        "transfer_ratio": None if measured.is_scratch else _transfer_ratio(areas, base),
        "auc": _interval(iqm_interval(areas)),
        "jumpstart": float(interquartile_mean(starts)) - float(interquartile_mean(base_starts)),
        "final": float(interquartile_mean(finals)),
        "final_interval": _interval(iqm_interval(finals)),
        "asymptotic_gain": float(interquartile_mean(finals)) - float(interquartile_mean(base_finals)),
        "steps_to_threshold": steps,
        "data_efficiency": _finite(metrics.data_efficiency(iqm_curve, iqm_scratch)),
        "forward_transfer": metrics.forward_transfer(float(interquartile_mean(areas)), float(interquartile_mean(base))),
        "kept": _interval(iqm_interval(measured.kept)) if measured.kept else None,
        "probability_of_improvement": None if measured.is_scratch else probability_of_improvement(areas, base),
        "verdict": "baseline" if measured.is_scratch else metrics.verdict(areas, base),
        "starts": "baseline" if measured.is_scratch else metrics.verdict(starts, base_starts),
        "env_steps": dict(measured.env_steps),
    }


def _finite(value: float | None) -> float | None:
    return value if value is None or np.isfinite(value) else None


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
        "rows": [row(m, config.threshold) for m in measured],
        "stages": stage_records(graph, store, failed),
    }


def stage_records(graph: Graph, store: Store, failed: Mapping[str, str]) -> list[dict[str, Any]]:
    """What became of every stage."""
    stages = []
    for stage in graph.stages.values():
        record = store.record(stage.id) or {"status": "waiting"}
        stages.append(
            {
                "id": stage.id,
                "kind": stage.kind,
                "label": stage.label,
                "status": record["status"] if stage.id not in failed else "failed",
                "env_steps": record.get("env_steps", 0),
                "seconds": record.get("seconds", 0.0),
                "error": failed.get(stage.id),
            }
            | {name: record[name] for name in ("return_means", "faults") if name in record}
        )
    return stages


def rounded(value: float, digits: int = 2) -> float:
    """``value`` rounded for print, without the sign of a zero."""
    return round(value, digits) + 0.0


def format_signed(value: float) -> str:
    """With its sign and two significant digits or more: ``+1.5``, ``+34``."""
    return f"{value:+.1f}" if abs(value) < 10 else f"{value:+.0f}"


def format_ratio(row: Mapping[str, Any]) -> str:
    """The transfer ratio of a row with its interval."""
    found = row["transfer_ratio"]
    if found is None:
        return "-"
    if found["iqm"] is None:
        return "undefined" if found["low"] is None else f"> {format_signed(found['low'])}"
    return f"{format_signed(found['iqm'])} [{format_signed(found['low'])}, {format_signed(found['high'])}]"


VERDICT_STYLE = {"positive": "green", "negative": "bold red", "unclear": "yellow", "baseline": "dim"}


COLUMNS = {"method": 17, "ratio [95 %]": 19, "AUC": 6, "jump": 6, "final": 5, "steps": 5, "kept": 5, "verdict": 8}
"""Of the closing table, with their widths."""


def tables(rows: list[dict[str, Any]], width: int = 80) -> list[Table]:
    """The closing tables, one for each target, controls first; they fit ``width`` columns and line up."""
    longest = max((len(row["method"]) for row in rows), default=0)
    widths = COLUMNS | {"method": max(COLUMNS["method"], min(longest, COLUMNS["method"] + width - 80))}
    shown = []
    for target in dict.fromkeys(row["target"] for row in rows):
        of_target = [row for row in rows if row["target"] == target]
        sources = list(dict.fromkeys(row["source"] for row in of_target if row["source"]))
        title = f"{' and '.join(sources)} → {target}"
        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=0)
        for column, wide in widths.items():
            text = column in ("method", "verdict")
            table.add_column(
                column, width=wide, justify="left" if text else "right", no_wrap=column != "method", overflow="fold"
            )
        for entry in of_target:
            table.add_row(row_name(entry, of_target), *_cells(entry))
        shown.append(table)
    return shown


def _cells(entry: Mapping[str, Any]) -> list[str]:
    steps = entry["steps_to_threshold"]
    return [
        format_ratio(entry),
        f"{rounded(entry['auc']['iqm'], 3):.3f}",
        f"{rounded(entry['jumpstart']):+.2f}",
        f"{rounded(entry['final']):.2f}",
        "never" if steps is None else f"{steps / 1000:,.0f}k",
        "-" if entry["kept"] is None else f"{rounded(entry['kept']['iqm']):.2f}",
        f"[{VERDICT_STYLE[entry['verdict']]}]{entry['verdict']}[/]",
    ]


def notes(data: Mapping[str, Any]) -> list[str]:
    """Sentences under the table: alarms first, then what the numbers cost and how to read them."""
    lines = [
        f"Scores: 0 = random policy, 1 = expert. AUC: mean over training; jump: start minus scratch's start; final: "
        f"mean of the last tenth; steps: to {data['threshold']:g}, and held; kept: score on the source afterwards."
    ]
    lines += [
        f"NEGATIVE: {row_name(r, data['rows'])} on {r['target']} learns worse than scratch." + _why(r)
        for r in data["rows"]
        if r["verdict"] == "negative"
    ]
    failed = [stage for stage in data["stages"] if stage.get("error")]
    if failed:
        first = failed[0]
        lines.append(
            f"FAILED: {len(failed)} of {len(data['stages'])} stages; the first, {first['label']}: {first['error']}"
        )
    lines += [
        f"{r['method']} on {r['target']}: {r['missing_seeds']} seeds missing."
        for r in data["rows"]
        if r["missing_seeds"]
    ]
    few = min((r["seeds"] for r in data["rows"]), default=0)
    if 0 < few < 5:
        seeds = "1 seed" if few == 1 else f"{few} seeds"
        lines.append(f"Only {seeds}: intervals are too narrow and verdicts eager; use 5 or more for a claim.")
    if any(r["transfer_ratio"] is not None and r["transfer_ratio"]["iqm"] is None for r in data["rows"]):
        lines.append(
            "Where scratch's mean score is below 0.01 the ratio is undefined; "
            "a method that is surely above 0.01 gets a lower bound."
        )
    shown = {r["target"] for r in data["rows"]}
    estimated = [t for t, scale in data["bounds"].items() if scale["how"].startswith("estimated") and t in shown]
    if estimated:
        lines.append(
            f"Scores of {', '.join(estimated)} are scaled by estimates from this experiment, not by registered bounds: "
            f"0 is untrained scratch, 1 the best final return here."
        )
    mixed = [task for task, scale in data["bounds"].items() if scale["how"] == AVERAGED]
    if mixed:
        lines.append(
            f"Scores of {', '.join(mixed)} are on the mean of their tasks' scales, in which large returns weigh most; "
            f"metrics.jsonl has each task's own."
        )
    own_scale = {*estimated, *mixed}
    changed = [t for t, scale in data["bounds"].items() if "(" in t and t not in own_scale and scale["how"] != GIVEN]
    if changed:
        lines.append("Changed tasks are on the scale of the unchanged ones; give 'bounds' for another.")
    lines.append(f"{cost(data)} Curves compare equal steps on the target; pretraining comes on top.")
    return lines


def row_name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Its method, and where ``rows`` have several sources, which one it is from."""
    several = len({other["source"] for other in rows if other["source"]}) > 1
    return f"{row['method']} from {row['source']}" if several and row["source"] else str(row["method"])


def cost(data: Mapping[str, Any]) -> str:
    """What the stages took, in a sentence."""
    spent = {
        kind: sum(s["env_steps"] for s in data["stages"] if s["kind"] == kind)
        for kind in ("pretrain", "transfer", "consolidate")
    }
    memory = f" and {spent['consolidate']:,} of consolidation" if spent["consolidate"] else ""
    seconds = sum(s["seconds"] for s in data["stages"])
    return (
        f"Cost: {spent['pretrain']:,} env steps of pretraining, {spent['transfer']:,} of transfer{memory}, "
        f"{seconds / 60:.1f} minutes of one core."
    )


def _why(row: Mapping[str, Any]) -> str:
    return " It starts below an untrained network." if row["starts"] == "negative" else ""
