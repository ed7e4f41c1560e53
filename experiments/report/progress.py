"""Progress of a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from graft.agents.training.periodic_evaluation import EVALUATION_SECONDS
from graft.experiments.plan.stage import Stage
from graft.experiments.report.common import LEAST_NAME, Name
from graft.experiments.store.records import RECALL_SECONDS

SECONDS_BETWEEN_LINES = 10.0

WIDE = 110
"""Columns of a terminal that has room for bars."""


def duration(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Row:
    """A running stage; ``first``: env steps of its first report, above 0 where it continues from a snapshot.

    ``after``: seconds that comparable stages took after their last env step, for the last evaluation and `recall`.
    """

    def __init__(self, stage: Stage, after: float) -> None:
        self.stage, self.after = stage, after
        self.start = time.monotonic()
        self.trained: float | None = None
        self.env_steps = 0
        self.first: int | None = None
        self.values: dict[str, float] = {}
        self.where = ""

    @property
    def rate(self) -> float:
        return (self.env_steps - (self.first or 0)) / max(1e-9, time.monotonic() - self.start)

    @property
    def finishing(self) -> float | None:
        """Seconds since its last env step; None before."""
        return None if self.trained is None else time.monotonic() - self.trained

    @property
    def doing(self) -> str:
        """Env steps per second, or how long it has been evaluated since the last one."""
        if self.finishing is None:
            return f"{self.rate:,.0f}/s"
        what = "recall" if _remembers(self.stage) else "evaluation, recall" if self.stage.recall else "evaluation"
        return f"{what} {duration(self.finishing)}"

    @property
    def evaluated(self) -> str:
        """How long its evaluations took, for the line of a stage that is done."""
        seconds = self.values.get(EVALUATION_SECONDS, 0.0) + self.values.get(RECALL_SECONDS, 0.0)
        return f" ({duration(seconds)} of it evaluations)" if seconds >= 1 else ""

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
    def remaining(self) -> float | None:
        """Seconds to its end, evaluations included; None where that is not known."""
        if self.finishing is not None:
            return max(0.0, self.after - self.finishing)
        return (self.stage.budget - self.env_steps) / self.rate + self.after if self.rate else None

    @property
    def eta(self) -> str:
        return "-" if self.remaining is None else duration(self.remaining)


def _sort(stage: Stage) -> tuple[str, bool]:
    """What stages have in common that take about as long after their last env step."""
    return stage.kind, bool(stage.recall)


def _remembers(stage: Stage) -> bool:
    """Whether it is a consolidation: its time is that of what the method computes, and its env steps say little."""
    return stage.kind == "consolidate"


class Progress:
    """Prints what a launcher reports; a context manager around the run.

    Args:
        todo: stages that will run. done: how many were finished before. unit: what is counted.
    """

    def __init__(self, console: Console, todo: Sequence[Stage], done: int = 0, unit: str = "stages") -> None:
        self._console, self._done, self._unit = console, done, unit
        self._total = done + len(todo)
        self._consolidations = sum(map(_remembers, todo))
        self._budget = sum(stage.budget for stage in todo if not _remembers(stage))
        self._consolidated, self._seconds = 0, {"train": 0.0, "consolidate": 0.0}
        self._rows: dict[str, _Row] = {}
        self._steps_of_finished = self._steps_before = 0
        self._failed = 0
        self._after: dict[tuple[str, bool], float] = {}
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
        self._rows[stage.id] = _Row(stage, self._after.get(_sort(stage), 0.0))
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
            self._steps_before += 0 if _remembers(stage) else env_steps
        row.env_steps = env_steps
        row.values.update(values)
        if row.trained is None and env_steps >= stage.budget:
            row.trained = time.monotonic()

    def finished(self, stage: Stage, error: str | None) -> None:
        """Print the result, above the live table or as a line."""
        row = self._rows.pop(stage.id, None)
        if error is not None:
            self._failed += 1
            if _remembers(stage):
                self._consolidations -= 1
            else:
                self._budget -= stage.budget
            self._say(f"FAILED   {stage.label}: {error}")
            return
        assert row is not None
        self._done += 1
        if row.finishing is not None:
            self._after[_sort(stage)] = row.finishing
        seconds = time.monotonic() - row.start
        if _remembers(stage):
            self._consolidated += 1
            self._seconds["consolidate"] += seconds
        else:
            self._steps_of_finished += stage.budget
            self._seconds["train"] += seconds
        took = f"{duration(seconds)}{row.evaluated}"
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
                f"{row.doing}, return {row.shown_return}, ETA {row.eta}; all stages: ETA {self._eta()}"
            )

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _eta(self) -> str:
        """What is left, at the speed so far, which counts evaluations; but no less than a running stage needs."""
        training = [row for row in self._rows.values() if not _remembers(row.stage)]
        taken = self._steps_of_finished + sum(row.env_steps for row in training)
        here, to_train = taken - self._steps_before, self._budget - taken
        to_consolidate = self._consolidations - self._consolidated
        if (to_train and here <= 0) or (to_consolidate and not (to_train or self._consolidated)):
            return "-"  # nothing of that kind is known yet
        now = time.monotonic()
        seconds = self._seconds["train"] + sum(now - row.start for row in training)
        left = seconds / here * to_train if to_train else 0.0
        left += self._seconds["consolidate"] / max(1, self._consolidated) * to_consolidate
        # Stages run beside each other: by how many of their seconds pass in one.
        at_once = (self._seconds["consolidate"] + seconds) / (now - self._start) or 1.0
        running = [row.remaining for row in self._rows.values() if row.remaining is not None]
        return duration(max(left / at_once, *running, 0.0))

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("stage", min_width=LEAST_NAME)
        wide = self._console.width >= WIDE
        for column in ("", "env steps", "speed", "return", "ETA")[not wide :]:
            table.add_column(column, justify="right", no_wrap=True)
        if placed := any(row.where for row in self._rows.values()):
            table.add_column("where", no_wrap=True)
        for row in self._rows.values():
            table.add_row(
                Name(row.stage.label),
                *([ProgressBar(total=row.stage.budget, completed=row.env_steps, width=20)] if wide else []),
                f"{row.env_steps:,}" if wide else f"{row.env_steps:,} of {row.stage.budget:,}",
                row.doing,
                row.shown_return,
                row.eta,
                *([row.where] if placed else []),
            )
        failed = f", {self._failed} failed" if self._failed else ""
        head = Text(f"{self._done} of {self._total} {self._unit} done{failed}, ETA {self._eta()}", style="bold")
        return Group(head, table)
