"""Random play of an environment under Graft beside a plain loop over its library, with the same seeds and actions."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from graft.envs.adapters.minigrid.adapter import encode
from graft.envs.adapters.minigrid.worlds import is_world
from graft.envs.adapters.pettingzoo.adapter import PREFIX
from graft.envs.core.schema import ActionSchema, ObservationSchema
from graft.envs.core.task import Task
from graft.envs.factory import make

Array = NDArray[Any]
SEED, NUM_ENVS = 7, 2
GRAFTS_OWN = ("faults", "reward_weights", "schema", "wrappers", "team", "opponents", "mission")
"""Keywords of tasks that the library does not know."""


class Played(NamedTuple):
    """A step: the observation before it, its reward and flags, and the observation that it led to."""

    before: Any
    reward: float
    terminated: bool
    truncated: bool
    after: Any


class Difference(NamedTuple):
    """Where two rollouts part."""

    env: int
    step: int
    what: str

    def __str__(self) -> str:
        return f"{self.what} of environment {self.env} in step {self.step}"


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
        return compare_parallel(task, steps)
    difference, found = _compare(task, steps, NUM_ENVS)
    if difference is None:
        return {"result": "equal", **found}
    with_one, found = _compare(task, steps, 1)
    if with_one is None:
        return {"result": "equal, from one seed of all random numbers", **found}
    with closing(make(task, 1, SEED)) as env:
        streams = _actions(env.single_action_space, 1, steps)
        loops = [_plain(task, env.action_schema, streams) for _ in range(2)]
    if not _same_numbers(*loops):
        in_first, found = _compare(task, steps, NUM_ENVS, first_only=True)
        equal = "equal in first episodes, later ones are not repeatable"
        return {"result": "not repeatable" if in_first else equal, **found}
    return {"result": f"another {difference}", **found}


def _compare(task: Task, steps: int, count: int, first_only: bool = False) -> tuple[Difference | None, dict[str, Any]]:
    with closing(make(task, count, SEED)) as env:
        streams = _actions(env.single_action_space, count, steps)
        played = _grafts(env, streams)
        expected = _plain(task, env.action_schema, streams)
        with _single(task) as single:
            space, world = single.observation_space, is_world(single)
        if first_only:
            played, expected = ([_first_episode(one) for one in rollout] for rollout in (played, expected))
        difference = _first_difference(env.observation_schema, space, world, played, expected)
        ended = sum(step.terminated or step.truncated for one in played for step in one)
        return difference, {
            "steps": sum(map(len, played)),
            "episodes": ended,
            "faults": str(env.faults) if env.faults.total else "",
            "clipped": env.faults.clipped,
        }


def _first_episode(played: list[Played]) -> list[Played]:
    ends = (number for number, step in enumerate(played, 1) if step.terminated or step.truncated)
    return played[: next(ends, len(played))]


def _actions(space: gym.Space[Any], count: int, steps: int) -> list[list[Any]]:
    space.seed(SEED)
    return [[space.sample() for _ in range(steps)] for _ in range(count)]


def _seed_all() -> None:
    random.seed(SEED)
    np.random.seed(SEED)  # what old environments draw from


def _grafts(env: Any, streams: list[list[Any]]) -> list[list[Played]]:
    _seed_all()
    played: list[list[Played]] = [[] for _ in streams]
    obs = env.reset(seed=SEED)[0]
    for actions in zip(*streams, strict=True):
        after, rewards, terminated, truncated, infos = env.step(np.stack(actions))
        reached = infos.get("final_obs", after)
        for i, one in enumerate(played):
            ended = terminated[i] or truncated[i]
            shown = np.copy(reached[i] if ended else after[i])
            one.append(Played(np.copy(obs[i]), float(rewards[i]), bool(terminated[i]), bool(truncated[i]), shown))
        obs = after
    return played


@contextmanager
def _single(task: Task) -> Iterator[gym.Env[Any, Any]]:
    """The library's own environment, without Graft, in the wrappers that the task asks for."""
    module, _, name = task.id.rpartition(":")
    if module:
        importlib.import_module(module)
    kwargs = {key: value for key, value in task.kwargs.items() if key not in GRAFTS_OWN}
    env: Any = gym.make(name, disable_env_checker=True, **kwargs)
    for wrapper in task.kwargs.get("wrappers", []):
        (wrapper_name, options) = next(iter(wrapper.items())) if isinstance(wrapper, Mapping) else (wrapper, {})
        place, _, attribute = wrapper_name.rpartition(":")
        env = getattr(importlib.import_module(place or "gymnasium.wrappers"), attribute)(env, **(options or {}))
    try:
        yield env
    finally:
        env.close()


