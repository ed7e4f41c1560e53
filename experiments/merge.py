"""The command ``graft merge``: one agent of several that were fine-tuned from the same base."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.command import at_least, command, command_parser

EXAMPLES = """examples:
  graft merge runs/a/stages/27ab12 runs/a/stages/9c01de --out agents/both
  graft merge runs/a/stages/27ab12 runs/b/stages/9c01de --search runs --method ties --keep 0.3 --out agents/both
  graft merge agents/slip agents/fog --base agents/dodge --method task_arithmetic --scale 0.5 --out agents/both

All must have the same network, and show and play the same names, as tasks of one game do: agents of two games are
refused where these show other names, also fine-tunes of one foundation.

methods:
  average          the mean of all weights (Wortsman et al. 2022)
  task_arithmetic  the base, and --scale times the sum of what the agents changed (Ilharco et al. 2023)
  ties             small changes are dropped, and where signs differ the smaller side (Yadav et al. 2023)
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "merge", "Merge the weights of agents that were fine-tuned from one base, without training.", EXAMPLES
    )
    parser.add_argument(
        "agents",
        nargs="+",
        type=Path,
        metavar="CHECKPOINT",
        help="folders of checkpoints or of their stages, two or more",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the checkpoint to write")
    parser.add_argument(
        "--method", default="average", metavar="NAME", help="average (default), task_arithmetic or ties"
    )
    parser.add_argument("--scale", type=float, metavar="X", help="of task_arithmetic (0.4) and ties (1)")
    parser.add_argument("--keep", type=float, metavar="SHARE", help="of ties: of the changes, the largest (0.2)")
    parser.add_argument(
        "--base",
        type=Path,
        metavar="CHECKPOINT",
        help="what they were fine-tuned from (default: their last common ancestor)",
    )
    parser.add_argument(
        "--search", type=Path, action="append", default=[], metavar="DIR", help="where ancestors may lie"
    )
    parser.add_argument("--episodes", type=int, default=64, metavar="N", help="of each score; 0 plays none (64)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the episodes (0)")
    parser.add_argument(
        "--override-licence", action="store_true", help="merge what allows no derivatives; the checkpoint records it"
    )
    parser.add_argument("--force", action="store_true", help="replace the checkpoint where there is one")
    options = parser.parse_args(arguments)
    at_least(0, episodes=options.episodes, seed=options.seed)
    import torch
    from rich.console import Console

    from graft.experiments.playback.merge import run

    torch.set_num_threads(1)
    run(Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160), options)
    return 0
