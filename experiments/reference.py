"""The command ``graft reference``: scores of random and of good play in a task, which its bounds are made of."""

from __future__ import annotations

from collections.abc import Sequence

from graft.command import at_least, command, command_parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "reference",
        "Measures a task's reference scores: a uniform random policy, and PPO from scratch as the expert.",
        "example:\n  graft reference Graft/Gather-v0 --steps 2000000",
    )
    parser.add_argument("task", help="a task's id")
    parser.add_argument("--steps", type=int, default=2_000_000, metavar="N", help="env steps of the expert (2000000)")
    parser.add_argument("--episodes", type=int, default=1024, metavar="N", help="episodes per score (1024)")
    options = parser.parse_args(arguments)
    at_least(1, steps=options.steps)
    at_least(2, episodes=options.episodes)
    import torch
    from rich.console import Console

    from graft.envs.core.task import Task
    from graft.experiments.benchmarks.reference import describe, expert_episodes, random_episodes

    torch.set_num_threads(1)
    console, task = Console(highlight=False), Task(options.task)
    console.print(f"random: {describe(random_episodes(task, options.episodes).returns)}")
    console.print(f"expert: {describe(expert_episodes(task, options.steps, options.episodes, console).returns)}")
    return 0
