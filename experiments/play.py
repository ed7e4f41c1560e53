"""The command ``graft play``: a person plays a built-in game in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from graft.command import command, command_parser

EXAMPLES = """examples:
  graft play Graft/Maze-v0                       play; graft catalog lists the games
  graft play Graft/Platform-v0 gravity=0.5       with another mechanic
  graft play Graft/Hunt-v0 fog=3 palette=night   see no further than an agent does
  echo "right right act" | graft play Graft/Shoot-v0 --seed 3

Where the input is no terminal, it is read line by line: names of actions (noop, up, down, left, right, act), or keys
in a row (wasd. and space), also restart and quit.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "play",
        "Play a built-in game in the terminal: arrows or WASD to move, space to act, . to wait, r for a new episode,\n"
        "q to quit.",
        EXAMPLES,
    )
    parser.add_argument("task", nargs="+", metavar="TASK | key=value", help="a game's id; its mechanics by name")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first episode (0)")
    options = parser.parse_intermixed_args(arguments)
    from graft.envs.core.task_string import task_of
    from graft.envs.play import run

    run(task_of(options.task), options.seed, sys.stdin)
    return 0
