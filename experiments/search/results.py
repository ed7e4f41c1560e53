"""From a search's trials and stages to its closing table and `tune.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE_HEAD
from rich.table import Table

from graft.experiments.report.common import fixed
from graft.experiments.search.definition import Search, short, shown
from graft.experiments.search.trials import STATES, Trials
from graft.experiments.store.records import Store

MEANING = {
    "auc": "mean normalised score over training",
    "final": "normalised score of the last tenth of training",
    "balance": "mean of the final normalised score and of what was kept of the source",
}


def trial_rows(trials: Trials, budget: int) -> list[dict[str, Any]]:
    """A record of each trial, best first: those that were trained to their end, then others by how far they came."""

    def rank(row: Mapping[str, Any]) -> tuple[bool, float, float]:
        done, score = row["status"] == "done", row["score"]
        return not done, 0.0 if done else -row["env_steps"], float("inf") if score is None else -score

    return sorted((_row(trials.search, trial, budget) for trial in trials.all().values()), key=rank)


def _row(search: Search, trial: FrozenTrial, budget: int) -> dict[str, Any]:
    known, reports = trial.user_attrs, sorted(trial.intermediate_values.items())
    return {
        "index": known["index"],
        "values": known["values"],
        "status": STATES[trial.state],
        "error": known.get("error"),
        "score": trial.value if trial.state == TrialState.COMPLETE else reports[-1][1] if reports else None,
        "interval": known.get("interval"),
        "env_steps": reports[-1][0] if reports else 0,
        "budget": budget,
        "reports": reports,
        "command": search.command(known["values"]),
        "stages": known.get("stages", []),
    }


def cost(store: Store, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Env steps that the search took: ``transfers`` of trials, and ``sources``: pretraining and consolidation."""
    records = [store.record(folder.name) or {} for folder in (store.out / "stages").glob("*")]
    return {
        "transfers": sum(row["env_steps"] for row in rows),
        "transfers_without_stopping": sum(row["budget"] for row in rows),
        "sources": sum(record.get("env_steps", 0) for record in records if record.get("kind") != "transfer"),
    }


def table(search: Search, rows: Sequence[Mapping[str, Any]], seeds: int) -> Table:
    """The closing table, best first."""
    title = f"{search.name}: {search.metric}, {seeds} seed{'s' if seeds > 1 else ''}"
    made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    made.add_column("", justify="right")
    for key in search.space:
        made.add_column(short(key), justify="right", overflow="fold")
    for column in (f"{search.metric} [95 %]", "env steps", "status"):
        made.add_column(column, justify="left" if column == "status" else "right", no_wrap=True)
    styles = {"done": "green", "stopped": "dim", "failed": "bold red"}
    for row in rows:
        values = [shown(row["values"][key]) if key in row["values"] else "as it is" for key in search.space]
        status = f"[{styles.get(row['status'], 'yellow')}]{row['status']}[/]"
        made.add_row(str(row["index"]), *values, _score(row), f"{row['env_steps']:,}", status)
    return made


def _score(row: Mapping[str, Any]) -> str:
    if row["score"] is None:
        return "-"
    text = fixed(row["score"], 3)
    if row["interval"] is None or None in row["interval"]:  # unfinished, or with groups of a single seed
        return text
    low, high = map(fixed, row["interval"])
    return f"{text} [{low}, {high}]"


def notes(search: Search, rows: Sequence[Mapping[str, Any]], spent: Mapping[str, int]) -> list[str]:
    """Sentences under the table."""
    lines = [
        f"{search.metric}: {MEANING[search.metric]}; interquartile mean of targets and seeds. Env steps: of transfers."
    ]
    if any(row["status"] == "stopped" for row in rows):
        lines[0] += " A stopped trial's score is that of its few steps, and no match for those of whole trials."
    lines += [f"FAILED: trial {row['index']}: {row['error']}" for row in rows if row["status"] == "failed"]
    whole = spent["transfers_without_stopping"]
    share = f" ({1 - spent['transfers'] / whole:.0%} less than without stopping)" if spent["transfers"] < whole else ""
    lines.append(
        f"Cost: {spent['transfers']:,} env steps of transfers{share}, {spent['sources']:,} of what they start from."
    )
    if rows and rows[0]["status"] == "done":
        lines.append(
            "The best of many looks better than it is; this trains it again, beside the controls. Add other seeds=[...]"
            " for a score that was not selected:"
        )
        lines.append(f"  {rows[0]['command']}")
    return lines
