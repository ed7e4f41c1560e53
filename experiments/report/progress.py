"""Progress of a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from graft.experiments.plan.stage import Stage

SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Row:
    """A running stage; ``first``: env steps of its first report, above 0 where it continues from a snapshot."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.start = time.monotonic()
        self.env_steps = 0
        self.first: int | None = None
        self.values: dict[str, float] = {}
        self.where = ""

    @property
    def rate(self) -> float:
        return (self.env_steps - (self.first or 0)) / max(1e-9, time.monotonic() - self.start)

    @property
    def shown_return(self) -> str:
        latest = self.values.get("eval/return_mean", self.values.get("rollout/return_mean"))
        return "-" if latest is None else f"{latest:.2f}"

    @property
    def faults(self) -> str:
        """What went wrong in environments, for the line of a stage that is done."""
        counts = {"environment faults": "env/faults", "observations clipped": "env/clipped"}
        return "".join(f", {self.values[tag]:,.0f} {what}" for what, tag in counts.items() if self.values.get(tag))

    @property
    def eta(self) -> str:
        return duration((self.stage.budget - self.env_steps) / self.rate) if self.rate else "-"


class Progress:
    """Prints what a launcher reports; a context manager around the run.

    Args:
        total: stages of the experiment. done: how many of them were finished before.
        budget: env steps of the stages that will run. unit: what ``total`` and ``done`` count.
    """

    def __init__(self, console: Console, total: int, done: int, budget: int, unit: str = "stages") -> None:
        self._unit = unit
        self._console, self._total, self._done, self._budget = console, total, done, budget
        self._rows: dict[str, _Row] = {}
        self._steps_of_finished = self._steps_before = 0
        self._failed = 0
        self._start = self._last_line = time.monotonic()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def started(self, stage: Stage) -> None:
        self._rows[stage.id] = _Row(stage)
        if not self._console.is_terminal:
            self._say(f"start    {stage.label} ({stage.budget:,} env steps)")

    def placed(self, stage: Stage, where: str) -> None:
        self._rows[stage.id].where = where
        if not self._console.is_terminal:
            self._say(f"place    {stage.label}: {where}")

    def progressed(self, stage: Stage, env_steps: int, values: Mapping[str, float]) -> None:
        row = self._rows[stage.id]
        if row.first is None:
            row.first = env_steps
            self._steps_before += env_steps
        row.env_steps = env_steps
        row.values.update(values)

    def finished(self, stage: Stage, error: str | None) -> None:
        """Print the result, above the live table or as a line."""
        row = self._rows.pop(stage.id, None)
        if error is not None:
            self._failed += 1
            self._budget -= stage.budget
            self._say(f"FAILED   {stage.label}: {error}")
            return
        assert row is not None
        self._done += 1
        self._steps_of_finished += stage.budget
        took = duration(time.monotonic() - row.start)
        result = f"return {row.shown_return}{row.faults}"
        self._say(f"done     {stage.label} in {took}, {result} [{self._done}/{self._total}]")

    def noted(self, text: str) -> None:
        self._say(text)

    def tick(self) -> None:
        """Without a live table: print a line on each running stage every few seconds."""
        if self._console.is_terminal or time.monotonic() - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = time.monotonic()
        for row in self._rows.values():
            self._say(
                f"running  {row.stage.label}: {row.env_steps:,} of {row.stage.budget:,} env steps, "
                f"{row.rate:,.0f}/s, return {row.shown_return}, ETA {row.eta}; all stages: ETA {self._eta()}"
            )

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _eta(self) -> str:
        taken = self._steps_of_finished + sum(row.env_steps for row in self._rows.values())
        here, elapsed = taken - self._steps_before, time.monotonic() - self._start
        return duration(elapsed * (self._budget - taken) / here) if here > 0 else "-"

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for column in ("stage", "", "env steps", "steps/s", "return", "ETA"):
            table.add_column(column, justify="left" if column in ("stage", "") else "right", no_wrap=True)
        if placed := any(row.where for row in self._rows.values()):
            table.add_column("where", no_wrap=True)
        for row in self._rows.values():
            table.add_row(
                row.stage.label,
                ProgressBar(total=row.stage.budget, completed=row.env_steps, width=20),
                f"{row.env_steps:,}",
                f"{row.rate:,.0f}",
                row.shown_return,
                row.eta,
                *([row.where] if placed else []),
            )
        failed = f", {self._failed} failed" if self._failed else ""
        head = Text(f"{self._done} of {self._total} {self._unit} done{failed}, ETA {self._eta()}", style="bold")
        return Group(head, table)
