"""Speed of the built-in games in env steps per second, beside other libraries' environments."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from rich.console import Console

from graft.envs.builtin.engine.game import GAMES
from graft.envs.core.task import Task
from graft.envs.factory import make
from graft.errors import GraftError
from graft.experiments.benchmarks.timing import bench_table

Subject = Callable[[], int]
"""Takes some env steps with random actions, reading every observation, and returns how many."""

LOOPED = ("CartPole-v1", "MiniGrid-DoorKey-6x6-v0")
"""Ids stepped one at a time in a Python loop over `gymnasium.make`, as the baseline everybody has."""

BATCHED = ("MiniGrid-DoorKey-6x6-v0", "CoinrunEasy-v0")
"""Ids of EnvPool; the second is Procgen's, in 64 x 64 pixels like ours."""

SLICE_SECONDS = 0.2
"""How long a subject runs at a time."""

PLAIN, EVERYTHING = "as it is", "all mechanics at once"


class Variant(NamedTuple):
    """A game in one view with some of its mechanics: what they are called, and the task."""

    game: str
    view: str
    change: str
    task: Task


def variants() -> list[Variant]:
    """Every game in planes and in pixels: as it is, with each mechanic at each end of its range, with all at once."""
    timed = []
    for name, game in GAMES.items():
        changes: dict[str, dict[str, Any]] = {PLAIN: {}}
        for mechanic in game.mechanics.values():
            for value in mechanic.extremes:
                if value != mechanic.default:
                    changes[f"{mechanic.name}={value}"] = {mechanic.name: value}
        changes[EVERYTHING] = {mechanic.name: mechanic.extremes[1] for mechanic in game.mechanics.values()}
        for view in ("planes", "pixels"):
            timed += [Variant(name, view, what, Task(name, {"view": view, **kw})) for what, kw in changes.items()]
    return timed


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


def _others(console: Console, num_envs: int) -> dict[str, Subject]:
    """Other libraries' environments; a line says which are not installed."""
    subjects: dict[str, Subject] = {}
    for task_id in BATCHED:
        try:
            subjects[f"EnvPool {task_id}, batch of {num_envs}"] = _batch(Task(f"envpool/{task_id}"), num_envs)
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


def bench_envs(console: Console, rounds: int, num_envs: int) -> None:
    """Print the tables of env steps per second."""
    games = variants()
    ours = {f"{v.game} {v.view} {v.change}": _batch(v.task, num_envs) for v in games}
    others = _others(console, num_envs)
    with console.status(f"timing {len(ours) + len(others)} subjects, {rounds} rounds"):
        rates = measure(ours | others, rounds)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    table = bench_table(
        f"Env steps per second on one core, batch of {num_envs}: median of {rounds} interleaved rounds",
        ("game", "view", PLAIN, "least with one mechanic", "", EVERYTHING),
        text=("game", "view", ""),
    )
    for game, view in dict.fromkeys((v.game, v.view) for v in games):
        of_game = {v.change: middle[f"{game} {view} {v.change}"] for v in games if (v.game, v.view) == (game, view)}
        plain, everything = of_game.pop(PLAIN), of_game.pop(EVERYTHING)
        slowest = min(of_game, key=lambda change: of_game[change])
        table.add_row(str(Task(game)), view, f"{plain:,.0f}", f"{of_game[slowest]:,.0f}", slowest, f"{everything:,.0f}")
    console.print(table)
    baselines = bench_table("Other libraries", ("environment", "median", "least", "most"), text=("environment",))
    for name in others:
        baselines.add_row(name, *(f"{value:,.0f}" for value in (middle[name], min(rates[name]), max(rates[name]))))
    console.print(baselines)
