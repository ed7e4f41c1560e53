"""What a report's page shows, as its template takes it: cells, tables and sections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from graft.experiments.report import transfer
from graft.experiments.report.common import fixed, format_score
from graft.experiments.report.page.charts import Chart
from graft.experiments.report.run_folder import Row, RunFolder


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


NONE = Cell("-")

EXPLAINED = {
    "AUC": "mean score over training",
    "gain over scratch": "AUC / scratch's AUC - 1: +0.7 is 70 % more than scratch, -0.5 half of it; inf: no upper end "
    "is known, as scratch may have learned nothing",
    "zero-shot": "score before any training on the target",
    "jump": "zero-shot minus scratch's",
    "final": "mean score of the last tenth of training",
    "steps": "env steps until the score stays above the threshold",
    "kept": "score on the source after the transfer, of the score before",
    "improves": "chance that a run of the method has a larger AUC than a run of scratch",
    "data efficiency": "steps that scratch needs for its own final score / steps that the method needs for it",
    "forward transfer": "(AUC - scratch's AUC) / (1 - scratch's AUC)",
}
"""Of heads of columns, their titles."""


def number(value: float | None, text: str | None = None) -> Cell:
    """A number, by default with two decimals; a dash for None."""
    return NONE if value is None else Cell(fixed(value) if text is None else text, (value,))


def score(values: Mapping[str, float | None] | None) -> Cell:
    """An interquartile mean with its interval."""
    return NONE if values is None else Cell(format_score(values, ", "), ends_of(values))


def ends_of(values: Mapping[str, float | None]) -> tuple[float | None, ...]:
    return values["iqm"], values["low"], values["high"]


def ratio(values: Mapping[str, float | None] | None) -> Cell:
    """A transfer ratio with its interval."""
    return NONE if values is None else Cell(transfer.format_ratio(values), ends_of(values))


def signed(values: Mapping[str, float | None] | None) -> Cell:
    """A difference of scores with its interval."""
    if values is None or values["iqm"] is None:
        return NONE
    low, high = values["low"], values["high"]
    ends = "" if low is None or high is None else f" [{plus(low)}, {plus(high)}]"
    return Cell(f"{plus(values['iqm'])}{ends}", ends_of(values))


def plus(value: float) -> str:
    shown = fixed(value)
    return shown if shown.startswith("-") else f"+{shown}"


def name(text: str) -> Cell:
    """A row's heading."""
    return Cell(text)


def named(row: Row, rows: Sequence[Row]) -> str:
    """A row's name among ``rows``, which says of controls that they are."""
    return f"{transfer.row_name(row, rows)}{' (control)' if is_control(row) else ''}"


def without_empty(table: Table) -> Table:
    """A table without the columns in which no row has anything."""
    shown = [i for i in range(len(table.head)) if not i or any(row[i] != NONE for row in table.rows)]
    rows = [[row[i] for i in shown] for row in table.rows]
    return table._replace(head=[table.head[i] for i in shown], rows=rows)


def verdict(row: Row) -> Cell:
    """A row's verdict; without an alarm over a control, which is there to be beaten."""
    if row["verdict"] is None:
        return NONE
    alarm = row["verdict"] == "negative" and is_control(row)
    return Cell(f"{row['verdict']}{transfer.sign_alone(row)}", tone="baseline" if alarm else str(row["verdict"]))


def is_control(row: Row) -> bool:
    """Whether a row of a transfer experiment takes nothing from a source."""
    return row["source"] is None


def is_baseline(row: Row) -> bool:
    """Whether a row of a transfer experiment is scratch, with which all are compared."""
    return bool(row["verdict"] == "baseline")


def middle(values: Mapping[str, float | None] | None) -> float:
    return -math.inf if values is None or values["iqm"] is None else values["iqm"]


def targets_of(run: RunFolder) -> list[str]:
    return list(dict.fromkeys(row["target"] for row in run.rows))


def rows_of(run: RunFolder, target: str) -> list[Row]:
    return [row for row in run.rows if row["target"] == target]


def count_of(steps: float | None) -> str:
    return "an unknown number" if steps is None else f"{steps:,.0f}"
