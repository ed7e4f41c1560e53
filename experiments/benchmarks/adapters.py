"""Cost of Graft's adapters against the bare libraries, with the same environments and actions."""

from __future__ import annotations

import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from rich.console import Console

from graft import envs
from graft.envs.adapters.mujoco.adapter import quiet
from graft.envs.core.task import Task, TaskVectorEnv
from graft.errors import GraftError
from graft.experiments.benchmarks.timing import bench_table, interleaved

POOL = "envpool/"
TARGET = 10.0
"""Percent that an adapter may cost at batches of 32 and more."""

SLICE_SECONDS = 0.1
"""Of processor time that a library is stepped before the adapter's turn."""

ROWS = 16
"""Batches of actions in a sweep, which is repeated."""


class Subject(NamedTuple):
    """An adapter's task, and the sizes of batches in which it is timed.

    ``wrap`` does to the bare library's environments what the task's keywords ask of Graft.
    """

    task: Task
    batches: tuple[int, ...] = (32, 256)
    wrap: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None = None


class RandomMasses(gym.Wrapper[Any, Any, Any, Any]):
    """A MuJoCo robot whose masses are scaled anew at every reset, written as a plain wrapper."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._mujoco, self._model = importlib.import_module("mujoco"), env.get_wrapper_attr("model")
        self._first = self._model.body_mass.copy(), self._model.body_inertia.copy()
        self._scratch = self._mujoco.MjData(self._model)
        self._rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        scale = self._rng.uniform(0.5, 2.0)
        self._model.body_mass[:], self._model.body_inertia[:] = (part * scale for part in self._first)
        self._mujoco.mj_setConst(self._model, self._scratch)
        return self.env.reset(seed=seed, options=options)


SUBJECTS = (
    Subject(Task("CartPole-v1")),
    Subject(Task("Acrobot-v1")),
    Subject(Task("LunarLander-v3")),
    Subject(Task("HalfCheetah-v5")),
    Subject(Task("Hopper-v5"), (32,)),
    Subject(Task("Hopper-v5", {"mass": {"uniform": [0.5, 2.0]}}), (32,), RandomMasses),
    Subject(Task("minigrid:MiniGrid-DoorKey-6x6-v0")),
    Subject(Task("ale_py:ALE/Pong-v5"), (32,)),
    Subject(Task(POOL + "MiniGrid-DoorKey-6x6-v0")),
    Subject(Task(POOL + "CoinrunEasy-v0")),
    Subject(Task(POOL + "Pong-v5"), (32,)),
    Subject(Task(POOL + "HalfCheetah-v5")),
)


class Result(NamedTuple):
    """Env steps per second of processor time, and what the adapter adds to the library's time, in percent."""

    bare: float
    ours: float
    overhead: float


def _bare_gymnasium(subject: Subject, num_envs: int) -> tuple[Any, Any]:
    """Gymnasium's own batch in one process, and its action space."""

    def single() -> gym.Env[Any, Any]:
        module, _, name = subject.task.id.rpartition(":")
        if module:
            importlib.import_module(module)
        env: gym.Env[Any, Any] = gym.make(name, disable_env_checker=True)
        return subject.wrap(env) if subject.wrap else env

    with quiet():
        batch = SyncVectorEnv([single] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    batch.reset(seed=0)
    return batch, batch.single_action_space


def _bare_envpool(subject: Subject, num_envs: int) -> tuple[Any, Any]:
    """EnvPool's own pool with one thread, and its action space."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        pool = importlib.import_module("envpool").make_gymnasium(
            subject.task.id.removeprefix(POOL), num_envs=num_envs, num_threads=1, env_seed=list(range(num_envs))
        )
        pool.reset()
    return pool, pool.action_space


def _actions(space: Any, env: TaskVectorEnv) -> tuple[list[Any], list[Any]]:
    """The same random actions in the library's form and in Graft's."""
    env.action_space.seed(0)
    ours = [env.action_space.sample() for _ in range(ROWS)]
    return [row.astype(space.dtype).reshape(-1, *space.shape) for row in ours], ours


def _sweep(step: Callable[[Any], Any], actions: list[Any], sweeps: int) -> None:
    for _ in range(sweeps):
        for row in actions:
            step(row)


def measure(bare: Callable[[int], None], ours: Callable[[int], None], steps: int, rounds: int) -> Result:
    """Medians of interleaved rounds of sweeps of ``steps`` env steps; the overhead is that of the rounds' ratios."""
    bare(1)
    start = time.process_time()
    bare(1)
    sweeps = max(1, round(SLICE_SECONDS / max(time.process_time() - start, 1e-6)))
    seconds = interleaved({"bare": lambda: bare(sweeps), "ours": lambda: ours(sweeps)}, rounds, time.process_time)
    pairs = list(zip(seconds["bare"], seconds["ours"], strict=True))
    return Result(
        sweeps * steps / statistics.median(seconds["bare"]),
        sweeps * steps / statistics.median(seconds["ours"]),
        100 * (statistics.median(graft / library for library, graft in pairs) - 1),
    )


def compare(subject: Subject, num_envs: int, rounds: int) -> Result:
    """One adapter and its library in one size of batch; raises GraftError where a package is missing."""
    pool = subject.task.id.startswith(POOL)
    # The library's own convention: under another one a reset would be a step on one side alone.
    mode = AutoresetMode.NEXT_STEP if pool else AutoresetMode.SAME_STEP
    bare = _bare_envpool if pool else _bare_gymnasium
    with closing(envs.make(subject.task, num_envs, 0, mode)) as env:
        env.reset()
        batch, space = bare(subject, num_envs)
        with closing(batch):
            theirs, mine = _actions(space, env)
            sides = partial(_sweep, batch.step, theirs), partial(_sweep, env.step, mine)
            return measure(*sides, ROWS * num_envs, rounds)


def bench_adapters(console: Console, rounds: int, only: str = "") -> None:
    """Print the table; ``only``: of the tasks whose names hold this."""
    title = f"Env steps per second of processor time on one core: medians of {rounds} interleaved rounds"
    columns = ("task", "batch", "bare library", "Graft", "overhead", "")
    table = bench_table(title, columns, ("task", ""), f"* more than {TARGET:g} %")
    chosen = [subject for subject in SUBJECTS if only.casefold() in str(subject.task).casefold()]
    if not chosen:
        raise GraftError(f"--only '{only}' names none of: {', '.join(str(subject.task) for subject in SUBJECTS)}.")
    for subject in chosen:
        for num_envs in subject.batches:
            try:
                with console.status(f"timing {subject.task}, batch of {num_envs}, {rounds} rounds"):
                    bare, ours, overhead = compare(subject, num_envs, rounds)
            except GraftError as error:
                console.print(f"left out: {error}", soft_wrap=True)
                break
            cells = (f"{bare:,.0f}", f"{ours:,.0f}", f"{overhead:+.1f} %", "*" if overhead > TARGET else "")
            table.add_row(str(subject.task), str(num_envs), *cells)
    console.print(table)
