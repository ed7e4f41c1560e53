"""`envs.make`: one call for every task."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from graft.envs.builtin.engine import channels
from graft.envs.core.naming import CHANNELS, LIKE, like_task, names_like, rename, split_names
from graft.envs.core.random_actions import sample
from graft.envs.core.registry import Registry
from graft.envs.core.schema import ObservationSchema, Schemas
from graft.envs.core.task import Adapter, BatchOptions, Bounds, Task, TaskVectorEnv
from graft.envs.core.teams import TeamEnv
from graft.envs.core.union import UnionObservation
from graft.envs.core.wrappers import WRAPPERS
from graft.errors import GraftError

SECONDS_OF_CHECK = 10.0
"""How long `check` plays to see an episode end."""

ADAPTERS: Registry[Adapter] = Registry("adapter", "graft.envs.adapters", Adapter, "graft.adapters", instances=True)


def adapter_for(task_id: str) -> Adapter:
    """The adapter with the longest prefix of ``task_id``."""

    def matching(adapter: Adapter) -> int:
        return max((len(prefix) for prefix in adapter.prefixes if task_id.startswith(prefix)), default=-1)

    return max((adapter for _, adapter in ADAPTERS.items()), key=matching)


def make(
    task: Task,
    num_envs: int,
    seed: int,
    autoreset: AutoresetMode = AutoresetMode.SAME_STEP,
    max_threads: int = 1,
    observation: ObservationSchema | None = None,
    render_mode: str | None = None,
    workers: int = 1,
) -> TaskVectorEnv:
    """A batch of ``num_envs`` environments of ``task``; environment i is seeded with ``seed + i``.

    It is smaller where the task is one running game of an engine, which has fewer agents.

    Args:
        task: what to make; its id's prefix chooses the adapter.
        num_envs: batch size, >= 1.
        seed: base seed, >= 0.
        autoreset: same-step (Stable-Baselines3) or next-step (RLlib).
        max_threads: cap on native threads that the environment's library may start.
        observation: lay observations out as this schema, which may hold more names than the task (`union`).
        render_mode: what the batch's ``render`` gives, such as ``rgb_array``.
        workers: processes to spread environments over; results do not depend on it. It pays where a step of the whole
            batch takes more than 2 ms in one process, and a core is free for each. Built-in games, EnvPool and
            PettingZoo stay in this process.
    Raises:
        GraftError: an unknown id, keyword or mechanic, a value out of range, a missing package, names that don't fit
            (`rename`), observations that do not fit into ``observation``, or a task that cannot be rendered.
    """
    if num_envs < 1:
        raise GraftError(f"num_envs is {num_envs}; a batch holds at least 1 environment.")
    if seed < 0:
        raise GraftError(f"seed is {seed}; seeds are whole numbers from 0.")
    if workers < 1:
        raise GraftError(f"workers is {workers}; at least 1 process is needed, which is this one.")
    task, names = split_names(task)
    adapter = adapter_for(task.id)
    task, planes = _split_planes(task, adapter)
    if render_mode is not None:
        if not adapter.renders:
            raise GraftError(
                f"Task {task} cannot be drawn; single built-in games, squads and Gymnasium's environments can, "
                f"such as minigrid:MiniGrid-DoorKey-6x6-v0."
            )
        task = Task(task.id, {**task.kwargs, "render_mode": render_mode})
    if WRAPPERS in task.kwargs and not adapter.takes_wrappers:
        raise GraftError(f"{WRAPPERS} of {task.id}: those are for environments of gymnasium.make only; leave them out.")
    if CHANNELS in names and not adapter.reads_channels:
        raise GraftError(f"schema of {task.id}: {CHANNELS} is known of these pictures; leave it out.")
    if LIKE in names and adapter.has_teams:
        raise GraftError(f"schema of {task.id}: '{LIKE}' is not for teams; give names under observation and action.")
    options = BatchOptions(num_envs, seed, autoreset, max_threads, workers, names.get(CHANNELS))
    env = adapter.make(task, options)
    try:
        if names:
            env.observation_schema, env.action_schema = _named(env.schemas, names, task.id)
        if planes is not None:
            env = channels.ChannelsObservation(env, planes, task.id)
        return env if observation in (None, env.observation_schema) else UnionObservation(env, observation)
    except GraftError:
        env.close()
        raise


def _split_planes(task: Task, adapter: Adapter) -> tuple[Task, str | None]:
    """The task without the keyword ``channels``, and its value, where `make` sees to it; others may have it too."""
    choice = task.kwargs.get(channels.KEYWORD)
    if adapter.own_planes or adapter.has_teams or choice not in channels.CHOICES:
        return task, None
    return Task(task.id, {k: v for k, v in task.kwargs.items() if k != channels.KEYWORD}), str(choice)


def _plain(task: Task) -> Task:
    """The task without the keywords that `make` sees to."""
    return _split_planes(split_names(task)[0], adapter_for(task.id))[0]


def _named(own: Schemas, names: Mapping[str, Any], task: str) -> Schemas:
    """A task's ``own`` schemas under the names of its keyword ``schema``; raises GraftError."""
    if LIKE not in names:
        return rename(own, names, task)
    other, known = like_task(names[LIKE], task)
    return names_like(own, known or schemas(other), task, other)


