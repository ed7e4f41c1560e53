"""From a search's ledger and stages to its closing table and `tune.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.report import unsigned
from experiments.store import Store
from experiments.tuning.ledger import Known, TrialLedger
from experiments.tuning.plan import Plan, final_interval
from experiments.tuning.population import Population
from experiments.tuning.search import Search, Trial, short, shown_value
from experiments.tuning.work import SCORE, STEPS

MEANING = {
    "auc": "mean normalised score over training",
    "final": "normalised score of the last tenth of training",
    "balance": "mean of the final normalised score and of what was kept of the source",
}
"""Of the metrics."""

NOT_YET = "waiting"


def trial_rows(
    search: Search, trials: Sequence[Trial], plans: Mapping[str, Plan], store: Store, ledger: TrialLedger
) -> list[dict[str, Any]]:
    """A record of each trial, best first: those that were trained to their end, then others by how far they came."""
    rows = []
    for trial in trials:
        known, plan = ledger.trial(trial.id), plans[trial.id]
        row = _row(trial.id, trial.index, trial.values, known, plan.budget) | {"command": search.command(trial.values)}
        row["stages"] = [run.stage.id for run in plan.runs if store.record(run.stage.id) is not None]
        if known.status == "done":
            row["score"], low, high = final_interval(search.metric, store, plan.runs)
            row["interval"] = [low, high]
        rows.append(row)
    return _ranked(rows)


def member_rows(
    search: Search, population: Population, members: Sequence[Trial], ledger: TrialLedger
) -> list[dict[str, Any]]:
    """A record of each member of a population, best first, with where it came from."""
    owners: dict[str, str] = {}
    for member in members:
        for report in ledger.trial(str(member.index)).reports:
            owners.update(dict.fromkeys(report["stages"], str(member.index)))
    rows = []
    for member in members:
        known = ledger.trial(str(member.index))
        last: Mapping[str, Any] = {"values": member.values, "stages": []}
        last = known.reports[-1] if known.reports else last
        row = _row(str(member.index), member.index, last["values"], known, population.plan.budget)
        row |= {"stages": last["stages"], "lineage": lineage(last, ledger, owners)}
        rows.append(row | {"command": search.command(last["values"])})
    return _ranked(rows)


def lineage(last: Mapping[str, Any], ledger: TrialLedger, owners: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a member's network went through, first to last: who trained it in each generation, and with what."""
    by_stage = {
        stage: report for known in ledger.trials.values() for report in known.reports for stage in report["stages"]
    }
    found: list[dict[str, Any]] = []
    report: Mapping[str, Any] | None = last if last["stages"] else None
    while report is not None:
        member = owners[report["stages"][0]]
        keys = ("generation", STEPS, SCORE, "values", "stages")
        found.insert(0, {"member": member, **{key: report[key] for key in keys}})
        report = by_stage[report["parents"][0]] if report["parents"] else None
    return found


def _row(name: str, index: int, values: Mapping[str, Any], known: Known, budget: int) -> dict[str, Any]:
    last = known.reports[-1] if known.reports else {}
    return {
        "id": name,
        "index": index,
        "values": dict(values),
        "status": known.status or ("running" if known.reports else NOT_YET),
        "error": known.error,
        "score": last.get(SCORE),
        "interval": None,
        "env_steps": last.get(STEPS, 0),
        "budget": budget,
        "reports": [[report[STEPS], report[SCORE]] for report in known.reports],
    }


def _ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def rank(row: Mapping[str, Any]) -> tuple[bool, float, float]:
        score = row["score"] if row["score"] is not None else float("-inf")
        return row["status"] != "done", 0.0 if row["status"] == "done" else -row["env_steps"], -score

    return sorted(rows, key=rank)


def cost(store: Store, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Env steps that the search took: ``transfers`` of trials, and ``sources``: pretraining and consolidation."""
    sources = 0
    for folder in sorted((store.out / "stages").glob("*")) if (store.out / "stages").exists() else ():
        record = store.record(folder.name) or {}
        sources += record.get("env_steps", 0) if record.get("kind") != "transfer" else 0
    return {
        "transfers": sum(row["env_steps"] for row in rows),
        "transfers_without_stopping": sum(row["budget"] for row in rows),
        "sources": sources,
    }


def table(search: Search, rows: Sequence[Mapping[str, Any]], seeds: int) -> Table:
    """The closing table, best first."""
    made = Table(
        title=f"{search.name}: {search.metric}, {seeds} seed{'s' if seeds > 1 else ''}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )
    made.add_column("", justify="right")
    keys = list(search.space)
    for key in keys:
        made.add_column(short(key), justify="right", overflow="fold")
    for column in (f"{search.metric} [95 %]", "env steps", "status"):
        made.add_column(column, justify="left" if column == "status" else "right", no_wrap=True)
    for row in rows:
        values = row["values"]
        shown = [shown_value(values[key]) if key in values else "as it is" for key in keys]
        made.add_row(str(row["index"]), *shown, _score(row), f"{row['env_steps']:,}", _status(row))
    return made


def _score(row: Mapping[str, Any]) -> str:
    if row["score"] is None:
        return "-"
    shown = f"{unsigned(row['score'], 3):.3f}"
    if row["interval"] is None:
        return shown
    low, high = (unsigned(bound) for bound in row["interval"])
    return f"{shown} [{low:.2f}, {high:.2f}]"


def _status(row: Mapping[str, Any]) -> str:
    style = {"done": "green", "stopped": "dim", "failed": "bold red"}.get(row["status"], "yellow")
    return f"[{style}]{row['status']}[/]"


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
    best = rows[0]
    if best["status"] != "done":
        return lines
    if "lineage" in best:
        lines.append("The best network was trained with:")
        lines += [f"  {step}" for step in schedule(best["lineage"])]
        lines.append("The command trains with its last values from the start on, which is not the same:")
    else:
        lines.append(
            "The best of many looks better than it is; this trains it again, beside the controls. Add other seeds=[...]"
            " for a score that was not selected:"
        )
    return [*lines, f"  {best['command']}"]


def schedule(lineage: Sequence[Mapping[str, Any]]) -> list[str]:
    """A lineage in lines, a line for each change of values or member."""
    lines: list[str] = []
    begun = 0
    for step, following in zip(lineage, [*lineage[1:], None], strict=True):
        if following is None or any(following[key] != step[key] for key in ("member", "values")):
            lines.append(
                f"env steps {begun:,} to {step[STEPS]:,}, member {step['member']}: {short_values(step['values'])}"
            )
            begun = step[STEPS]
    return lines


def short_values(values: Mapping[str, Any]) -> str:
    """Values in a line."""
    return ", ".join(f"{short(key)} {shown_value(value)}" for key, value in values.items())
