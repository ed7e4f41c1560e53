"""What reports of all kinds of experiments share: numbers of stages, tables, and sentences under them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from graft.agents.checkpoints.files import replace_file
from graft.envs.core.task import Bounds
from graft.errors import GraftError
from graft.experiments.plan.stage import Graph, Stage
from graft.experiments.stages.divergence import FACTOR
from graft.experiments.store.records import AUDIT, COST, DIVERGED, RACE, RESUMED, STARTS, Store
from graft.transfer import metrics
from graft.transfer.metrics import LEAST_SEEDS
from graft.transfer.statistics import FloatArray, Interval, interquartile_mean, iqm_interval

UNLEARNED = "none, as no run ends above untrained scratch"
NO_SCRATCH = "none, as no run of scratch has finished"
"""`Bounds.how` where there is no scale."""

LEAST_SPAN = 1e-6
"""Of estimated bounds, relative to the larger of them: less is the error of rounding."""

ENOUGH_SEEDS = 5

ENOUGH_EVALUATIONS = 5
"""Of a training, the first before it: with fewer, AUC, steps to a threshold and the last tenth are of a few points."""

OWN_SCALE = "best of this experiment"
"""What a score of 1 is on a scale that was estimated."""

LEAST_NAME = 10
"""Letters in a line of a name, in a table that is short of room."""

TWO_GROUPS = (
    "the seeds fall into two groups, such as those that learned and those that did not; the mean describes neither, "
    "and its interval may be too narrow."
)


def write_file(path: Path, data: bytes, otherwise: str) -> None:
    """Write a file in one step, and its folder; raises GraftError, which says what to do ``otherwise``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise GraftError(f"{path} can't be written ({error.strerror}); {otherwise}.") from error


def estimate_bounds(store: Store, stages: Sequence[str], scratch: Sequence[str], expert: float = 1.0) -> Bounds:
    """Scale of a task. Random: scratch before training. Expert: the best final return of the stages that trained.

    Where that is not above every untrained network, nothing was learned, and there is no scale: Bounds(0, ``expert``),
    by which returns stay as they are (1), or are all 0 (infinity).
    """
    curves = {i: store.evaluations(i) for i in stages if store.done(i)}
    untrained = [curves[i].scores[0] for i in scratch if i in curves]
    if not untrained:
        return Bounds(0.0, expert, NO_SCRATCH)
    low, best = float(np.mean(untrained)), max(metrics.final_score(curve) for curve in curves.values())
    if best <= max(untrained) or best - low <= LEAST_SPAN * max(abs(best), abs(low)):
        return Bounds(0.0, expert, UNLEARNED)
    how = "estimated from this experiment: untrained scratch, and the best final return; give 'bounds' to fix it"
    return Bounds(low, best, how)


def is_estimated(how: str) -> bool:
    """Whether bounds obtained like this (`Bounds.how`) are an estimate from the experiment's own runs."""
    return how.startswith("estimated")


def has_scale(how: str) -> bool:
    """Whether bounds obtained like this (`Bounds.how`) are a scale."""
    return how not in (UNLEARNED, NO_SCRATCH)


def fixed(value: float, digits: int = 2) -> str:
    """``value`` with ``digits`` decimals, fewer from 10 on (raw returns), without the sign of a zero."""
    shown = round(value, digits) + 0.0
    return f"{shown:.{max(0, digits + 1 - len(str(int(abs(shown)))))}f}"


def bounded(found: Interval) -> dict[str, float | None]:
    """An interval for JSON: None for a bound that is infinite."""
    return {name: value if np.isfinite(value) else None for name, value in found._asdict().items()}


def interval(values: Sequence[float]) -> dict[str, float | None] | None:
    """Interquartile mean with its 95 % interval, for JSON; None where a value is missing or not a number."""
    return None if not len(values) or np.isnan(values).any() else bounded(iqm_interval(values))


