"""The results of a patch check as sections of tables, which the terminal and the page show alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as TextTable
from rich.text import Text

from graft.experiments.patching.check import HOLD, why_not_kept
from graft.experiments.report.common import fixed, format_score
from graft.experiments.report.conclusions import fates
from graft.experiments.report.page.cells import NONE, Cell, Section, Table
from graft.experiments.report.progress import duration
from graft.experiments.report.races import outcome
from graft.experiments.report.schema_changes import Change
from graft.transfer.transplant_report import TensorRow

Data = Mapping[str, Any]
TONES = {"positive": "bold green", "negative": "bold red"}


def schemas(data: Data) -> Section:
    """What changed in the names of observations and actions."""
    changes = [Change(**change) for change in data["schema_changes"]]
    rows = [[Cell(change.what), Cell(change.change), Cell(change.text)] for change in changes]
    tables = [Table("", ["of", "change", "which"], rows, numbers=False)] if rows else []
    none = ["Observations and actions are the same, by name and bounds; only rules changed."] if not rows else []
    return Section("What changed in the schemas", none, tables)


def transplant(data: Data) -> Section:
    """What of the agent is carried over to the new build."""
    rows = [TensorRow(**row) for row in data["transplant"]["rows"]]
    title = "Transplant, as the agent plays untrained"
    if data["transplant"]["same"]:
        return Section(title, ["The agent plays the new build as it is: every weight is its own."])
    copied = sum(row.status == "copied" for row in rows)
    found = [
        [Cell(fate.names), Cell(fate.status), Cell(f"{fate.share:.0%}"), Cell(fate.detail)]
        for fate in fates([row for row in rows if row.status != "copied"])
    ]
    note = f"{copied} of {len(rows)} tensors are copied whole{'' if found else ', which is all of them'}."
    tables = [Table("", ["tensor", "status", "from agent", "detail"], found, numbers=False)] if found else []
    return Section(title, [note], tables)


def zero_shot(data: Data) -> Section:
    """The agent on both builds, before any training."""
    found = data["zero_shot"]
    head = ["build", "return", *(["score"] if data["scored"] else []), "episodes"]
    rows = [
        [
            Cell(f"{which}: {data[which]}"),
            _mean(found[which]["return"]),
            *([_mean(found[which]["score"])] if data["scored"] else []),
            Cell(f"{found[which]['episodes']:,}", (found[which]["episodes"],)),
        ]
        for which in ("old", "new")
    ]
    notes = ["Return: sum of an episode's rewards, in the game's own units. In brackets: 95 % intervals of the mean."]
    if data["scored"]:
        notes.append("Score: 0 is a random policy, 1 an expert.")
    share = found["share"]
    left = "The old score is 0, so there are no shares of it." if share is None else ""
    return Section(
        "Before any training", [*notes, left or f"Left of the old score: {_mean(share).text}."], [Table("", head, rows)]
    )


def scenarios(data: Data) -> Section | None:
    """What each scenario measured; None where there are none."""
    rows = [
        [
            Cell(s["name"]),
            verdict(s["passed"]),
            Cell(fixed(s["measured"]), (s["measured"],)),
            Cell(_limits(s)),
            Cell(s["measure"]),
            Cell(", ".join([s["on"], *(f"{key}={value}" for key, value in s["kwargs"].items())])),
            Cell(str(s["episodes"])),
        ]
        for s in data["scenarios"]
    ]
    head = ["scenario", "", "measured", "allowed", "what", "build", "episodes"]
    return Section("Scenarios, before any training", (), [Table("", head, rows, numbers=False)]) if rows else None


def methods(data: Data) -> Section | None:
    """What each method takes, brings and costs; None where nothing was trained."""
    if not data["methods"]:
        return None
    head = ["method", "recovered after", "core time", "final", "of old", "forgotten on old"]
    rows = [
        [
            Cell(f"{m['method']} (control)" if m["control"] else m["method"]),
            _recovery(m),
            NONE if m["recovery_seconds"] is None else Cell(duration(m["recovery_seconds"]), (m["recovery_seconds"],)),
            NONE if m["final"] is None else _mean(m["final"]),
            NONE if m["final_share"] is None else Cell(percent(m["final_share"]), (m["final_share"],)),
            _forgotten(m),
        ]
        for m in data["methods"]
    ]
    unit = "score" if data["scored"] else "return"
    trained = [m for m in data["methods"] if m["seeds"]]
    hold = min((m["hold"] for m in trained), default=HOLD)
    steps = max((m["env_steps"] for m in trained), default=data["steps"])
    notes = [
        f"Recovered: {percent(data['recover'])} of the old score, held for {hold} evaluations; median of the seeds, in "
        f"env steps of the new build and minutes of one core. Final: {unit} in the last tenth of {steps:,} env steps. "
        f"Forgotten: share of the old score that the final network has lost on the old build, on the levels of the old "
        f"score; below zero it gained. Both are means over seeds, in brackets with their 95 % intervals."
    ]
    reasons = dict.fromkeys(m["not_kept"] for m in data["methods"] if m["not_kept"] and not m["control"])
    notes += [f"{m['method']}: {outcome(m['race'])}" for m in data["methods"] if m.get("race")]
    notes += [f"Not measured what was forgotten: {why_not_kept(reason)}." for reason in reasons]
    notes += [
        f"FAILED: {m['missing_seeds']} trainings of {m['method']}: {m['error'] or 'they have not run'}"
        for m in data["methods"]
        if m["missing_seeds"]
    ]
    if data["seeds"] < 3:
        notes.append("Fewer than 3 seeds: another run may well come out otherwise.")
    return Section("Training on the new build", notes, [Table("", head, rows)])


def gates(data: Data) -> Section:
    """Whether each gate and scenario passed, and the trainings that failed."""
    rows = [[Cell(g["gate"]), verdict(g["passed"]), Cell(g["measured"])] for g in data["gates"]]
    rows += [
        [Cell(f"scenario: {s['name']}"), verdict(s["passed"]), Cell(f"{fixed(s['measured'])}, allowed {_limits(s)}")]
        for s in data["scenarios"]
    ]
    none = [] if rows else ["The file has no gates and no scenarios, so nothing can fail but trainings."]
    rows += [
        [Cell(f"training: {one['training']}"), verdict(False), Cell(one["error"])] for one in data.get("failed", ())
    ]
    tables = [Table("", ["gate", "", "measured"], rows, numbers=False)] if rows else []
    return Section("Gates", none, tables)


def percent(share: float) -> str:
    """In whole percents, without the sign of a zero."""
    return f"{round(100 * share) + 0:d} %"


def verdict(passed: bool) -> Cell:
    return Cell("PASS", tone="positive") if passed else Cell("FAIL", tone="negative")


def _mean(values: Mapping[str, float | None]) -> Cell:
    ends = {"iqm": values["mean"], "low": values["low"], "high": values["high"]}
    return Cell(format_score(ends, ", "), tuple(ends.values()))


def _limits(scenario: Data) -> str:
    low, high = scenario["min"], scenario["max"]
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"{low:g} or more" if low is not None else f"{high:g} or less"


def _recovery(method: Data) -> Cell:
    if method["final_share"] is None:  # no seed, or nothing is a share of the old score
        return NONE
    steps, reached = method["recovery_steps"], method["reached_steps"]
    if steps is not None:
        return Cell(f"{steps:,.0f} steps", (steps,))
    if reached is not None:
        return Cell(f"reached at {reached:,.0f}, not held for {method['hold']}")
    return Cell(f"not within {method['env_steps']:,}")


def _forgotten(method: Data) -> Cell:
    if method["control"]:
        return NONE
    if method["forgotten"] is None:
        return Cell(f"- ({method['not_kept']})" if method["not_kept"] else "-")
    return _mean(method["forgotten"])


def show(console: Console, section: Section | None) -> None:
    """Print a section; names of others are text, never markup."""
    if section is None:
        return
    console.print(Text(section.title, "bold"))
    for table in section.tables:
        console.print(_text_table(table))
    for note in section.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print()


def _text_table(table: Table) -> TextTable:
    made = TextTable(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for k, column in enumerate(table.head):
        right = k > 0 and table.numbers
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(cell.text, TONES.get(cell.tone, "")) for cell in row))
    return made


def all_sections(data: Data, curves: Sequence[Section | None] = ()) -> list[Section]:
    """Those that have something to say, in their order."""
    made = [schemas(data), transplant(data), zero_shot(data), scenarios(data), methods(data), *curves, gates(data)]
    return [section for section in made if section is not None]
