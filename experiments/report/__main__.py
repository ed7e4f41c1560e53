"""The command ``graft report``: ``report.html`` of one run or several, and their numbers as CSV and LaTeX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.command import command, command_parser

EXAMPLES = """examples:
  graft report runs/mechanics                               writes runs/mechanics/report.html
  graft report runs/before runs/after --html both.html      several runs in one page
  graft report runs/mechanics --csv tables --latex table.tex
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "report",
        "Writes the results of one run or several as one HTML file, which opens without a network: warnings, tables,\n"
        "learning curves, costs, clips, the config, and the command that repeats the run.",
        EXAMPLES,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="the page (default: report.html in DIR, or here for several)"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="DIR", help="also write rows.csv, scores.csv, curves.csv, stages.csv and scores.npz"
    )
    parser.add_argument("--latex", type=Path, metavar="FILE", help="also write the tables of results for LaTeX")
    options = parser.parse_args(arguments)
    from graft.experiments.report.page import REPORT, write_page

    folders = options.folders
    html = options.html or (folders[0] / REPORT if len(folders) == 1 else Path(REPORT))
    write_page(folders, html)
    print(f"Report: {html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