def _plain(task: Task, schema: ActionSchema, streams: list[list[Any]]) -> list[list[Played]]:
    played, weights = [], task.kwargs.get("reward_weights")
    _seed_all()
    for i, stream in enumerate(streams):
        with _single(task) as env:
            if len(streams) == 1:
                _seed_all()
            obs, one = _copied(env.reset(seed=SEED + i)[0]), []
            for action in stream:
                paid: Any
                after, paid, terminated, truncated, _ = env.step(_taken(env.action_space, schema, action))
                number = np.dot(np.ravel(paid), weights) if weights else np.ravel(paid)[0]
                ends = bool(terminated), bool(truncated) and not terminated
                one.append(Played(obs, float(number), *ends, after := _copied(after)))
                obs = _copied(env.reset()[0]) if any(ends) else after
            played.append(one)
    return played


def _copied(raw: Any) -> Any:
    """An observation that the environment can't change any more."""
    if isinstance(raw, Mapping):
        return {key: _copied(part) for key, part in raw.items()}
    if isinstance(raw, tuple):
        return tuple(map(_copied, raw))
    return np.array(raw) if isinstance(raw, np.ndarray) else raw


def _taken(space: Any, schema: ActionSchema, action: Any) -> Any:
    """Graft's action as the library takes it."""
    if schema.kind == "box":
        return np.asarray(action).astype(space.dtype).reshape(space.shape)
    if schema.kind == "discrete":
        return int(action) + int(space.start)
    start = getattr(space, "start", 0)
    return (np.asarray(action).reshape(space.shape) + start).astype(space.dtype)


def _first_difference(
    schema: ObservationSchema, space: Any, world: bool, played: list[list[Played]], expected: list[list[Played]]
) -> Difference | None:
    for i, (ours, theirs) in enumerate(zip(played, expected, strict=True)):
        if len(ours) != len(theirs):
            return Difference(i, min(len(ours), len(theirs)), "end")
        for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            for what in ("reward", "terminated", "truncated"):
                if getattr(one, what) != getattr(other, what):
                    return Difference(i, step, what)
            if not shows(schema, space, one.before, other.before, world):
                return Difference(i, step, "observation")
            if not shows(schema, space, one.after, other.after, world):
                return Difference(i, step, "last observation" if other.terminated or other.truncated else "observation")
    return None


def _same_numbers(ours: list[list[Played]], theirs: list[list[Played]]) -> bool:
    """Whether two plain rollouts are alike."""
    flags = [[[step[1:4] for step in one] for one in rollout] for rollout in (ours, theirs)]
    shown = [[str(step.after) for one in rollout for step in one] for rollout in (ours, theirs)]
    return flags[0] == flags[1] and shown[0] == shown[1]


def shows(schema: ObservationSchema, space: Any, row: Array, raw: Any, world: bool = False) -> bool:
    """Whether ``row``, an observation of Graft's under ``schema``, holds the numbers of ``raw``, one of ``space``.

    It goes by the names and bounds of the schema. Of MiniGrid's worlds (``world``) the picture is looked at.
    """
    if world and isinstance(raw, Mapping):
        picture = np.asarray(raw["image"])
        if schema.kind == "planes":
            planes = encode(picture[None])[0]
            return np.array_equal(row[: len(planes)], planes)
        space, raw = space["image"], picture
    leaves = list(_leaves(space, raw))
    parts = [part for _, part in schema.parts] or [schema]
    sizes = np.cumsum([int(np.prod(part.shape)) for part in parts])
    pieces = np.split(np.ravel(row), sizes[:-1])
    return len(leaves) == len(parts) and all(
        _leaf_shows(part, leaf, piece.reshape(part.shape), value)
        for part, (leaf, value), piece in zip(parts, leaves, pieces, strict=True)
    )


