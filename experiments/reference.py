"""Reference scores: `python -m experiments.reference TASK` measures what a task's bounds are made of."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.training.backend import Evaluation, TrainJob
from graft.agents.training.evaluate import Episodes, evaluate, play_episodes
from graft.command import command
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas

SEED = 20_000_000
"""Far from the seeds of experiments' stages with small seeds; both scores can be measured again from it."""


def random_episodes(task: Task, episodes: int) -> Episodes:
    """Outcomes of the uniform random policy."""
    env = make(task, 64, SEED)
    env.action_space.seed(SEED)
    try:
        return play_episodes(lambda _: env.action_space.sample(), env, episodes)
    finally:
        env.close()


def expert_episodes(task: Task, steps: int, episodes: int, console: Console) -> Episodes:
    """Outcomes of PPO with its default options after ``steps`` env steps from scratch."""
    network = PolicyNetwork(schemas(task), NetworkConfig(), SEED)
    start = time.monotonic()

    def record(env_steps: int, values: Mapping[str, float]) -> None:
        if "eval/return_mean" in values:
            rate = env_steps / (time.monotonic() - start)
            console.print(
                f"{env_steps:,} of {steps:,} env steps, {rate:,.0f}/s, return {values['eval/return_mean']:.2f}"
            )

    train(TrainJob(network, task, ALGORITHMS["ppo"](), steps, SEED, record, Evaluation(every=max(1, steps // 20))))
    env = make(task, 64, SEED + 1000)
    try:
        return evaluate(network, env, episodes, torch.Generator().manual_seed(SEED))
    finally:
        env.close()


def describe(returns: Any) -> str:
    """Mean with its 95 % interval."""
    values = np.asarray(returns, np.float64)
    return f"{values.mean():.3f} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.3f} over {len(values)} episodes"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reference",
        description="Measures a task's reference scores: a uniform random policy, and PPO from scratch as the expert.",
        epilog="example:\n  python -m experiments.reference Graft/Gather-v0 --steps 2000000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", help="a task's id")
    parser.add_argument("--steps", type=int, default=2_000_000, metavar="N", help="env steps of the expert (2000000)")
    parser.add_argument("--episodes", type=int, default=1024, metavar="N", help="episodes per score (1024)")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.episodes < 2:
        parser.error("--steps must be at least 1 and --episodes at least 2")
    torch.set_num_threads(1)
    console = Console(highlight=False)
    task = Task(options.task)
    console.print(f"random: {describe(random_episodes(task, options.episodes).returns)}")
    console.print(f"expert: {describe(expert_episodes(task, options.steps, options.episodes, console).returns)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
