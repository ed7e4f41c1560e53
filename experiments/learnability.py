"""The command ``graft learnability``: trains each built-in game from scratch until it is played well."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.command import FAILED, at_least, command, command_parser
from graft.errors import GraftError

EXAMPLES = """examples:
  graft learnability                                 every game, three seeds, one after the other
  graft learnability Graft/Maze-v0 --seeds 5 --jobs 2
  graft learnability --out docs --jobs 2             learnability.json and learnability.png in docs
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 where every seed of every game got there, 1 where one did not."""
    parser = command_parser(
        "learnability",
        "Trains built-in games from scratch with PPO until they reach a share of the expert's score.",
        EXAMPLES,
    )
    parser.add_argument("games", nargs="*", metavar="GAME", help="ids (default: all that have reference scores)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each game (3)")
    parser.add_argument("--steps", type=int, default=3_000_000, metavar="N", help="env steps at most (3000000)")
    parser.add_argument("--share", type=float, default=0.7, metavar="X", help="score that ends a training (0.7)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at the same time (1)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="for learnability.json and .png (runs)"
    )
    options = parser.parse_args(arguments)
    at_least(1, seeds=options.seeds, steps=options.steps, jobs=options.jobs)
    if options.share <= 0:
        raise GraftError(f"--share {options.share:g} is not allowed; give a number above 0.")
    from rich.console import Console

    from graft.envs.builtin.engine.game import GAMES
    from graft.experiments.benchmarks.learnability import Job, draw, learn_all, table

    console = Console(highlight=False)
    games = [GAMES[name].id for name in options.games] or [name for name, game in GAMES.items() if game.bounds]
    jobs = [Job(game, seed, options.steps, options.share) for seed in range(options.seeds) for game in games]
    options.out.mkdir(parents=True, exist_ok=True)
    results = learn_all(jobs, options.out / "learnability.json", options.jobs, console)
    console.print(table(jobs, results))
    draw(jobs, results, options.out / "learnability.png")
    console.print(f"Figure: {options.out / 'learnability.png'}")
    return 0 if all(result["reached"] for result in results.values()) else FAILED


if __name__ == "__main__":
    sys.exit(main())
