"""The command ``graft bench``: speed of games, adapters, methods, backends and training, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module

from graft.command import at_least, command, command_parser

DESCRIPTION = """Times, side by side on one core (scaling: on all of them):
  envs      Graft's games in planes and in pixels, with every mechanic, beside EnvPool's MiniGrid and
            Procgen and a Python loop over Gymnasium
  adapters  each adapter of other people's environments beside the bare library
  methods   the updates of every transfer method beside plain fine-tuning's
  backends  PPO on each backend beside RLlib as it comes
  train     PPO by Graft beside plain Stable-Baselines3, RLlib, sbx-rl and rsl-rl-lib (installed into runs/bench):
            full training, a frozen encoder, nature_cnn, an mlp; and where the time goes
  scaling   what more env runners, learners and a GPU give the RLlib backend: a game with 1 and 2 workers,
            and an environment that sleeps with up to --runners, of which each takes about 400 MB
  npc       decisions for 1,000 NPCs a frame: agents.Squad beside Stable-Baselines3's predict"""

EXAMPLES = """examples:
  graft bench envs --num-envs 1024 --rounds 5
  graft bench adapters --only CartPole --rounds 9
  graft bench methods --rounds 9
  graft bench backends --rounds 5
  graft bench train --only mlp --rounds 7
  graft bench scaling --rounds 3 --runners 16
  graft bench npc --rounds 9
"""


WHAT = ("envs", "adapters", "methods", "backends", "train", "scaling", "npc")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("bench", DESCRIPTION, EXAMPLES)
    parser.add_argument("what", choices=[*WHAT], help="what to time")
    parser.add_argument("--num-envs", type=int, default=1024, metavar="N", help="of envs: batch size (default: 1024)")
    parser.add_argument("--only", default="", metavar="TEXT", help="of adapters and train: those whose names hold this")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (default: 5)")
    parser.add_argument("--runners", type=int, default=16, metavar="N", help="of scaling: most runners (default: 16)")
    options = parser.parse_args(arguments)
    at_least(1, num_envs=options.num_envs, rounds=options.rounds, runners=options.runners)
    if options.what != "scaling" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from rich.console import Console

    console = Console(width=120)
    own = {
        "envs": [options.num_envs],
        "adapters": [options.only],
        "train": [options.only],
        "scaling": [options.runners],
    }
    benchmark = import_module(f"graft.experiments.benchmarks.{options.what}")
    getattr(benchmark, f"bench_{options.what}")(console, options.rounds, *own.get(options.what, []))
    return 0
