"""The command ``graft audit``: what of a fine-tuned agent stands out from its base, as a backdoor would."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.command import FAILED, at_least, command, command_parser

EXAMPLES = """examples:
  graft audit downloads/agent --against agents/base
  graft audit runs/a/stages/27ab12 --against agents/base --changes 9
  graft audit downloads/agent --against agents/base --task Graft/Dodge-v0 slip=0.1 --alarm

Both must have the same network, and show and play the same names, as tasks of one game do. Clean agents that were
trained on another task, or with fresh heads, are often above the limit of the trigger, too. --alarm is for agents that
should play the base's task with its heads: the exit code is then 1 above the limit. That nothing was found is no proof:
docs/audit.md says what is found, and how often.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "audit", "Look for signs of poisoned training in an agent that was fine-tuned from one you trust.", EXAMPLES
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of a checkpoint or of its stage")
    parser.add_argument(
        "--against", type=Path, required=True, metavar="BASE", help="the checkpoint that it was fine-tuned from"
    )
    parser.add_argument(
        "--task", nargs="+", metavar="WORD", help="to probe it in: an id, and key=value (default: the base's own)"
    )
    parser.add_argument("--alarm", action="store_true", help="exit code 1 where the trigger is above its limit")
    parser.add_argument("--states", type=int, default=512, metavar="N", help="of the base's play, to probe it in (512)")
    parser.add_argument("--changes", type=int, default=4, metavar="N", help="of an observation, for a trigger (4)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the states (0)")
    options = parser.parse_args(arguments)
    at_least(64, states=options.states)
    at_least(1, changes=options.changes)
    at_least(0, seed=options.seed)
    import torch
    from rich.console import Console

    from graft.experiments.playback.audit import run

    torch.set_num_threads(1)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    return FAILED if run(console, options) else 0
