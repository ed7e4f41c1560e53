"""Two runs side by side: ``python -m experiments.compare OUT OTHER`` says where their results agree."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from graft.command import command
from graft.errors import GraftError
from graft.experiments.report.common import rounded
from graft.experiments.report.transfer import format_ratio

EXAMPLES = """examples:
  python -m experiments.compare runs/mechanics runs/mechanics_rllib --names sb3 rllib
  python -m experiments.compare runs/before runs/after --markdown > table.md
"""

Key = tuple[str | None, str, str]
"""Source, target and method."""


class Pair(NamedTuple):
    """One method on one target in both runs: rows of their ``results.json``."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]

    def agree(self, measure: str) -> bool | None:
        """Whether the two intervals of a measure overlap; None where one run has none."""
        one, other = self.first[measure], self.second[measure]
        if one is None or other is None or one["low"] is None or other["low"] is None:
            return None
        # A ratio without an upper end is one whose baseline learned nothing.
        high, other_high = (float("inf") if end["high"] is None else end["high"] for end in (one, other))
        return bool(one["low"] <= other_high and other["low"] <= high)


def read(folder: Path) -> dict[Key, Mapping[str, Any]]:
    """Rows of a run by source, target and method; raises GraftError where there are none."""
    path = folder / "results.json" if folder.is_dir() else folder
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {(row["source"], row["target"], row["method"]): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(
            f"{folder} has no results of a transfer experiment; give what graft.experiments.run wrote to with --out, "
            f"once it has ended."
        ) from error


def pairs(first: Mapping[Key, Mapping[str, Any]], second: Mapping[Key, Mapping[str, Any]]) -> dict[Key, Pair]:
    """What both have, in the first's order; raises GraftError where that is nothing."""
    found = {key: Pair(row, second[key]) for key, row in first.items() if key in second}
    if not found:
        raise GraftError(
            f"The two runs have no method on the same target in common: {_targets(first)} in one, "
            f"{_targets(second)} in the other."
        )
    return found


def _targets(rows: Mapping[Key, Any]) -> str:
    return ", ".join(dict.fromkeys(target for _, target, _ in rows))


def _auc(row: Mapping[str, Any]) -> str:
    auc = row["auc"]
    if auc is None:
        return ""
    return f"{rounded(auc['iqm'], 3):.3f} [{rounded(auc['low'], 3):.3f}, {rounded(auc['high'], 3):.3f}]"


def cells(pair: Pair) -> list[str]:
    """Transfer ratios and whether they agree, then the areas under the curves and whether those do."""
    words = {True: "yes", False: "no", None: "-"}
    found = [*(format_ratio(row["transfer_ratio"]) for row in pair), words[pair.agree("transfer_ratio")]]
    return [*found, _auc(pair.first), _auc(pair.second), words[pair.agree("auc")]]


def summary(found: Mapping[Key, Pair], measure: str, what: str) -> str:
    """How many agree, and which don't."""
    compared = {key: pair.agree(measure) for key, pair in found.items() if pair.agree(measure) is not None}
    apart = [f"{method} on {target}" for (_, target, method), same in compared.items() if not same]
    ending = f"; apart: {', '.join(apart)}" if apart else ""
    return f"{what}: intervals overlap in {len(compared) - len(apart)} of {len(compared)}{ending}."


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare",
        description="Puts two runs of an experiment side by side, such as one by each backend or one before a change: "
        "transfer ratios and areas under the curves with their intervals, and whether those overlap.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", type=Path, metavar="OUT", help="folder of a run")
    parser.add_argument("second", type=Path, metavar="OTHER", help="folder of another")
    parser.add_argument("--names", nargs=2, metavar=("ONE", "OTHER"), help="what to call them (default: the folders)")
    parser.add_argument("--markdown", action="store_true", help="a table to paste into a page")
    options = parser.parse_args(arguments)
    found = pairs(read(options.first), read(options.second))
    one, other = options.names or (options.first.name, options.second.name)
    headings = ["target", "method", f"ratio, {one}", f"ratio, {other}", "overlap"]
    headings += [f"AUC, {one}", f"AUC, {other}", "overlap"]
    several = len({source for source, _, _ in found if source is not None}) > 1
    lines, last = [], None
    for (source, target, method), pair in found.items():
        where = f"{source} → {target}" if several and source is not None else target
        lines.append([where if where != last else "", method, *cells(pair)])
        last = where
    if options.markdown:
        print("\n".join("| " + " | ".join(line) + " |" for line in (headings, ["---"] * len(headings), *lines)))
        print()
    else:
        table = Table()
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for line in lines:
            table.add_row(*line)
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    for measure, what in (("transfer_ratio", "Transfer ratios"), ("auc", "Areas under the curves")):
        print(summary(found, measure, what))
    return 0


if __name__ == "__main__":
    sys.exit(main())
