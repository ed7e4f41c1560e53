"""The command ``graft reference``: scores of random and of good play in a task, which its bounds are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.command import at_least, command, command_parser
from graft.errors import GraftError

if TYPE_CHECKING:
    from graft.agents.networks.policy_network import NetworkConfig

EXAMPLES = """examples:
  graft reference Graft/Gather-v0                      hours: 5M env steps for each of two seeds
  graft reference CartPole-v1 --steps 200000 --seeds 1
  graft reference Graft/Dodge-v0 --plan 128            also a planner, in built-in games
  graft reference Graft/Snake-v0 --network '{encoder: mlp, options: {widths: [128, 64]}}'
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "reference",
        "Measures a task's reference scores: a uniform random policy, and as the expert the best of PPO from scratch "
        "and, in built-in games, a planner that looks ahead with PPO's policy.",
        EXAMPLES,
    )
    parser.add_argument("task", help="a task's id")
    parser.add_argument("--steps", type=int, default=5_000_000, metavar="N", help="env steps of PPO (5000000)")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="trainings, of which the best counts (2)")
    parser.add_argument("--network", metavar="YAML", help="encoder, options and head, as in an experiment's config")
    parser.add_argument("--episodes", type=int, default=1024, metavar="N", help="episodes per score (1024)")
    parser.add_argument("--plan", type=int, default=0, metavar="N", help="episodes of the planner (0: without it)")
    parser.add_argument("--save", metavar="DIR", type=Path, help="where to keep the best policy as a checkpoint")
    options = parser.parse_args(arguments)
    at_least(1, steps=options.steps, seeds=options.seeds)
    at_least(2, episodes=options.episodes)
    import torch
    from rich.console import Console

    from graft.agents.checkpoints.checkpoint import Checkpoint
    from graft.envs.core.task import Task
    from graft.experiments.benchmarks import reference
    from graft.experiments.benchmarks.planner import check_plannable, planned_episodes

    torch.set_num_threads(1)
    network_config = _network(options.network)
    console, task = Console(highlight=False), Task(options.task)
    if options.plan:
        check_plannable(task)
    console.print(f"random: {reference.describe(reference.random_episodes(task, options.episodes).returns)}")
    found = []
    for seed in range(options.seeds):
        network = reference.expert(task, network_config, options.steps, seed, console)
        episodes = reference.policy_episodes(network, task, options.episodes)
        console.print(f"PPO, seed {seed}: {reference.describe(episodes.returns)}")
        found.append((float(episodes.returns.mean()), network))
    _, best = max(found, key=lambda pair: pair[0])
    if options.save:
        Checkpoint.of(best, task).save(options.save)
    if options.plan:
        planned = planned_episodes(best, task, options.plan, reference.SEED + 2000, reference.EXPERT.gamma)
        console.print(f"planner with the best policy: {reference.describe(planned.returns)}")
    return 0


def _network(text: str | None) -> NetworkConfig:
    """The architecture that a config's ``network`` would give; raises GraftError where it would."""
    from graft.agents.networks.policy_network import NetworkConfig
    from graft.experiments.config.experiment import NetworkSection, read_value
    from graft.experiments.config.options import parse_model

    given = {} if text is None else read_value(text, "--network")
    if not isinstance(given, dict):
        raise GraftError(f"--network {text} is not allowed; it is a mapping such as {{encoder: mlp}}.")
    section = parse_model(NetworkSection, given, "--network")
    return NetworkConfig(section.encoder, section.options, section.head, activation=section.activation)
