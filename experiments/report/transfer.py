"""Report of a transfer experiment: from finished stages to ``results.json`` and the closing table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from graft.envs.core.task import AVERAGED, Bounds, Task
from graft.experiments.config.experiment import GIVEN, Config
from graft.experiments.plan.stage import NOT_KEPT, Comparison, Graph, Stage
from graft.experiments.report import costs
from graft.experiments.report.common import (
    OWN_SCALE,
    TWO_GROUPS,
    Best,
    Name,
    audit_notes,
    bounded,
    clip_notes,
    diverged_words,
    estimate_bounds,
    evaluation_notes,
    failed_notes,
    fixed,
    format_score,
    format_signed,
    format_steps,
    has_scale,
    interval,
    is_estimated,
    resume_notes,
    score_table,
    seed_notes,
    stage_records,
    unfinished_notes,
)
from graft.experiments.report.races import of_records, race_notes
from graft.experiments.report.results import VERSION
from graft.experiments.store.records import COST, RACE, STARTS, Store
from graft.transfer import metrics
from graft.transfer.method import TransferMethod, label, to_json
from graft.transfer.metrics import Curve
from graft.transfer.statistics import interquartile_mean, is_bimodal, probability_of_improvement


@dataclass(frozen=True)
class TransferResult:
    """A comparison with the normalised curves of its finished seeds, and those of scratch.

    Attributes:
        missing: number of seeds whose stages failed or have not run. diverged: those of them that diverged.
        kept: per seed, the normalised score on the source after the transfer; empty where it is not measured.
        kept_of: per seed, the same before the transfer; empty where it is not known.
        not_kept: why ``kept`` is empty, a key of `NOT_KEPT`.
        env_steps: of one seed's pretraining, consolidation and transfer; None for a checkpoint that was given.
        scored: whether the target has a scale; else scores are returns.
        estimated: whether that is an estimate from this experiment.
        starts: per seed, scores before training of what the method could start from, and the name of what it took.
        finished: ids of the stages whose curves these are.
        races: per seed, what its record says of its race; empty where there was none.
    """

    comparison: Comparison
    curves: tuple[Curve, ...]
    scratch: tuple[Curve, ...]
    missing: int
    kept: tuple[float, ...] = ()
    kept_of: tuple[float, ...] = ()
    not_kept: str = ""
    env_steps: Mapping[str, int | None] = field(default_factory=dict)
    scored: bool = True
    estimated: bool = False
    starts: tuple[tuple[str, Mapping[str, float]], ...] = ()
    finished: tuple[str, ...] = ()
    diverged: int = 0
    races: tuple[Mapping[str, Any], ...] = ()

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
            kept = [_kept(graph, store, graph.stages[i]) for i in comparison.stages if store.done(i)]
            after, before = (tuple(s for s in scores if s is not None) for scores in zip(*kept, strict=True))
            races = _races(store, comparison)
            not_kept = comparison.not_kept
            if any(graph.stages[i].recall for i in comparison.stages):
                if any(one["kept"] == "scratch" for one in races):  # not a mean over the seeds that kept a transfer
                    after, before, not_kept = (), (), "scratch kept"
                elif not after:
                    not_kept = "no bounds"
            measured.append(
                TransferResult(
                    comparison,
                    curves,
                    scratch,
                    missing=len(comparison.stages) - len(curves),
                    diverged=_diverged(comparison, store),
                    kept=after,
                    kept_of=before if len(before) == len(after) else (),
                    not_kept=not_kept,
                    env_steps=_env_steps(store, comparison),
                    scored=has_scale(scale.how),
                    estimated=is_estimated(scale.how),
                    starts=_alternatives(store, comparison, scale),
                    finished=tuple(filter(store.done, comparison.stages)),
                    races=races,
                )
            )
    return measured


def uncompared(graph: Graph, store: Store) -> list[str]:
    """A sentence where runs on a target have finished, but none of scratch."""
    without = dict.fromkeys(
        str(c.target)
        for c in graph.comparisons
        if any(map(store.done, c.stages)) and not any(map(store.done, c.scratch))
    )
    return [
        f"No table of {', '.join(without)}: no run of scratch has finished there, with which all are compared; its "
        f"other runs are in {store.out}/stages."
    ][: len(without)]


def _alternatives(store: Store, comparison: Comparison, scale: Bounds) -> tuple[tuple[str, Mapping[str, float]], ...]:
    records = (store.record(i) or {} for i in comparison.stages if store.done(i))
    found = (record[STARTS] for record in records if STARTS in record)
    return tuple(
        (start["taken"], {name: scale.normalise(mean) for name, mean in start["return_means"].items()})
        for start in found
    )


def _races(store: Store, comparison: Comparison) -> tuple[Mapping[str, Any], ...]:
    records = (store.record(i) or {} for i in comparison.stages if store.done(i))
    return tuple(record[RACE] for record in records if RACE in record)


def _env_steps(store: Store, comparison: Comparison) -> dict[str, int | None]:
    def of_one_seed(stage_ids: Sequence[str]) -> int:
        return max(((store.record(i) or {}).get("env_steps", 0) for i in stage_ids), default=0)

    given = comparison.source is not None and not comparison.pretrain
    return {
        "pretrain": None if given else of_one_seed(comparison.pretrain),
        "consolidation": of_one_seed(comparison.consolidated),
        "transfer": of_one_seed(comparison.stages),
    }


def _stages_of_seeds(measured: TransferResult) -> tuple[list[list[str]], list[list[str]]]:
    """Of each finished seed: the stages before its transfer, where the experiment has them, and its transfer's."""
    c = measured.comparison
    number = {stage: k for k, stage in enumerate(c.stages)}
    before = [[ids[number[i]] for ids in (c.pretrain, c.consolidated) if ids] for i in measured.finished]
    return [ids for ids in before if c.pretrain], [[i] for i in measured.finished]