def make_teams(task: Task, seed: int, num_envs: int = 1) -> TeamEnv:
    """Games of a task for squads, with the agents of all its teams; `make` shows those of one as rows.

    The keywords ``team``, ``opponents`` and the names of ``schema`` are ignored. Raises GraftError as `make`, and for
    other tasks.
    """
    adapter = adapter_for(task.id)
    if not adapter.has_teams:
        offered = ", ".join(sorted(prefix for _, a in ADAPTERS.items() if a.has_teams for prefix in a.prefixes))
        raise GraftError(f"Task {task} is not for squads; ids of those begin with: {offered}.")
    plain, names = split_names(task)
    return adapter.make_teams(plain, BatchOptions(num_envs, seed, channels=names.get(CHANNELS)))


def modules(task: Task) -> tuple[str, ...]:
    """Names of the modules that environments are from, where they aren't Graft's; raises GraftError as `make`."""
    return adapter_for(task.id).modules(_split_planes(task, adapter_for(task.id))[0])


def part_modules(task: Task) -> tuple[str, ...]:
    """Names of the modules of views and wrappers of one's own that ``task`` has; raises GraftError as `make`."""
    return adapter_for(task.id).part_modules(_split_planes(task, adapter_for(task.id))[0])


@lru_cache(maxsize=256)
def schemas(task: Task) -> Schemas:
    """Both schemas of ``task``, from a throw-away batch of one."""
    env = make(task, num_envs=1, seed=0)
    try:
        return env.schemas
    finally:
        env.close()


def check(task: Task, longest: int | None = None) -> int:
    """Play a first step of ``task``; returns how many environments a batch of it needs to have all its parts.

    Args:
        longest: most steps of an episode that evaluations wait for. Where the task has no such limit, random actions
            are played until an episode has ended, or for `SECONDS_OF_CHECK`, after which a warning says so.
    Raises:
        GraftError: it cannot be made, or fails (some environments notice bad keyword arguments only then), or none of
            its episodes ends in ``longest`` steps.
    """
    env = make(task, num_envs=1, seed=0)
    if env.groups is not None:  # a batch of one holds one of its parts
        env.close()
        env = make(task, num_envs=len(env.groups.names), seed=0)
    try:
        obs, _ = env.reset()
        env.action_space.seed(0)
        first = env.step(sample(env, obs))
        ended = _ended(first)
        if env.faults.total:  # it was restarted, and would be again
            raise GraftError(f"Task {task} fails in its first step: {env.faults.last}.")
        if longest is not None and not ended and (env.step_limit is None or env.step_limit > longest):
            _check_end(task, env, first[0], longest)
        return 1 if env.groups is None else len(env.groups.names)
    except GraftError:
        raise
    except Exception as error:  # whatever a third party's code may raise
        raise GraftError(f"Task {task} fails in its first step: {type(error).__name__}, {error}.") from error
    finally:
        env.close()


def _ended(step: tuple[Any, ...]) -> bool:
    return bool(np.any(step[2] | step[3]))


def _check_end(task: Task, env: TaskVectorEnv, obs: Any, longest: int) -> None:
    """Play random actions, after a first step, until an episode ends; raises GraftError after ``longest`` steps.

    ``obs``: of the first step.
    """
    start, taken = time.monotonic(), 1
    while taken < longest and time.monotonic() - start < SECONDS_OF_CHECK:
        step = env.step(sample(env, obs))
        if _ended(step):
            return
        obs = step[0]
        taken += 1
    limit = "it has no max_episode_steps" if env.step_limit is None else f"its max_episode_steps is {env.step_limit}"
    seen = f"No episode of {task} ended within {taken:,} steps of random actions, and {limit}"
    mend = "give it a time limit, such as kwargs: {max_episode_steps: 500}"
    if taken < longest:
        warnings.warn(f"{seen}; if episodes never end, {mend}.", stacklevel=3)
        return
    raise GraftError(
        f"{seen}; {mend}, or, where episodes are long on purpose, let evaluations wait for their end, such as "
        f"evaluation: {{max_steps: {env.step_limit or 10 * longest}}}."
    )


def bounds(task: Task) -> Bounds | None:
    """Registered random and expert scores of ``task``, or None."""
    return adapter_for(task.id).bounds(_plain(task))
