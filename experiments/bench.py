"""Speed: `python -m experiments.bench envs` times environments, and `... methods` methods, side by side on one core."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

from envs.errors import GraftError
from envs.factory import adapter_for, make
from envs.task import Task

Subject = Callable[[], int]
"""Takes some env steps with random actions, reading every observation, and returns how many."""

LOOPED = ("CartPole-v1", "MiniGrid-DoorKey-6x6-v0")
"""Ids stepped one at a time in a Python loop over `gymnasium.make`, as the baseline everybody has."""

BATCHED = "envpool/MiniGrid-DoorKey-6x6-v0"
SLICE_SECONDS = 0.4
"""How long a subject runs before the next one takes over."""


def _batch(task: Task, num_envs: int) -> Subject:
    env = make(task, num_envs, seed=0)
    env.reset()
    actions = np.random.default_rng(0).integers(len(env.action_schema.names), size=(64, num_envs))

    def slice_() -> int:
        for row in actions:
            env.step(row)
        return int(actions.size)

    return slice_


def _loop(task_id: str) -> Subject:
    env = gym.make(task_id)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(256)]

    def slice_() -> int:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return len(actions)

    return slice_


def _rate(subject: Subject) -> float:
    """Env steps per second over one time slice."""
    steps, start, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < SLICE_SECONDS:
        steps += subject()
        elapsed = time.perf_counter() - start
    return steps / elapsed


def measure(subjects: dict[str, Subject], rounds: int) -> dict[str, list[float]]:
    """Rates of every subject, interleaved: odd rounds run backwards, so that a drift of the machine cancels out."""
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    for subject in subjects.values():
        subject()  # compiles and warms up
    for index in range(rounds):
        names = list(subjects)
        for name in names if index % 2 == 0 else reversed(names):
            rates[name].append(_rate(subjects[name]))
    return rates


def _subjects(console: Console, num_envs: int) -> dict[str, Subject]:
    games = [Task(game) for game in adapter_for("Graft/").ids()]
    slippery = [Task(t.id, {"slip": 0.3, "wrap": True}) for t in games]
    subjects = {f"{task}, batch of {num_envs}": _batch(task, num_envs) for task in [*games, *slippery]}
    try:
        subjects[f"EnvPool {BATCHED.removeprefix('envpool/')}, batch of {num_envs}"] = _batch(Task(BATCHED), num_envs)
    except GraftError as error:
        console.print(f"left out: {error}", soft_wrap=True)
    for task_id in LOOPED:
        try:
            if task_id.startswith("MiniGrid"):
                import minigrid  # noqa: F401 - registers its ids
            subjects[f"Gymnasium {task_id}, Python loop"] = _loop(task_id)
        except ImportError:
            console.print(f"left out: {task_id} (pip install 'graft-rl[games]')", soft_wrap=True)
    return subjects


def bench_envs(console: Console, num_envs: int, rounds: int) -> None:
    """Print the table of env steps per second."""
    rates = measure(_subjects(console, num_envs), rounds)
    baseline = statistics.median(rates[f"Gymnasium {LOOPED[0]}, Python loop"])
    table = Table(
        title=f"Env steps per second on one core: median of {rounds} interleaved rounds", title_justify="left"
    )
    table.add_column("environment")
    for column in ("median", "least", "most", f"times {LOOPED[0]}"):
        table.add_column(column, justify="right")
    for name, found in rates.items():
        middle = statistics.median(found)
        table.add_row(name, f"{middle:,.0f}", f"{min(found):,.0f}", f"{max(found):,.0f}", f"{middle / baseline:,.1f}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench",
        description="Times Graft's environments beside EnvPool's MiniGrid and a Python loop over Gymnasium, or the "
        "updates of every transfer method beside plain fine-tuning's.",
        epilog="examples:\n  python -m experiments.bench envs --num-envs 1024 --rounds 5\n"
        "  python -m experiments.bench methods --rounds 9",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["envs", "methods"], help="what to time")
    parser.add_argument("--num-envs", type=int, default=1024, metavar="N", help="of envs: batch size (default: 1024)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (default: 5)")
    options = parser.parse_args(arguments)
    if options.num_envs < 1 or options.rounds < 1:
        parser.error("--num-envs and --rounds must be at least 1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.what == "envs":
        bench_envs(Console(width=120), options.num_envs, options.rounds)
    else:
        from experiments.bench_methods import bench_methods

        bench_methods(Console(width=120), options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