def _kept(graph: Graph, store: Store, stage: Stage) -> tuple[float | None, float | None]:
    """Score on the source after a transfer that is done, and before it; None where it is not measured, or unknown."""
    scale = stage.recall[0].scale if stage.recall else None
    if scale is None:
        return None, None
    record = store.record(stage.id) or {}
    if not record.get("recall"):  # of a race that scratch has won
        return None, None
    if "recall_before" in record:
        before = record["recall_before"][0]["return_mean"]
    else:
        before = _source_return(graph, store, stage)
    return scale.normalise(record["recall"][0]["return_mean"]), None if before is None else scale.normalise(before)


def _source_return(graph: Graph, store: Store, stage: Stage) -> float | None:
    """Mean return of the source's last evaluation, on its own task; None where a checkpoint does not say."""
    source = stage.source
    while source is not None and source in graph.stages and graph.stages[source].kind == "consolidate":
        source = graph.stages[source].source
    if source in graph.checkpoints:
        evaluation = graph.checkpoints[source].record.get("evaluation") or {}
        return evaluation.get("return_mean")
    return None if source is None else store.evaluations(source).scores[-1]


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
    comparable = not is_scratch and min(len(curves), len(scratch)) > 1  # nothing is compared by one seed
    return {
        "source": comparison.source,
        "target": str(comparison.target),
        "method": label(comparison.method),
        "seeds": len(curves),
        "missing_seeds": measured.missing,
        "diverged_seeds": measured.diverged,
        "evaluations": len(curves[0].steps),
        "scored": scored,
        "estimated": measured.estimated,
        "transfer_ratio": _transfer_ratio(areas, base) if comparable and scored else None,
        "auc": interval(areas),
        "areas": areas,
        "bimodal": scored and is_bimodal(areas),
        "zero_shot": interval(starts),
        "jumpstart": interquartile_mean(starts) - interquartile_mean(base_starts),
        "final": interquartile_mean(finals),
        "final_interval": interval(finals),
        "finals": finals,
        "domain_gap": _domain_gap(measured, starts),
        "asymptotic_gain": interquartile_mean(finals) - interquartile_mean(base_finals),
        "steps_to_threshold": _steps_to_threshold(curves, threshold) if scored else None,
        "transfer_efficiency": _transfer_efficiency(measured, threshold) if comparable else None,
        "data_efficiency": efficiency if comparable and efficiency is not None and np.isfinite(efficiency) else None,
        "forward_transfer": metrics.forward_transfer(interquartile_mean(areas), interquartile_mean(base))
        if scored
        else None,
        "kept": interval(measured.kept),
        "kept_of": interval(measured.kept_of),
        "not_kept": measured.not_kept or None,
        "heads": _heads(measured.starts),
        "race": of_records(measured.races),
        "gain": None if is_scratch else bounded(metrics.difference(areas, base).interval()),
        "probability_of_improvement": probability_of_improvement(areas, base) if comparable else None,
        "verdict": "baseline" if is_scratch else None,
        "verdict_alone": "baseline" if is_scratch else None,
        "starts": "baseline" if is_scratch else None,
        "p_value": None,
        "p_corrected": None,
        "env_steps": dict(measured.env_steps),
        "stages": list(measured.finished),
    }


