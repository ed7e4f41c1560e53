"""The command ``graft tune``: a search for the options of methods and algorithms that transfer best."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.command import at_least, command, command_parser
from graft.errors import GraftError
from graft.experiments.run import add_launcher_options, default_out, launcher_of

if TYPE_CHECKING:  # Optuna takes a second to load
    from graft.experiments.search.definition import Search

EXAMPLES = """examples:
  graft tune tune_ewc                          a few minutes on two cores, into runs/tune_ewc
  graft tune tune_ewc --dry-run                the first trials, without training
  graft tune tune_ewc --trials 24              twelve more: those that are done are not run again
  graft tune tune_ewc --scheduler none seeds=5 every trial to its end, with five seeds
  graft tune tune_ewc --launcher ray --jobs 8 --address head:6379 --out /shared/tune_ewc

a search, my.yaml:
  name: my
  experiment: mechanics                        # a config, or one that comes with Graft
  overrides: {seeds: 2, methods: [ewc]}        # changes that all trials share
  space:                                       # by the same dotted keys as of graft run
    methods.0.ewc.strength: {log: [0.1, 1000]} # or uniform, integer, log_integer
    algorithm.learning_rate: [3e-4, 1e-3, 3e-3]
  trials: 12
  scheduler: {name: asha, reduction: 3}        # or none
  metric: auc                                  # or final, or balance (final and kept)

The first trial is the experiment as it is, the next five are random, the others are sampled by TPE. The same command
again goes on where it was stopped. Trials are stages of the folder, like those of graft run. Look at a search, also
while it runs, with: pip install optuna-dashboard; optuna-dashboard runs/tune_ewc/search.journal
"""


def _read(options: argparse.Namespace) -> Search:
    from graft.experiments.config.names import check_names
    from graft.experiments.search.definition import load_search

    names = [word for word in options.search if "=" not in word]
    if len(names) != 1:
        raise GraftError(f"Give one search; got {', '.join(names) or 'none'}.")
    changes = {name: getattr(options, name) for name in ("trials", "scheduler", "metric", "seed")}
    search = load_search(names[0], [word for word in options.search if "=" in word], **changes)
    check_names(search.config())
    return search


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 where trials failed, 2 for bad input, 130 after Ctrl-C."""
    parser = command_parser("tune", "Search for the options of methods and algorithms that transfer best.", EXAMPLES)
    parser.add_argument(
        "search",
        nargs="+",
        metavar="SEARCH | key=value",
        help="a YAML file or a search that comes with Graft (tune_ewc); changes to its experiment by dotted key",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="trials, with the experiment as it is")
    parser.add_argument("--scheduler", metavar="asha | none", help="who stops trials early (default: the search's)")
    parser.add_argument(
        "--metric", metavar="auc | final | balance", help="what trials are compared by (default: the search's)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the trials' values (default: the search's)")
    parser.add_argument("--jobs", type=int, metavar="N", help="trials at once (default: one per usable core)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results (default: runs/NAME, with a suffix)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the first trials; train and write nothing")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="as of graft run")
    add_launcher_options(parser)
    options = parser.parse_intermixed_args(arguments)
    at_least(1, jobs=options.jobs)
    search = _read(options)
    from rich.console import Console

    from graft.experiments.launchers.launcher import usable_cores
    from graft.experiments.search.session import Session

    options.jobs = options.jobs or max(1, usable_cores() // max(1, options.workers))
    launcher = launcher_of(options)
    changed = len(options.search) > 1 or options.scheduler or options.metric or options.seed is not None
    session = Session(Console(), search, options.out or default_out(search.name, search.identity, bool(changed)))
    if options.dry_run:
        session.dry_run()
        return 0
    return session.run(launcher)


if __name__ == "__main__":
    sys.exit(main())
