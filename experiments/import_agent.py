"""The command ``graft import``: an agent of another library as a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.command import at_least, command, command_parser

EXAMPLES = """examples:
  graft import ppo.zip --task gymnasium:CartPole-v1 --out agents/cartpole
  graft import sac.zip --task gymnasium:Pendulum-v1 --out agents/pendulum --normalise statistics.npz
  graft import agent.pt --names names.yaml --task gymnasium:Pendulum-v1 --out agents/pendulum --licence MIT

Nothing in the file is executed. The checkpoint is written where the network plays what the file's plays on recorded
observations; then it is a source like any other: sources: {checkpoint: agents/cartpole}.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("import", "Make a checkpoint of an agent that another library has trained.", EXAMPLES)
    parser.add_argument("file", type=Path, metavar="FILE", help="the agent's file, or the folder of its checkpoint")
    parser.add_argument(
        "--task", nargs="+", required=True, metavar="WORD", help="the task that it plays: an id, and key=value"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the checkpoint to write")
    parser.add_argument("--format", metavar="NAME", help="of the file (default: by its name)")
    parser.add_argument("--names", type=Path, metavar="YAML", help="which tensor of the file is what")
    parser.add_argument("--activation", metavar="NAME", help="of the hidden layers, where the file does not say it")
    parser.add_argument("--normalise", type=Path, metavar="FILE", help="statistics of observations, .npz or .json")
    parser.add_argument(
        "--trust", action="store_true", help="let the file's own library read it, in a process without network"
    )
    parser.add_argument("--licence", default="unspecified", metavar="SPDX", help="of the agent, such as MIT")
    parser.add_argument("--origin", metavar="TEXT", help="where the file is from, to be kept in the checkpoint")
    parser.add_argument(
        "--observations", type=int, default=1000, metavar="N", help="to compare the actions on, at least (1000)"
    )
    parser.add_argument("--episodes", type=int, default=16, metavar="N", help="to play greedily for a score (16)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the observations and episodes (0)")
    parser.add_argument("--force", action="store_true", help="replace the checkpoint where there is one")
    options = parser.parse_args(arguments)
    at_least(1, observations=options.observations)
    at_least(0, episodes=options.episodes, seed=options.seed)
    import torch
    from rich.console import Console

    from graft.experiments.importing.run import run

    torch.set_num_threads(1)
    run(Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160), options)
    return 0