def _diverged(comparison: Comparison, store: Store) -> int:
    """Seeds without a result as their transfer diverged, or what it starts from."""
    kinds = [ids for ids in (comparison.stages, comparison.pretrain, comparison.consolidated) if ids]
    return sum(any(map(store.diverged, of_seed)) for of_seed in zip(*kinds, strict=True))


def _domain_gap(measured: TransferResult, starts: Sequence[float]) -> dict[str, float | None] | None:
    """Score on the source before the transfer minus zero-shot score on the target, seed by seed."""
    if not measured.scored or len(measured.kept_of) != len(starts):
        return None
    return interval([before - start for before, start in zip(measured.kept_of, starts, strict=True)])


def _transfer_efficiency(measured: TransferResult, threshold: float) -> float | None:
    """`metrics.transfer_efficiency` by the steps to the threshold; None for controls, and where it is not known."""
    spent = measured.env_steps
    if measured.comparison.source is None or not measured.scored or spent.get("pretrain") is None:
        return None
    slow, fast = (_steps_to_threshold(curves, threshold) for curves in (measured.scratch, measured.curves))
    before = (spent["pretrain"] or 0) + (spent.get("consolidation") or 0)
    return None if slow is None or fast is None else metrics.transfer_efficiency(before, slow, fast)


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


def _but_for_heads(method: TransferMethod) -> Any:
    def stripped(value: Any) -> Any:
        if isinstance(value, list):
            return [stripped(entry) for entry in value]
        return {k: stripped(v) for k, v in value.items() if k != "heads"} if isinstance(value, dict) else value

    return stripped(to_json(method))


