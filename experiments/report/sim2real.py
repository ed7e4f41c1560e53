"""Report of a sim-to-real proxy: zero-shot score, gap, recovery, worst episodes and forgetting on the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from graft.agents.training.evaluate import WORST
from graft.envs.core.task import Bounds, Task
from graft.experiments.plan.stage import Comparison, Graph
from graft.experiments.report.common import Name, format_score, format_steps, has_scale, interval
from graft.experiments.store.records import Store
from graft.transfer import metrics
from graft.transfer.method import label

RECOVERED = 0.9
"""Share of the score in the simulator at which an agent has recovered."""

WORST_TAG = "eval/return_worst_tenth"

COLUMNS = ("zero-shot [95 %]", "gap", "90 %", "final", "worst", "then", "forgot")


def rows(graph: Graph, store: Store, scales: Mapping[Task, Bounds]) -> list[dict[str, Any]]:
    """A row for every comparison whose stages are finished, in normalised score; fields as in docs/sim-to-real.md.

    Each is an interquartile mean over seeds with its 95 % interval, or None where it is not defined.
    """
    made = [_row(comparison, store, scales[comparison.target]) for comparison in graph.comparisons]
    return [row for row in made if row is not None]


def _row(comparison: Comparison, store: Store, scale: Bounds) -> dict[str, Any] | None:
    pairs = zip(comparison.stages, comparison.pretrain or [None] * len(comparison.stages), strict=True)
    done = [(stage, source) for stage, source in pairs if store.done(stage)]
    if not done:
        return None
    curves = [store.evaluations(stage, scale) for stage, _ in done]
    worst = [store.evaluations(stage, scale, WORST_TAG) for stage, _ in done]
    simulator = [metrics.final_score(store.evaluations(source, scale)) for _, source in done if source is not None]
    steps, gaps = None, []
    if simulator:
        thresholds = [score - (1 - RECOVERED) * abs(score) for score in simulator]
        reached = [metrics.steps_to_threshold(c, level) for c, level in zip(curves, thresholds, strict=True)]
        steps = metrics.aggregate_steps_to_threshold(reached) if has_scale(scale.how) else None
        gaps = [s - c.scores[0] for c, s in zip(curves, simulator, strict=True)]
    forgotten = [lost for stage, _ in done if (lost := _forgotten(store, stage, scale)) is not None]
    return {
        "source": comparison.source,
        "target": str(comparison.target),
        "method": label(comparison.method),
        "seeds": len(done),
        "scored": has_scale(scale.how),
        "simulator": interval(simulator),
        "zero_shot": interval([c.scores[0] for c in curves]),
        "gap": interval(gaps),
        "recovery_steps": steps,
        "final": interval([metrics.final_score(c) for c in curves]),
        "worst_at_first": interval([c.scores[0] for c in worst]),
        "worst_at_last": interval([metrics.final_score(c) for c in worst]),
        "forgotten": interval(forgotten),
    }


def _forgotten(store: Store, stage: str, scale: Bounds) -> float | None:
    record = store.record(stage) or {}
    before, after = record.get("recall_before"), record.get("recall")
    if not before or not after:
        return None
    return scale.normalise(before[0]["return_mean"]) - scale.normalise(after[0]["return_mean"])


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The closing table."""
    title = "Sim-to-sim proxy of a transfer to reality"
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    made.add_column("source", overflow="fold", min_width=10)
    made.add_column("method", overflow="fold", min_width=13)
    for column in COLUMNS:
        made.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(
            Name(row["source"] or "-"),
            Name(row["method"]),
            format_score(row["zero_shot"], ","),
            format_score(row["gap"]),
            "-" if row["simulator"] is None or not row["scored"] else format_steps(row["recovery_steps"]),
            *(format_score(row[name]) for name in ("final", "worst_at_first", "worst_at_last", "forgotten")),
        )
    return made


NOTE = (
    f"The target is a simulation as well, whose parameters are not those of training: a sim-to-sim proxy. gap: the "
    f"source's score in its own simulation minus zero-shot; {RECOVERED:.0%}: median steps to that share of it; "
    f"worst, then: mean of the worst {WORST:.0%} of episodes (CVaR) before and after; forgot: score on the unchanged "
    f"task before minus after."
)
