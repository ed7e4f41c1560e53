"""The command ``graft report``: ``report.html`` of one run or several, and their numbers as CSV and LaTeX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.command import command, command_parser
from graft.errors import GraftError

EXAMPLES = """examples:
  graft report runs/mechanics                               writes runs/mechanics/report.html
  graft report runs/mechanics --serve                       the same page in a browser, while the run goes on
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
    parser.add_argument(
        "--serve", action="store_true", help="write nothing; show the page of DIR at http://127.0.0.1 as it is now"
    )
    parser.add_argument("--port", type=int, default=8700, metavar="N", help="of --serve (default: 8700; 0: any)")
    options = parser.parse_args(arguments)
    folders = list(dict.fromkeys(options.folders))
    if options.serve:
        if len(folders) > 1 or options.html or options.csv or options.latex:
            raise GraftError("--serve shows one run and writes nothing; give one DIR, and no --html, --csv or --latex.")
        from graft.experiments.report.serve import serve

        serve(folders[0], options.port, lambda text: print(text, flush=True))
        return 0
    from graft.experiments.report.exports import write_csv, write_latex
    from graft.experiments.report.page.render import REPORT, folder_names, write_page
    from graft.experiments.report.so_far import latest

    runs, names = [latest(folder) for folder in folders], folder_names(folders)
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