def band(scores: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Interquartile mean over seeds of a learning curve (S, T), and both ends of its 95 % interval, each (T,).

    The ends of a single seed are empty.
    """
    mean = interquartile_mean(scores, axis=0)
    if len(scores) == 1:
        return mean, np.array([]), np.array([])
    found = [iqm_interval(column) for column in scores.T]
    return mean, np.array([one.low for one in found]), np.array([one.high for one in found])


def env_steps(store: Store, stage_ids: Sequence[str]) -> int:
    """Env steps that the finished of these stages took."""
    return sum((store.record(i) or {}).get("env_steps", 0) for i in stage_ids)


def stage_records(graph: Graph, store: Store, failed: Mapping[str, str]) -> list[dict[str, Any]]:
    """Status, cost and error of every stage."""
    stages = []
    for stage in graph.stages.values():
        record = store.record(stage.id) or {"status": "waiting"}
        diverged = record["status"] == DIVERGED
        stages.append(
            {
                "id": stage.id,
                "kind": stage.kind,
                "label": stage.label,
                "status": record["status"] if diverged or stage.id not in failed else "failed",
                "env_steps": record.get("env_steps", 0),
                "seconds": record.get("seconds", 0.0),
                "error": record.get("error") if diverged else failed.get(stage.id),
            }
            | {
                name: record[name]
                for name in ("return_means", "faults", STARTS, RESUMED, DIVERGED, COST, RACE)
                if name in record
            }
            | _above(stage, store)
            | ({"clipped": {"task": str(stage.task), **record["clipped"]}} if "clipped" in record else {})
        )
    return stages


def _above(stage: Stage, store: Store) -> dict[str, Any]:
    """Of each ``audit/`` metric of a stage that went above its limit: its limit, its largest value and when."""
    found = {}
    for tag, limit in stage.audit.items() if store.done(stage.id) else ():
        largest = store.largest(stage.id, tag)
        if largest is not None and largest[0] > limit:
            found[tag] = {"limit": limit, "largest": largest[0], "env_steps": largest[1]}
    return {AUDIT: found} if found else {}


def format_signed(value: float) -> str:
    """With its sign and two significant digits or more: ``+1.5``, ``+34``."""
    return f"{value:+.1f}" if abs(value) < 10 else f"{value:+.0f}"


def format_score(values: Mapping[str, float | None] | None, separator: str | None = None) -> str:
    """A cell of a table: the interquartile mean, with its interval where a separator of the bounds is given.

    A single seed has no interval.
    """
    if values is None or (iqm := values["iqm"]) is None:
        return "-"
    low, high = values["low"], values["high"]
    if separator is None or low is None or high is None:
        return fixed(iqm)
    return f"{fixed(iqm)} [{fixed(low)}{separator}{fixed(high)}]"


def format_steps(steps: float | None) -> str:
    """Env steps in thousands; "never" for None."""
    return "never" if steps is None else f"{steps / 1000:,.0f}k"


def score_table(title: str, widths: Mapping[str, int | None], text: Sequence[str] = ("method",)) -> Table:
    """An empty table with columns of these widths (None: as needed); those of ``text`` are left-aligned.

    Columns of numbers get wider where a number needs it, and those of text narrower: no digit is folded or cut off.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for column, width in widths.items():
        if column in text:  # the heading keeps the width where there is room
            least = min(width or LEAST_NAME, LEAST_NAME)
            table.add_column(column.ljust(width or 0), min_width=least, max_width=width, overflow="fold")
        else:
            table.add_column(column, min_width=width, justify="right", no_wrap=True)
    return table


class Name:
    """A name in a cell of a table: in as many lines as its column has room for (`in_lines`)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(in_lines(self._name, options.max_width), overflow="fold")

    def __rich_measure__(self, _: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(LEAST_NAME, len(self._name)), len(self._name))


BREAKS = (r"[(]?[^(,]+,?\s?|[(],?", r"[^ ]* |[^ ]+", r"[^_=.:/]*[_=.:/]|[^_=.:/]+")
"""Patterns of a name's pieces: what stands between brackets and commas; words; what is between signs in a word."""


def in_lines(name: str, width: int) -> str:
    """A name in lines of ``width`` letters where it can be, never broken in a word (`BREAKS`)."""
    pieces = [name]
    for pattern in BREAKS:
        split = (re.findall(pattern, piece) if len(piece.rstrip()) > width else [piece] for piece in pieces)
        pieces = [part for parts in split for part in parts]
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append(piece)
        else:
            lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def seed_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on missing and on few seeds."""
    lines = [
        f"{_of_row(row)}: {row['missing_seeds']} seeds missing{diverged_words(row)}."
        for row in rows
        if row["missing_seeds"]
    ]
    few = min((row["seeds"] for row in rows), default=ENOUGH_SEEDS)
    if 0 < few < ENOUGH_SEEDS:
        why = "it has no interval, ratio or verdict" if few == 1 else "intervals are wide"
        lines.append(f"Only {few} seed{'s' if few > 1 else ''}: {why}; use {ENOUGH_SEEDS} or more for a claim.")
    lacking = {_of_row(row): LEAST_SEEDS - row["seeds"] for row in rows if row["seeds"] < LEAST_SEEDS}
    if lacking and any("verdict" in row for row in rows):
        each = ", ".join(f"{name} lacks {count}" for name, count in lacking.items())
        if len(rows) > 1 and len(lacking) == len(rows) and len(set(lacking.values())) == 1:
            each = f"each method lacks {next(iter(lacking.values()))}"
        lines.append(f"A verdict needs {LEAST_SEEDS} seeds of the method and of scratch: {each}.")
    return lines


def diverged_words(row: Mapping[str, Any]) -> str:
    """How many seeds of a row diverged, to follow its name; nothing where none did."""
    return f", {row['diverged_seeds']} diverged" if row.get("diverged_seeds") else ""


def evaluation_notes(counts: Sequence[int]) -> list[str]:
    """A sentence where a training has few evaluations; ``counts``: of each training, the one before it included."""
    few = min(counts, default=ENOUGH_EVALUATIONS)
    if few >= ENOUGH_EVALUATIONS:
        return []
    if few == 1:
        return ["Nothing is trained on the target (transfer.steps is 0): every score is the zero-shot score."]
    return [
        f"WARNING: only {few} evaluations in a training, the one before it included: AUC, steps and final are of too "
        f"few points; lower evaluation.every, or train for longer ({ENOUGH_EVALUATIONS} or more)."
    ]


def _of_row(row: Mapping[str, Any]) -> str:
    return f"{row['method']} on {row['target']}" if "target" in row else str(row["method"])


def clip_notes(data: Mapping[str, Any]) -> list[str]:
    """A sentence for each task whose observations left their bounds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for stage in data["stages"]:
        if "clipped" in stage:
            found.setdefault(stage["clipped"]["task"], []).append(stage["clipped"])
    return [
        f"WARNING: {sum(stage['observations'] for stage in clipped):,} observations of {task} left their space and "
        f"were clipped to its bounds; the first: {clipped[0]['first']}. Mend the bounds, or pass such values on with "
        f"kwargs: {{faults: {{outside: false}}}}."
        for task, clipped in found.items()
    ]


def audit_notes(data: Mapping[str, Any]) -> list[str]:
    """A sentence for each ``audit/`` metric that went above its limit in a training."""
    found: dict[tuple[str, float], list[str]] = {}
    for stage in data["stages"]:
        for tag, above in stage.get(AUDIT, {}).items():
            where = f"{stage['label']} ({above['largest']:.3g} at {above['env_steps']:,} env steps)"
            found.setdefault((tag, above["limit"]), []).append(where)
    return [f"WARNING: {tag} went above {limit:g}: {', '.join(where)}." for (tag, limit), where in found.items()]


def resume_notes(data: Mapping[str, Any]) -> list[str]:
    """A sentence that names the stages that were stopped and went on with fresh episodes."""
    found = [
        f"{stage['label']} (at {', '.join(f'{steps:,}' for steps in stage[RESUMED]['env_steps'])} env steps)"
        for stage in data["stages"]
        if RESUMED in stage
    ]
    if not found:
        return []
    return [
        f"Stopped, and gone on with fresh episodes, as the state of their environments cannot be saved: "
        f"{', '.join(found)}. Their results are not those of an undisturbed run to the last bit."
    ]


class Best(NamedTuple):
    """The best run on a task. ``who``: its method and seed. ``stage``: id of the one that made its network."""

    task: str
    who: str
    score: float
    stage: str


def best_notes(store: Store, best: Sequence[Best]) -> list[str]:
    """Where the networks with the best scores are, and how to see one play."""
    if not best:
        return []
    lines = [f"  {one.task}: {one.who}, score {fixed(one.score)}: {store.folder(one.stage)}/checkpoint" for one in best]
    see = f"See one play: graft watch {shlex.quote(str(store.folder(best[0].stage)))} --gif agent.gif"
    return ["Best agents, by their final score:", *lines, f"{see} (from Python: docs/python.md)"]


def failed_notes(data: Mapping[str, Any]) -> list[str]:
    """Sentences where stages failed or diverged, and where some were trained at a smaller learning rate than asked."""
    stages = data["stages"]
    diverged = [stage for stage in stages if stage.get("status") == DIVERGED]
    failed = [stage for stage in stages if stage.get("error") and stage not in diverged]
    lines = [
        f"{word}: {len(some)} of {len(stages)} stages{then}; the first, {some[0]['label']}: {some[0]['error']}"
        for word, then, some in (("FAILED", "", failed), ("DIVERGED", ", which count in no mean", diverged))
        if some
    ]
    slower = [
        f"{stage['label']} ({len(tries)} times; at {FACTOR * tries[-1]['learning_rate']:g} instead of "
        f"{tries[0]['learning_rate']:g})"
        for stage in stages
        if (tries := stage.get(DIVERGED)) and stage not in diverged
    ]
    if slower:
        lines.append(f"WARNING: these diverged, and were trained at a smaller learning rate: {', '.join(slower)}.")
    return lines


def unfinished_notes(data: Mapping[str, Any]) -> list[str]:
    """A sentence where stages have not run to their end, nor failed."""
    waiting = sum(stage.get("status", "done") not in ("done", "failed", DIVERGED) for stage in data["stages"])
    if not waiting:
        return []
    return [f"UNFINISHED: {waiting} of {len(data['stages'])} stages have not ended; these are the results so far."]
