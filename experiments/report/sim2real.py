"""How an agent fares on a stand-in for reality: at once, until it has recovered, at worst, and what it forgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from graft.agents.training.evaluate import WORST
from graft.envs.core.task import Bounds, Task
from graft.experiments.config.experiment import Config
from graft.experiments.plan.stage import Comparison, Graph
from graft.experiments.store.records import Store
from graft.transfer import metrics
from graft.transfer.method import label
from graft.transfer.metrics import Curve
from graft.transfer.statistics import interquartile_mean, iqm_interval

RECOVERED = 0.9
"""Share of the score in the simulator at which an agent has recovered."""

WORST_TAG = "eval/return_worst_tenth"


def rows(config: Config, graph: Graph, store: Store, scales: Mapping[Task, Bounds]) -> list[dict[str, Any]]:
    """A row for every comparison whose stages are finished, in normalised score.

    ``simulator``: of the source at the end of its own training; ``zero_shot``: on the target before any training
    there; ``gap``: the first minus the second; ``recovery_steps``: median steps until 0.9 of ``simulator`` is reached
    and held; ``worst_at_first`` and ``worst_at_last``: mean of the worst tenth of the episodes (CVaR) before and after
    training on the target; ``forgotten``: score on the target's ``recall`` before training on the target minus after.
    Each is an interquartile mean over seeds with its 95 % interval, or None where there is no such thing.
    """
    found = [_row(c, graph, store, scales[c.target]) for c in graph.comparisons]
    return [row for row in found if row is not None]


def _row(comparison: Comparison, graph: Graph, store: Store, scale: Bounds) -> dict[str, Any] | None:
    pairs = list(zip(comparison.stages, comparison.pretrain or [None] * len(comparison.stages), strict=True))
    done = [(stage, source) for stage, source in pairs if store.done(stage)]
    if not done:
        return None
    curves = [_scaled(store.evaluations(stage), scale) for stage, _ in done]
    worst = [_scaled(store.evaluations(stage, WORST_TAG), scale) for stage, _ in done]
    simulator = [metrics.final_score(_scaled(store.evaluations(s), scale)) for _, s in done if s is not None]
    steps, gaps = None, []
    if simulator:
        wanted = [score - (1 - RECOVERED) * abs(score) for score in simulator]
        reached = [metrics.steps_to_threshold(c, level) for c, level in zip(curves, wanted, strict=True)]
        steps = metrics.aggregate_steps_to_threshold(reached)
        gaps = [s - c.scores[0] for c, s in zip(curves, simulator, strict=True)]
    forgotten = [lost for stage, _ in done if (lost := _forgotten(store, stage, scale)) is not None]
    return {
        "source": comparison.source,
        "target": str(comparison.target),
        "method": label(comparison.method),
        "seeds": len(done),
        "simulator": _interval(simulator),
        "zero_shot": _interval([c.scores[0] for c in curves]),
        "gap": _interval(gaps),
        "recovery_steps": steps,
        "final": _interval([metrics.final_score(c) for c in curves]),
        "worst_at_first": _interval([c.scores[0] for c in worst]),
        "worst_at_last": _interval([metrics.final_score(c) for c in worst]),
        "forgotten": _interval(forgotten),
    }


def _scaled(curve: Curve, scale: Bounds) -> Curve:
    return Curve(curve.steps, [scale.normalise(score) for score in curve.scores])


def _forgotten(store: Store, stage: str, scale: Bounds) -> float | None:
    record = store.record(stage) or {}
    tried = [record.get(when) for when in ("recall_before", "recall")]
    if not all(tried):
        return None
    before, after = (scale.normalise(rows[0]["return_mean"]) for rows in tried if rows)
    return before - after


def _interval(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = iqm_interval(list(values))
    return {"iqm": float(interquartile_mean(list(values))), "low": found.low, "high": found.high}


COLUMNS = ("zero-shot [95 %]", "gap", "90 %", "final", "worst", "then", "forgot")


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The rows for people."""
    shown = Table(title="Sim-to-sim proxy of a transfer to reality", title_justify="left", box=SIMPLE_HEAD, padding=0)
    shown.add_column("source", overflow="fold", min_width=10)
    shown.add_column("method", overflow="fold", min_width=13)
    for column in COLUMNS:
        shown.add_column(column, justify="right", no_wrap=True)
    for row in found:
        steps = row["recovery_steps"]
        shown.add_row(
            escape(row["source"] or "-"),
            escape(row["method"]),
            _cell(row["zero_shot"], interval=True),
            _cell(row["gap"]),
            "-" if row["simulator"] is None else "never" if steps is None else f"{steps / 1000:,.0f}k",
            _cell(row["final"]),
            _cell(row["worst_at_first"]),
            _cell(row["worst_at_last"]),
            _cell(row["forgotten"]),
        )
    return shown


def _cell(value: Mapping[str, float] | None, interval: bool = False) -> str:
    if value is None:
        return "-"
    plain = f"{value['iqm'] + 0.0:.2f}"
    return f"{plain} [{value['low']:.2f},{value['high']:.2f}]" if interval else plain


NOTE = (
    f"The target is a simulation as well, whose parameters are not those of training: a sim-to-sim proxy. gap: the "
    f"source's score in its own simulation minus zero-shot; {RECOVERED:.0%}: median steps to that share of it; "
    f"worst, then: mean of the worst {WORST:.0%} of episodes (CVaR) before and after; forgot: score on the unchanged "
    f"task before minus after."
)
