"""Speed of rollouts and updates of PPO on one core: each backend against RLlib's own, in one process."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.sb3.algorithms.ppo import PPOAlgorithm
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import PPOOptions
from graft.agents.training.backend import Hooks, Resources
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas
from graft.experiments.benchmarks.timing import Round, bench_table, interleaved

TASKS = (Task("Graft/Gather-v0"), Task("Graft/Dodge-v0"), Task("CartPole-v1"))

BASELINE, RLLIB, SB3 = "RLlib as it comes", "Graft on RLlib", "Graft on Stable-Baselines3"


def build_rllib(
    task: Task, resources: Resources, config: NetworkConfig | None = None, **options: Any
) -> tuple[Any, PPOOptions]:
    """The RLlib backend's PPO, built as for training, and its options."""
    from graft.agents.rllib.algorithms.ppo import PPOAlgorithm
    from graft.agents.rllib.backend import build_algorithm
    from graft.agents.rllib.runner import RunnerEnvConfig

    chosen = PPOAlgorithm(**options)
    network = build_network(schemas(task), config or NetworkConfig(), 0)
    world = RunnerEnvConfig(task, network.schemas.observation, 0, 1.0, 1)
    return build_algorithm(chosen, network, world, Hooks(), 0, resources), chosen


def subjects(task: Task) -> dict[str, Round]:
    """Every way to train on ``task``, with the same network, batch, minibatches and epochs: PPO's defaults."""
    from graft.agents.ray_session.session import join
    from graft.agents.rllib.baseline_ppo import baseline_ppo

    join(Resources())
    options = PPOAlgorithm()

    def network() -> PolicyNetwork:
        return build_network(schemas(task), NetworkConfig(), 0)

    learner = options.learner(network(), BatchVecEnv(make(task, options.num_envs, 0)), 0, None, "cpu")
    steps = options.num_envs * options.num_steps
    return {
        BASELINE: baseline_ppo(network(), task, options, 0).train,
        RLLIB: build_rllib(task, Resources())[0].training_step,
        SB3: lambda: learner.learn(steps, reset_num_timesteps=False),
    }


def bench_backends(console: Console, rounds: int) -> None:
    """Print the table."""
    title = f"Env steps trained on per second of one core: medians of {rounds} interleaved rounds"
    table = bench_table(title, ("task", BASELINE, RLLIB, "times as fast", SB3, "times as fast"), ("task",))
    steps = PPOAlgorithm().num_envs * PPOAlgorithm().num_steps
    for task in TASKS:
        with console.status(f"timing {task}, {rounds} rounds"):
            seconds = interleaved(subjects(task), rounds)
        cells = [f"{steps / statistics.median(seconds[BASELINE]):,.0f}"]
        for name in (RLLIB, SB3):
            ratio = statistics.median(a / b for a, b in zip(seconds[BASELINE], seconds[name], strict=True))
            cells += [f"{steps / statistics.median(seconds[name]):,.0f}", f"{ratio:.2f}"]
        table.add_row(str(task), *cells)
    console.print(table)
