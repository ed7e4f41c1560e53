"""Two runs side by side: where their transfer ratios and areas under the curves agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from graft.agents.checkpoints.files import read_file
from graft.errors import GraftError, printable
from graft.experiments.report.common import fixed
from graft.experiments.report.plots import profiles, row_scores
from graft.experiments.report.results import VERSION, Interval
from graft.experiments.report.transfer import format_ratio

Key = tuple[str | None, str, str]
"""Source, target and method."""


class Pair(NamedTuple):
    """One method on one target in both runs: rows of their ``results.json``."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]

    def agree(self, measure: str) -> bool | None:
        """Whether the two intervals of a measure overlap; None where one run has none, or no scale."""
        one, other = self.first[measure], self.second[measure]
        if not all(row.get("scored", True) for row in self):
            return None
        if one is None or other is None or one["low"] is None or other["low"] is None:
            return None
        # A ratio without an upper end is one whose baseline learned nothing.
        high, other_high = (float("inf") if end["high"] is None else end["high"] for end in (one, other))
        return bool(one["low"] <= other_high and other["low"] <= high)


class Run(NamedTuple):
    """Results of a run: its rows by source, target and method, and the scale of each target (none in old files)."""

    rows: Mapping[Key, Mapping[str, Any]]
    bounds: Mapping[str, Mapping[str, Any]]


class _Row(BaseModel, strict=True):
    """Of a row of results of any version, which somebody else may have written, what is read of it."""

    source: str | None
    target: str
    method: str
    transfer_ratio: Interval | None
    auc: Interval | None
    scored: bool = True
    env_steps: dict[str, int | None] = {}
    areas: list[float] = []
    finals: list[float] = []


class _Scale(BaseModel, strict=True):
    random: float
    expert: float | None


class _Results(BaseModel, strict=True):
    rows: list[_Row]
    bounds: dict[str, _Scale] = {}


