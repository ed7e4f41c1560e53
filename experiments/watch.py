"""The command ``graft watch``: records how an agent plays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from graft.command import at_least, command, command_parser

EXAMPLES = """examples:
  graft watch runs/mechanics/stages/27ab12 --gif gather.gif
  graft watch runs/mechanics/stages/27ab12 slip=0.3 --gif slippery.gif --episodes 4
  graft watch runs/mechanics/stages/27ab12 Graft/Gather-v0 palette=night --gif night.gif
  graft watch CHECKPOINT minigrid:MiniGrid-DoorKey-6x6-v0 --gif door.gif --deterministic
  graft watch runs/squads/stages/27ab12 Graft/Pursuit-v0 team=prey hunters=5 --gif pursuit.gif

Of a squad, the agent plays the whole team, the first team being blue, and the return is the mean over the team.
Pictures show the board as it is, also where the agent's view of it is mirrored, fogged or noisy.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("watch", "Record an agent from a checkpoint while it plays a task.", EXAMPLES)
    parser.add_argument(
        "words",
        nargs="+",
        metavar="CHECKPOINT | TASK | key=value",
        help="folder of a checkpoint or of its stage; a task's id (default: the agent's own) and keywords",
    )
    parser.add_argument("--gif", type=Path, required=True, metavar="FILE", help="animation to write")
    parser.add_argument("--episodes", type=int, default=2, metavar="N", help="stop after so many (2)")
    parser.add_argument("--frames", type=int, default=500, metavar="N", help="stop after so many at the latest (500)")
    parser.add_argument("--fps", type=float, metavar="F", help="frames a second, up to 50 (the task's own)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the task and of sampled actions (0)")
    parser.add_argument("--deterministic", action="store_true", help="play the most likely action, not a sample")
    parser.add_argument("--force", action="store_true", help="replace the file where it exists")
    options = parser.parse_intermixed_args(arguments)
    at_least(1, episodes=options.episodes, frames=options.frames)
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # pygame, which draws for Gymnasium, looks for a sound card
    import torch
    from rich.console import Console

    from graft.experiments.playback.record import run

    torch.set_num_threads(1)
    run(Console(highlight=False, markup=False), options)
    return 0
