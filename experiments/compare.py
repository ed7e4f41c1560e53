"""The command ``graft compare``: two runs side by side, and where their results agree."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.command import command, command_parser

EXAMPLES = """examples:
  graft compare runs/mechanics runs/mechanics_rllib --names sb3 rllib
  graft compare runs/before runs/after --markdown > table.md
  graft compare runs/before runs/after --profiles profiles.png
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "compare",
        "Puts two runs of an experiment side by side, such as one by each backend or one before a change:\n"
        "transfer ratios and areas under the curves with their intervals, and whether those overlap.",
        EXAMPLES,
    )
    parser.add_argument("first", type=Path, metavar="OUT", help="folder of a run")
    parser.add_argument("second", type=Path, metavar="OTHER", help="folder of another")
    parser.add_argument("--names", nargs=2, metavar=("ONE", "OTHER"), help="what to call them (default: the folders)")
    parser.add_argument("--markdown", action="store_true", help="a table to paste into a page")
    parser.add_argument("--profiles", type=Path, metavar="FILE", help="also draw performance profiles of both (PNG)")
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.table import Table

    from graft.experiments.report.common import Name
    from graft.experiments.report.comparison import draw_profiles, pairs, read, summary, table, warnings

    runs = read(options.first), read(options.second)
    names = tuple(options.names or (options.first.name, options.second.name))
    found = pairs(runs[0].rows, runs[1].rows)
    headings, *lines = table(found, *names)
    if options.markdown:
        print("\n".join("| " + " | ".join(line) + " |" for line in (headings, ["---"] * len(headings), *lines)))
        print()
    else:
        shown = Table()
        for heading in headings:
            shown.add_column(heading)
        for line in lines:
            shown.add_row(*map(Name, line[:2]), *line[2:])
        Console(width=None if sys.stdout.isatty() else 160).print(shown)
    for sentence in warnings(*runs, names):
        print(sentence)
    for measure, what in (("transfer_ratio", "Transfer ratios"), ("auc", "Areas under the curves")):
        print(summary(found, measure, what))
    if options.profiles is not None:
        draw_profiles(found, names[0], names[1], options.profiles)
        print(f"Performance profiles: {options.profiles}")
    return 0