def read(folder: Path) -> Run:
    """Results of any version of ``results.json`` up to this one; raises GraftError where there are none."""
    path = folder / "results.json" if folder.is_dir() else folder
    try:
        data = json.loads(read_file(path))
        version, bounds = data.get("version", 1), data.get("bounds", {})
        _Results.model_validate(data)
        bounds = {printable(target, len(target)): scale for target, scale in bounds.items()}
        rows = {(row["source"], row["target"], row["method"]): row for row in map(_shown, data["rows"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GraftError(
            f"{folder} has no results of a transfer experiment; give what `graft run` wrote to with --out, once "
            f"it has ended."
        ) from error
    if isinstance(version, int | float) and version > VERSION:
        raise GraftError(f"{path} has version {version}, which a newer Graft wrote; this one reads up to {VERSION}.")
    return Run(rows, bounds)


def _shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row whose names hold nothing that a terminal obeys, as they are printed."""
    names = {key: row[key] for key in ("source", "target", "method")}
    return {**row, **{key: name and printable(name, len(name)) for key, name in names.items()}}


def pairs(first: Mapping[Key, Mapping[str, Any]], second: Mapping[Key, Mapping[str, Any]]) -> dict[Key, Pair]:
    """What both have, in the first's order; raises GraftError where that is nothing."""
    found = {key: Pair(row, second[key]) for key, row in first.items() if key in second}
    if not found:
        raise GraftError(
            f"The two runs have no method on the same target in common: {_targets(first)} in one, "
            f"{_targets(second)} in the other."
        )
    return found


def warnings(one: Run, other: Run, names: tuple[str, str]) -> list[str]:
    """What only one run has, and why numbers of both may not compare: other scales, other budgets."""
    lines = []
    for mine, theirs, name in ((one, other, names[0]), (other, one, names[1])):
        if alone := [f"{method} on {target}" for _, target, method in mine.rows if _absent(theirs, target, method)]:
            lines.append(f"Only in {name}: {', '.join(dict.fromkeys(alone))}.")
    for target in one.bounds.keys() & other.bounds.keys():
        scales = [tuple(run.bounds[target][end] for end in ("random", "expert")) for run in (one, other)]
        if scales[0] != scales[1]:
            said = " and ".join(
                f"{low:g} to {'no end' if high is None else format(high, 'g')} in {name}"
                for (low, high), name in zip(scales, names, strict=True)
            )
            lines.append(f"WARNING: scores on {target} are on different scales ({said}): they do not compare.")
    spent: dict[str, list[str]] = {}
    for key in one.rows.keys() & other.rows.keys():
        steps = [run.rows[key].get("env_steps", {}) for run in (one, other)]
        for kind in ("pretrain", "transfer"):
            a, b = (given.get(kind) for given in steps)
            if a != b and None not in (a, b):
                what = f"{a:,} env steps of {kind} in {names[0]}, {b:,} in {names[1]}"
                spent.setdefault(what, []).append(f"{key[2]} on {key[1]}")
    for what, whose in spent.items():
        lines.append(f"WARNING: budgets differ, {what}: {', '.join(sorted(set(whose)))}.")
    return lines


def _absent(run: Run, target: str, method: str) -> bool:
    return not any(key[1:] == (target, method) for key in run.rows)


def _targets(rows: Mapping[Key, Any]) -> str:
    return ", ".join(dict.fromkeys(target for _, target, _ in rows))


def _auc(row: Mapping[str, Any]) -> str:
    auc = row["auc"]
    if auc is None or auc["iqm"] is None:
        return ""
    if auc["low"] is None or auc["high"] is None:  # a single seed has no interval
        return fixed(auc["iqm"], 3)
    return f"{fixed(auc['iqm'], 3)} [{fixed(auc['low'], 3)}, {fixed(auc['high'], 3)}]"


def cells(pair: Pair) -> list[str]:
    """Transfer ratios and whether they agree, then the areas under the curves and whether those do."""
    answers = {True: "yes", False: "no", None: "-"}
    ratios = [*(format_ratio(row["transfer_ratio"]) for row in pair), answers[pair.agree("transfer_ratio")]]
    return [*ratios, _auc(pair.first), _auc(pair.second), answers[pair.agree("auc")]]


def summary(found: Mapping[Key, Pair], measure: str, what: str) -> str:
    """How many agree, and which don't."""
    compared = {key: pair.agree(measure) for key, pair in found.items() if pair.agree(measure) is not None}
    apart = [f"{method} on {target}" for (_, target, method), same in compared.items() if not same]
    ending = f"; apart: {', '.join(apart)}" if apart else ""
    return f"{what}: intervals overlap in {len(compared) - len(apart)} of {len(compared)}{ending}."


def table(found: Mapping[Key, Pair], one: str, other: str) -> list[list[str]]:
    """The headings, then a line for each method on each target; ``one`` and ``other`` name the runs."""
    headings = ["target", "method", f"ratio, {one}", f"ratio, {other}", "overlap"]
    headings += [f"AUC, {one}", f"AUC, {other}", "overlap"]
    several = len({source for source, _, _ in found if source is not None}) > 1
    lines, last = [headings], None
    for (source, target, method), pair in found.items():
        where = f"{source} → {target}" if several and source is not None else target
        lines.append([where if where != last else "", method, *cells(pair)])
        last = where
    return lines


def draw_profiles(found: Mapping[Key, Pair], one: str, other: str, path: Path) -> None:
    """Performance profiles of what both have; raises GraftError where a run has no scale, or no scores of its seeds."""
    rows = [
        {**row, "method": f"{row['method']}, {name}"}
        for pair in found.values()
        if all(row.get("scored", True) for row in pair)
        for row, name in zip(pair, (one, other), strict=True)
    ]
    if not rows:
        raise GraftError("One of these runs learned nothing, so that it has no scores to draw profiles of.")
    if not all("areas" in row and "finals" in row for row in rows):
        raise GraftError("These results have no scores of each seed; run `graft run` on the folders again to add them.")
    profiles(row_scores(rows), path, f"{one} and {other}")
