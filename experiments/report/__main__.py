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
        "--csv",
        type=Path,
        metavar="DIR",
        help="also write CSV files of rows, scores, curves and stages, and score matrices (.npz)",
    )
    parser.add_argument("--latex", type=Path, metavar="FILE", help="also write the tables of results for LaTeX")
    options = parser.parse_args(arguments)
    from graft.experiments.report.exports import write_csv, write_latex
    from graft.experiments.report.page.render import REPORT, folder_names, write_page
    from graft.experiments.report.run_folder import read_run

    folders = list(dict.fromkeys(options.folders))
    runs, names = [read_run(folder) for folder in folders], folder_names(folders)
    html = options.html or (folders[0] / REPORT if len(folders) == 1 else Path(REPORT))
    write_page(runs, names, html)
    print(f"Report: {html}")
    if options.csv is not None:
        print(f"Tables: {', '.join(str(options.csv / file) for file in write_csv(runs, names, options.csv))}")
    if options.latex is not None:
        write_latex(runs, names, options.latex)
        print(f"LaTeX: {options.latex}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
