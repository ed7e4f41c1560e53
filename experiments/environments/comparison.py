"""Random play of an environment under Graft beside a plain loop over its library, with the same seeds and actions."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from graft.envs.adapters.masks import METHOD
from graft.envs.adapters.minigrid.worlds import is_world
from graft.envs.adapters.pettingzoo.adapter import PREFIX
from graft.envs.core.action_masks import MASK
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.factory import make
from graft.experiments.environments.agents_comparison import compare_agents
from graft.experiments.environments.played import (
    SEED,
    Difference,
    Played,
    first_difference,
    grafts,
    librarys,
    seed_all,
    taken,
)
from graft.experiments.environments.shown import copied, seen, shown_space

NUM_ENVS = 2


def compare(task: Task, steps: int) -> dict[str, Any]:
    """Play ``task`` and its library with equal seeds and actions; what came of it, as JSON.

    Returns:
        ``result``: ``equal``; ``equal, from one seed of all random numbers`` where the environment draws from Python's
        or NumPy's global ones; ``equal in first episodes, later ones are not repeatable`` where two plain loops differ
        after a reset without a seed, ``not repeatable`` where they differ before; else how Graft differs. ``steps``,
        ``episodes``: of all environments. ``faults``, ``clipped``: of Graft's.
    Raises:
        GraftError: the task can't be made.
    """
    if task.id.startswith(PREFIX):
        return compare_agents(task, steps)
    difference, found, _ = _compare(task, steps, NUM_ENVS)
    if difference is None:
        return {"result": "equal", **found}
    with_one, found, streams = _compare(task, steps, 1)
    if with_one is None:
        return {"result": "equal, from one seed of all random numbers", **found}
    with closing(make(task, 1, SEED)) as env:
        loops = [_plain(task, env.schemas, streams) for _ in range(2)]
    if not _same_numbers(*loops):
        in_first, found, _ = _compare(task, steps, NUM_ENVS, first_only=True)
        equal = "equal in first episodes, later ones are not repeatable"
        return {"result": "not repeatable" if in_first else equal, **found}
    return {"result": f"another {difference}", **found}


def _compare(
    task: Task, steps: int, count: int, first_only: bool = False
) -> tuple[Difference | None, dict[str, Any], list[list[Any]]]:
    """Where they part; how much was played; the actions of each environment."""
    with closing(make(task, count, SEED)) as env:
        played, streams = grafts(env, steps)
        expected = _plain(task, env.schemas, streams)
        with _single(task) as single:
            space, world = shown_space(single.observation_space, env.observation_schema), is_world(single)
        if first_only:
            played, expected = ([_first_episode(one) for one in rollout] for rollout in (played, expected))
        difference = first_difference(env.observation_schema, space, world, played, expected)
        ended = sum(step.terminated or step.truncated for one in played for step in one)
        faults = str(env.faults) if env.faults.total else ""
        found = {"steps": sum(map(len, played)), "episodes": ended, "faults": faults, "clipped": env.faults.clipped}
        return difference, found, streams


def _first_episode(played: list[Played]) -> list[Played]:
    ends = (number for number, step in enumerate(played, 1) if step.terminated or step.truncated)
    return played[: next(ends, len(played))]


@contextmanager
def _single(task: Task) -> Iterator[gym.Env[Any, Any]]:
    """The library's own environment, without Graft, in the wrappers that the task asks for."""
    module, _, name = task.id.rpartition(":")
    if module:
        importlib.import_module(module)
    env: Any = gym.make(name, disable_env_checker=True, **librarys(task))
    for wrapper in task.kwargs.get("wrappers", []):
        (wrapper_name, options) = next(iter(wrapper.items())) if isinstance(wrapper, Mapping) else (wrapper, {})
        place, _, attribute = wrapper_name.rpartition(":")
        env = getattr(importlib.import_module(place or "gymnasium.wrappers"), attribute)(env, **(options or {}))
    try:
        yield env
    finally:
        env.close()


def _plain(task: Task, schemas: Schemas, streams: list[list[Any]]) -> list[list[Played]]:
    played, weights = [], task.kwargs.get("reward_weights")
    masked = schemas.observation.kind == "masked"
    seed_all()
    for i, stream in enumerate(streams):
        with _single(task) as env:
            if len(streams) == 1:
                seed_all()
            obs, one = _shown(env, masked, False, *env.reset(seed=SEED + i)), []
            for action in stream:
                paid: Any
                raw, paid, terminated, truncated, info = env.step(taken(env.action_space, schemas.action, action))
                number = np.dot(np.ravel(paid), weights) if weights else np.ravel(paid)[0]
                ends = bool(terminated), bool(truncated) and not terminated
                after = _shown(env, masked, any(ends), raw, info)
                one.append(Played(obs, float(number), *ends, after))
                obs = _shown(env, masked, False, *env.reset()) if any(ends) else after
            played.append(one)
    return played


def _shown(env: Any, masked: bool, ended: bool, raw: Any, info: Any) -> Any:
    """An observation, with its mask where there are masks: also from a method ``action_masks()``."""
    if not masked:
        return copied(raw)
    if not ended and MASK not in info and env.has_wrapper_attr(METHOD):
        info = {MASK: env.get_wrapper_attr(METHOD)()}
    return seen(raw, info, ended)


def _same_numbers(ours: list[list[Played]], theirs: list[list[Played]]) -> bool:
    """Whether two plain rollouts are alike."""
    flags = [[[step[1:4] for step in one] for one in rollout] for rollout in (ours, theirs)]
    shown = [[str(step.after) for one in rollout for step in one] for rollout in (ours, theirs)]
    return flags[0] == flags[1] and shown[0] == shown[1]
