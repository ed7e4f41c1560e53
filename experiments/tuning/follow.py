"""Keeps a search's ledger while it runs, and says how it goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status

from experiments.progress import duration
from experiments.tuning.ledger import TrialLedger
from experiments.tuning.results import short_values
from experiments.tuning.search import Trial
from experiments.tuning.work import SCORE, STEPS


class Follow:
    """A context manager around the training of trials.

    Args:
        trials: by the names under which they report. ended: how many had ended before. budget: env steps of a trial.
    """

    def __init__(
        self, console: Console, trials: Mapping[str, Trial], ended: int, budget: int, ledger: TrialLedger
    ) -> None:
        self._console, self._trials, self._ended = console, trials, ended
        self._budget, self._ledger = budget, ledger
        self._start = time.monotonic()
        self._latest: dict[str, Mapping[str, Any]] = {}
        self._status = Status("starting Ray", console=console)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def heard(self, name: str, found: dict[str, Any]) -> None:
        """A trial has reported or ended: into the ledger, and onto the screen."""
        if not self._ledger.add(name, **found):
            return
        status, trial = found.get("status"), self._trials[name]
        self._latest[name] = found
        self._ended += status is not None
        if "generation" in found:
            self._say(
                f"trained  member {name}, generation {found['generation']}{self._origin(name, found)}: "
                f"{short_values(found['values'])}, score {found[SCORE]:.3f}"
            )
        elif status is not None:
            reached = self._ledger.trial(name).reports
            came = f"{reached[-1][STEPS]:,} env steps, score {reached[-1][SCORE]:.3f}" if reached else "nothing"
            outcome = found["error"] if status == "failed" else came
            shown = {"done": "done     ", "stopped": "stopped  ", "failed": "FAILED   "}[status]
            self._say(f"{shown}trial {trial.index} ({trial.words}): {outcome} [{self._ended}/{len(self._trials)}]")
        if status is not None:
            self._latest.pop(name)
        self._status.update(self._running())

    def _origin(self, name: str, found: Mapping[str, Any]) -> str:
        """Which member it went on from, where that is another one."""
        for other, known in self._ledger.trials.items():
            if other != name and any(report["stages"] == found["parents"] for report in known.reports):
                return f" from member {other}"
        return ""

    def _running(self) -> str:
        parts = [
            f"{self._trials[name].index}: {found[STEPS]:,} steps, {found[SCORE]:.3f}"
            for name, found in self._latest.items()
        ]
        head = f"{self._ended} of {len(self._trials)} trials ended, {duration(time.monotonic() - self._start)}"
        return f"{head}; " + "; ".join(parts)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
