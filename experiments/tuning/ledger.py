"""`tune.jsonl`: what a search found out, a line each, as it came; the search goes on from these lines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.errors import GraftError

FILE = "tune.jsonl"

ENDED = ("done", "stopped")
"""Statuses of trials that are not run again; those that failed are."""


@dataclass
class Known:
    """Of one trial: its reports in their order, and how it ended ("done", "stopped" or "failed"), if it has."""

    reports: list[dict[str, Any]] = field(default_factory=list)
    status: str | None = None
    error: str | None = None


class TrialLedger:
    """Appends to ``tune.jsonl``. A line is on the disk before the next is written; half a line at the end is dropped.

    Args:
        out: of the search; only one process writes there.
        search: its identity, the first line.
    Raises:
        GraftError: the folder holds another search, or the file is damaged.
    """

    def __init__(self, out: Path, search: Mapping[str, Any]) -> None:
        self._path = out / FILE
        self.lines = read(out)
        self.trials: dict[str, Known] = {}
        plain = json.loads(json.dumps(search))
        if not self.lines:
            self._write({"search": plain})
        elif (before := self.lines.pop(0).get("search")) != plain:
            names = [name for name in plain if not isinstance(before, dict) or before.get(name) != plain[name]]
            raise GraftError(
                f"{out} holds another search, which differs in {', '.join(names)}; choose another --out, or remove "
                f"that folder."
            )
        for line in self.lines:
            self._learn(line)

    def trial(self, trial: str) -> Known:
        """What is known of a trial."""
        return self.trials.setdefault(trial, Known())

    def _learn(self, line: dict[str, Any]) -> None:
        known = self.trial(line["trial"])
        if "score" in line:
            known.reports.append(line)
        if "status" in line:
            known.status, known.error = line["status"], line.get("error")

    def add(self, trial: str, **found: Any) -> bool:
        """Add a line, unless it is a report that is known already or the trial has ended; whether it was added."""
        known = self.trial(trial)
        old = "score" in found and known.reports and known.reports[-1]["env_steps"] >= found["env_steps"]
        if known.status in ENDED or (old and "status" not in found):
            return False
        if old:  # only its end is news
            found = {key: value for key, value in found.items() if key in ("status", "error")}
        line = {"trial": trial, **found}
        self._write(line)
        self._learn(line)
        return True

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read(out: Path) -> list[dict[str, Any]]:
    """All lines; a last one that a kill cut short is removed from the file.

    Raises:
        GraftError: another line is no JSON.
    """
    path = out / FILE
    if not path.exists():
        return []
    text = path.read_bytes()
    whole, end, rest = text.rpartition(b"\n")
    if rest:
        with path.open("r+b") as file:
            file.truncate(len(whole + end))
    try:
        return [dict(json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError) as error:
        raise GraftError(f"{path} was altered; remove it and the same command begins the search anew.") from error