def _leaves(space: Any, raw: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        for key, inner in space.items() if isinstance(space, gym.spaces.Dict) else enumerate(space):
            yield from _leaves(inner, raw[key])
    else:
        yield space, raw


def _leaf_shows(schema: ObservationSchema, space: Any, shown: Array, raw: Any) -> bool:
    values = np.asarray(raw)
    names = [name.rpartition("=") for name in schema.names]
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        on = [int(value) for (_, _, value), one in zip(names, shown, strict=True) if one]
        return on == values.ravel().tolist() and set(np.unique(shown)) <= {0.0, 1.0}
    if isinstance(space, gym.spaces.Box):
        values = np.clip(values, space.low, space.high)
    if schema.kind == "vector":
        loose = np.asarray(raw, np.float32).ravel()  # where bounds are those of usual play
        return any(np.allclose(shown, v.astype(np.float32).ravel(), rtol=1e-6, atol=0) for v in (values, loose))
    if names[0][0]:  # a plane for each value of each channel
        entries = len(dict.fromkeys(entry for entry, _, _ in names))
        planes = shown.reshape(entries, -1, *shown.shape[1:])
        if not (planes.sum(1) == 1).all():
            return False
        shown = np.take([int(value) for _, _, value in names[: planes.shape[1]]], planes.argmax(1))
    elif space.dtype.kind == "f":
        low, high = float(space.low.min()), float(space.high.max())
        as_bounds = shown / schema.high[0] * (high - low) + low
        return _same_picture(shown, values) or _same_picture(as_bounds, values)
    return _same_picture(shown, values)


def _same_picture(shown: Array, values: Array) -> bool:
    """Whether planes (C, H, W) are an array of two to four sides, whose channels may come first or last."""
    stacked = values if values.ndim == 4 else values.reshape(1, *values.shape)
    if values.ndim == 2:
        stacked = values.reshape(1, 1, *values.shape)
    sides = [stacked, np.moveaxis(stacked, -1, 1)]
    return any(
        np.prod(side.shape[:2]) == shown.shape[0]
        and side.shape[2:] == shown.shape[1:]
        and np.allclose(shown, side.reshape(shown.shape), rtol=1e-4, atol=1e-3)
        for side in sides
    )


def compare_parallel(task: Task, steps: int) -> dict[str, Any]:
    """`compare` of a PettingZoo environment, all of whose agents are rows: until one of them dies or is done."""
    module = importlib.import_module(task.id.removeprefix(PREFIX))
    kwargs = {key: value for key, value in task.kwargs.items() if key not in GRAFTS_OWN}
    single = module.parallel_env(**kwargs)
    agents = list(single.possible_agents)
    with closing(make(task, len(agents), SEED)) as env:
        streams = _actions(env.single_action_space, len(agents), steps)
        played = _grafts_agents(env, streams)
        expected = _plain_agents(single, agents, env.action_schema, [one[: len(played[0])] for one in streams])
        schema, space = env.observation_schema, single.observation_space(agents[0])
        difference = _first_difference(schema, space, False, played, expected)
        faults = str(env.faults) if env.faults.total else ""
    ended = int(any(one[-1].terminated or one[-1].truncated for one in played))
    single.close()
    result = "equal" if difference is None else f"another {difference}"
    return {"result": result, "steps": sum(map(len, played)), "episodes": ended, "faults": faults, "clipped": 0}


def _grafts_agents(env: Any, streams: list[list[Any]]) -> list[list[Played]]:
    """As `_grafts`, until a row ends."""
    played = _grafts(env, streams)
    ends = (number for one in played for number, step in enumerate(one, 1) if step.terminated or step.truncated)
    first = min(ends, default=len(played[0]))
    return [one[:first] for one in played]


def _plain_agents(single: Any, agents: list[str], schema: ActionSchema, streams: list[list[Any]]) -> list[list[Played]]:
    """The same actions in a loop over the library's own environment."""
    played: list[list[Played]] = [[] for _ in agents]
    _seed_all()
    obs = single.reset(seed=SEED)[0]
    for chosen in zip(*streams, strict=True):
        before = {agent: _copied(obs[agent]) for agent in agents}
        given = {a: _taken(single.action_space(a), schema, x) for a, x in zip(agents, chosen, strict=True)}
        obs, rewards, terminated, truncated, _ = single.step(given)
        for one, a in zip(played, agents, strict=True):
            ends = bool(terminated[a]), bool(truncated[a]) and not terminated[a]
            one.append(Played(before[a], float(rewards[a]), *ends, _copied(obs[a])))
    return played
