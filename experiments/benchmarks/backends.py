"""What a backend makes of a core: rollouts and updates of PPO, each backend beside the others in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.sb3.algorithms.ppo import PPOAlgorithm
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.backend import Hooks, Resources
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas

TASKS = (Task("Graft/Gather-v0"), Task("Graft/Dodge-v0"), Task("CartPole-v1"))

PLAIN, OURS, SB3 = "RLlib as it comes", "Graft on RLlib", "Graft on Stable-Baselines3"

K = TypeVar("K")

Round = Callable[[], object]
"""What a subject does in a round, such as one rollout and one update."""


def _network(task: Task) -> PolicyNetwork:
    return build_network(schemas(task), NetworkConfig(), 0)


def subjects(task: Task) -> dict[str, Round]:
    """Every way to train on ``task``, with the same network, batch, minibatches and epochs: PPO's defaults."""
    from graft.agents.ray_session.session import join
    from graft.agents.rllib.algorithm import ALGORITHMS as ON_RLLIB
    from graft.agents.rllib.backend import build_algorithm
    from graft.agents.rllib.baseline_ppo import baseline_ppo
    from graft.agents.rllib.runner import RunnerEnvConfig

    join(Resources())
    options = PPOAlgorithm()
    env = BatchVecEnv(make(task, options.num_envs, 0))
    learner = options.learner(_network(task), env, 0, None, "cpu")
    world = RunnerEnvConfig(task, schemas(task).observation, 0, 1.0, 1)
    ours = build_algorithm(ON_RLLIB["ppo"](), _network(task), world, Hooks(), 0, Resources())
    theirs = baseline_ppo(_network(task), task, options, 0)

    def on_sb3() -> None:
        learner.learn(options.num_envs * options.num_steps, reset_num_timesteps=False)

    return {PLAIN: theirs.train, OURS: ours.training_step, SB3: on_sb3}


def bench_backends(console: Console, rounds: int) -> None:
    """Print the table."""
    table = Table(
        title=f"Env steps trained on per second of one core: medians of {rounds} interleaved rounds",
        title_justify="left",
    )
    for column in ("task", PLAIN, OURS, "times as fast", SB3, "times as fast"):
        table.add_column(column, justify="left" if column == "task" else "right")
    steps = PPOAlgorithm().num_envs * PPOAlgorithm().num_steps
    for task in TASKS:
        with console.status(f"timing {task}, {rounds} rounds"):
            seconds = measure(subjects(task), rounds)
        middle = {name: statistics.median(found) for name, found in seconds.items()}
        ratios = {
            name: statistics.median(a / b for a, b in zip(seconds[PLAIN], seconds[name], strict=True))
            for name in (OURS, SB3)
        }
        table.add_row(
            str(task),
            f"{steps / middle[PLAIN]:,.0f}",
            f"{steps / middle[OURS]:,.0f}",
            f"{ratios[OURS]:.2f}",
            f"{steps / middle[SB3]:,.0f}",
            f"{ratios[SB3]:.2f}",
        )
    console.print(table)


def measure(found: dict[K, Round], rounds: int, clock: Callable[[], float] = time.process_time) -> dict[K, list[float]]:
    """Seconds of ``clock`` of every subject in every round, there and back, so that a drift cancels out."""
    for one in found.values():
        one()
    seconds: dict[K, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        spent = dict.fromkeys(found, 0.0)
        for name in (*found, *reversed(found)):
            start = clock()
            found[name]()
            spent[name] += clock() - start
        for name, value in spent.items():
            seconds[name].append(value / 2)
    return seconds
