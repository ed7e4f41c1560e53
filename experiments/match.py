"""The command ``graft match``: how often an agent's team wins against another."""

from __future__ import annotations

from collections.abc import Sequence

from graft.command import at_least, command, command_parser

EXAMPLES = """examples:
  graft match runs/squads/stages/27ab12 Graft/Pursuit-v0 team=prey
  graft match runs/squads/stages/27ab12 Graft/Pursuit-v0 team=prey --against runs/squads/stages/99fe01
  graft match runs/squads/stages/27ab12 hunters=2 prey='[3, 5]' --games 1000
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "match",
        "Let an agent from a checkpoint play a team against another, and count the games that it wins.",
        EXAMPLES,
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="CHECKPOINT | TASK | key=value",
        help="folder of a checkpoint or of its stage; a task's id (default: the agent's own) and keywords, team among "
        "them",
    )
    parser.add_argument(
        "--against", default="random", metavar="WHO", help="random or still, or another checkpoint (random)"
    )
    parser.add_argument("--games", type=int, default=500, metavar="N", help="how many, at least (500)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the games and of sampled actions (0)")
    parser.add_argument("--deterministic", action="store_true", help="play the most likely actions, not samples")
    options = parser.parse_intermixed_args(arguments)
    at_least(1, games=options.games)
    import torch
    from rich.console import Console

    from graft.experiments.playback.match import run

    torch.set_num_threads(1)
    run(Console(highlight=False, markup=False), options)
    return 0
