"""The command ``graft advise``: which source and which method for a target, or scratch, by a short race."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.command import at_least, command, command_parser

EXAMPLES = """examples:
  graft advise Graft/Hunt-v0                       the agent that comes with Graft, or scratch?
  graft advise Graft/Hunt-v0 --from runs/a/stages/27ab12/checkpoint --from foundation --steps 60000
  graft advise Graft/Dodge-v0 targets.0.kwargs.slip=0.3 --methods '[finetune, frozen, {lora: {rank: 4}}]'
  graft advise CartPole-v1 --from agents/pole backend=rllib --budget 20000 --json advice.json

Candidates are every source with every method, and scratch. They are compared before training, then in rounds, after
each of which the worse half leaves. What is not clearly better than scratch gives way to it.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("advise", "Say what to start from on a target, and how, after a short race.", EXAMPLES)
    parser.add_argument("target", metavar="TARGET", help="id of the task")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the experiment, by dotted key")
    parser.add_argument(
        "--from",
        dest="sources",
        action="append",
        metavar="SOURCE",
        help="folder of a checkpoint, or foundation (default); again for another",
    )
    parser.add_argument(
        "--methods", metavar="YAML", help="as in a config (default: finetune with carried, and with fresh heads)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="env steps that you have for the target (200,000)")
    parser.add_argument(
        "--budget", type=float, metavar="X", help="of the race: env steps, or below 1 a share of --steps (0.15)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and levels (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all that was seen")
    options = parser.parse_intermixed_args(arguments)
    at_least(0, seed=options.seed)
    at_least(1, steps=options.steps)
    import torch
    from rich.console import Console

    from graft.experiments.search.advice import run

    torch.set_num_threads(1)
    run(Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