def rows(measured: Sequence[TransferResult], threshold: float) -> list[dict[str, Any]]:
    """All rows, with verdicts that allow for the number of methods on the same target."""
    made = [row(m, threshold) | {"better_heads": _better_heads(m, measured)} for m in measured]
    for target in dict.fromkeys(entry["target"] for entry in made):
        judged = [
            i
            for i, m in enumerate(measured)
            if made[i]["target"] == target and not m.is_scratch and min(len(m.curves), len(m.scratch)) > 1
        ]
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
    stages = stage_records(graph, store, failed)
    taken = [costs.of_seeds(store, *_stages_of_seeds(m), config.cost) for m in measured]
    return {
        "version": VERSION,
        "name": config.name,
        "threshold": config.threshold,
        "bounds": {str(task): scale._asdict() for task, scale in scales.items()},
        "rows": [entry | {COST: cost} for entry, cost in zip(rows(measured, config.threshold), taken, strict=True)],
        "not_kept": dict(graph.unplayable),
        "stages": stages,
        COST: costs.of_experiment(stages, config.cost),
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

NUMBERS = {"ratio [95 %]": 17, "AUC": 6, "zero-\nshot": 5, "final": 5, "steps": 5, "kept": 12}
"""Column of numbers in the closing table -> width."""

WIDE_NUMBERS = {"ratio [95 %]": 17, "AUC": 6, "zero-shot": 9, "jump": 6, "final": 6, "steps": 6, "kept": 13}
"""The same where the page has `WIDE` columns."""

LEAST_METHOD, VERDICT, WIDE = 15, 8, 100


def tables(rows: list[dict[str, Any]], width: int = 80) -> list[Table]:
    """The closing tables, one for each target, controls first; they fit ``width`` columns and line up."""
    wide = width >= WIDE
    numbers: dict[str, int] = WIDE_NUMBERS if wide else NUMBERS
    room = width - sum(numbers.values()) - len(numbers) - VERDICT - 1
    longest = max((len(row_name(row, rows) + diverged_words(row)) for row in rows), default=0)
    method = max(LEAST_METHOD, min(room, longest))
    made = []
    for target in dict.fromkeys(row["target"] for row in rows):
        of_target = [row for row in rows if row["target"] == target]
        sources = list(dict.fromkeys(row["source"] for row in of_target if row["source"]))
        widths = {"method": method, **numbers, "verdict": VERDICT}
        title = f"{' and '.join(sources)} → {target}" if sources else target
        table = score_table(title, widths, ("method", "verdict"))
        for entry in of_target:
            table.add_row(Name(row_name(entry, of_target) + diverged_words(entry)), *_cells(entry, wide))
        made.append(table)
    return made


def _cells(entry: Mapping[str, Any], wide: bool = False) -> list[str]:
    jump = f"{'' if entry['jumpstart'] < 0 and fixed(entry['jumpstart'])[0] == '-' else '+'}{fixed(entry['jumpstart'])}"
    return [
        format_ratio(entry["transfer_ratio"]),
        f"{fixed(entry['auc']['iqm'], 3)}{BIMODAL if entry['bimodal'] else ''}",
        format_score(entry["zero_shot"]),
        *([jump] if wide else []),
        fixed(entry["final"]),
        format_steps(entry["steps_to_threshold"]) if entry["scored"] else "-",
        kept_cell(entry),
        _verdict_cell(entry),
    ]


def kept_cell(entry: Mapping[str, Any]) -> str:
    """What was kept of the source, "0.42 of 0.55", or why it is not measured."""
    if entry["kept"] is None:
        return entry["not_kept"] or "-"
    of = "" if entry["kept_of"] is None else f" of {format_score(entry['kept_of'])}"
    return f"{format_score(entry['kept'])}{of}"


def _verdict_cell(entry: Mapping[str, Any]) -> str:
    """Without an alarm over a control, which is there to be beaten."""
    verdict = entry["verdict"]
    if verdict is None:
        return "-"
    style = "dim" if verdict == "negative" and entry["source"] is None else VERDICT_STYLE[verdict]
    return f"[{style}]{verdict}{sign_alone(entry)}[/]"


def sign_alone(entry: Mapping[str, Any]) -> str:
    """The sign of a verdict that holds for its row alone, but not among all of its table."""
    if entry["verdict"] == entry["verdict_alone"]:
        return ""
    return {"positive": "+", "negative": "-"}.get(entry["verdict_alone"], "")


def sign_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence on the signs beside verdicts."""
    if not any(sign_alone(entry) for entry in rows):
        return []
    return [
        "unclear+, unclear-: above or below scratch by its own interval (5 % of equal methods are), but not once the "
        "number of methods on this target is allowed for (Holm)."
    ]


def bimodal_notes(
    rows: Sequence[Mapping[str, Any]], seen: str = "curves.png and 'areas' in results.json show them."
) -> list[str]:
    """A sentence on the sign beside areas; ``seen``: where the groups are seen."""
    if not any(entry["bimodal"] for entry in rows):
        return []
    return [f"{BIMODAL}: {TWO_GROUPS} {seen}"]


def undefined_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence on ratios that are undefined."""
    if not any(r["transfer_ratio"] is not None and r["transfer_ratio"]["iqm"] is None for r in rows):
        return []
    return [
        "Where scratch's mean score is below 0.01 the ratio is undefined; "
        "a method that is surely above 0.01 gets a lower bound."
    ]


HEADS = {"fresh": "fresh", "by_name": "carried"}
"""Option of a method -> its word in sentences."""


def heads_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which heads methods took where no option said which, and where others were better."""
    alike: dict[tuple[str, str], list[str]] = {}
    for entry in rows:
        if entry["heads"]:
            name, taken = max(entry["heads"].items(), key=lambda item: item[1]["seeds"])
            seeds = sum(heads["seeds"] for heads in entry["heads"].values())
            share = "" if taken["seeds"] == seeds else f" in {taken['seeds']} of {seeds} seeds"
            start = ", ".join(
                f"{HEADS.get(other, other)} {heads['start']:.2f}" for other, heads in entry["heads"].items()
            )
            what = f"{HEADS.get(name, name)}{share}, by the score before training ({start})"
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
        f"zero-shot, jump and final are mean returns; train for longer, or give the target 'bounds: [random, expert]'."
    ][: len(without)]


def negative_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each method that learned worse than scratch; controls are there to be beaten."""
    lines = []
    for entry in rows:
        if entry["verdict"] == "negative" and entry["source"] is not None:
            why = " It starts below an untrained network." if entry["starts"] == "negative" else ""
            lines.append(f"NEGATIVE: {row_name(entry, rows)} on {entry['target']} learns worse than scratch.{why}")
    return lines


def scale_notes(data: Mapping[str, Any]) -> list[str]:
    """Sentences on targets that have no scale, or one that was estimated, averaged, or of another task."""
    shown = {row["target"] for row in data["rows"]}
    scales = {task: scale for task, scale in data["bounds"].items() if task in shown}
    lines, estimated = _no_scale_notes(scales), [t for t, scale in scales.items() if is_estimated(scale["how"])]
    if estimated:
        lines.append(
            f"Scores of {', '.join(estimated)} are scaled by estimates from this experiment, not by registered bounds: "
            f"0 is untrained scratch, 1 the {OWN_SCALE} (its best final return)."
        )
    mixed = [task for task, scale in data["bounds"].items() if scale["how"] == AVERAGED]
    if mixed:
        lines.append(
            f"Scores of {', '.join(mixed)} are on the mean of their tasks' scales, in which large returns weigh most; "
            f"metrics.jsonl has each task's own."
        )
    registered = [
        task
        for task, scale in data["bounds"].items()
        if scale["how"] not in (AVERAGED, GIVEN) and has_scale(scale["how"]) and not is_estimated(scale["how"])
    ]
    if any("(" in task for task in registered):
        lines.append("Changed tasks are on the scale of the unchanged ones; give 'bounds' for another.")
    return lines


def score_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers of these rows are: on which scale, or mean returns."""
    scored = [bool(row["estimated"]) for row in rows if row["scored"] is not False]
    if not scored:
        return "Scores are mean returns, as there is no scale."
    own, other = f"0 = untrained scratch, 1 = {OWN_SCALE}", "0 = random policy, 1 = expert"
    said = own if all(scored) else f"{other}; where estimated, {own}" if any(scored) else other
    return f"Scores: {said}{'' if len(scored) == len(rows) else '; mean returns where there is no scale'}."


def notes(data: Mapping[str, Any]) -> list[str]:
    """Sentences under the table: alarms first, then what the numbers cost and how to read them."""
    rows = data["rows"]
    lines = [
        f"{score_words(rows)} AUC: mean over training; zero-shot: before any training on the target "
        f"(jump: minus scratch's); final: mean of the last tenth; steps: to {data['threshold']:g}, and held; kept: "
        f"score on the source afterwards, of the score before."
    ]
    lines += [*negative_notes(rows), *failed_notes(data), *unfinished_notes(data)]
    lines += evaluation_notes([entry["evaluations"] for entry in rows])
    lines += [*heads_notes(rows), *race_notes(rows), *sign_notes(rows), *bimodal_notes(rows), *seed_notes(rows)]
    lines += [*clip_notes(data), *audit_notes(data), *resume_notes(data)]
    lines += undefined_notes(rows)
    lines += [f"kept is not measured from {source}: {why}" for source, why in data.get("not_kept", {}).items()]
    reasons = dict.fromkeys(r["not_kept"] for r in rows if r["not_kept"] not in (None, "not playable"))
    lines += [f"kept, {reason}: not measured, as {NOT_KEPT[reason]}." for reason in reasons]
    lines += scale_notes(data)
    lines.append(f"{costs.sentence(data)} Curves compare equal steps on the target; pretraining comes on top.")
    return lines


def best(store: Store, measured: Sequence[TransferResult]) -> list[Best]:
    """The run with the best final score on each target."""
    found: dict[str, Best] = {}
    for m in measured:
        comparison, target = m.comparison, str(m.comparison.target)
        done = [(seed, i) for seed, i in zip(comparison.seeds, comparison.stages, strict=True) if store.done(i)]
        for (seed, stage), curve in zip(done, m.curves, strict=True):
            score = metrics.final_score(curve)
            if target not in found or score > found[target].score:
                source = f" from {comparison.source}" if comparison.source else ""
                found[target] = Best(target, f"{label(comparison.method)}{source}, seed {seed}", score, stage)
    return list(found.values())


def row_name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Its method, and its source where ``rows`` have several."""
    several = len({other["source"] for other in rows if other["source"]}) > 1
    return f"{row['method']} from {row['source']}" if several and row["source"] else str(row["method"])
