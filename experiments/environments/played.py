"""Steps as they were played, under Graft and in a plain loop, and where two rollouts part."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from graft.envs.core.action_masks import KEYWORD as MASKS
from graft.envs.core.faults import KEYWORD as FAULTS
from graft.envs.core.random_actions import sample
from graft.envs.core.rewards import WEIGHTS
from graft.envs.core.schema import ActionSchema, ObservationSchema
from graft.envs.core.task import Task
from graft.experiments.environments.shown import shows

SEED = 7
GRAFTS_OWN = (FAULTS, WEIGHTS, MASKS, "schema", "wrappers", "team", "opponents", "mission")
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


def librarys(task: Task) -> dict[str, Any]:
    """The keywords of a task that its library takes."""
    return {key: value for key, value in task.kwargs.items() if key not in GRAFTS_OWN}


def grafts(env: Any, steps: int, seed: int = SEED) -> tuple[list[list[Played]], list[list[Any]]]:
    """Random play of a batch under Graft, in which nothing forbidden is drawn: steps and actions of each row."""
    seed_all()
    played: list[list[Played]] = [[] for _ in range(env.num_envs)]
    streams: list[list[Any]] = [[] for _ in played]
    masked = env.observation_schema.kind == "masked"
    drawn = [] if masked else _actions(env.single_action_space, env.num_envs, steps)
    obs = env.reset(seed=seed)[0]
    env.action_space.seed(seed)
    for step in range(steps):
        actions = sample(env, obs) if masked else np.stack([stream[step] for stream in drawn])
        after, rewards, terminated, truncated, infos = env.step(actions)
        reached = infos.get("final_obs", after)
        for i, (one, stream) in enumerate(zip(played, streams, strict=True)):
            stream.append(actions[i])
            ended = terminated[i] or truncated[i]
            shown = np.copy(reached[i] if ended else after[i])
            one.append(Played(np.copy(obs[i]), float(rewards[i]), bool(terminated[i]), bool(truncated[i]), shown))
        obs = after
    return played, streams


def _actions(space: gym.Space[Any], count: int, steps: int) -> list[list[Any]]:
    space.seed(SEED)
    return [[space.sample() for _ in range(steps)] for _ in range(count)]


def seed_all() -> None:
    """Seed Python's and NumPy's global generators, which old environments draw from."""
    random.seed(SEED)
    np.random.seed(SEED)


def taken(space: Any, schema: ActionSchema, action: Any) -> Any:
    """Graft's action as the library takes it."""
    if schema.kind == "box":
        return np.asarray(action).astype(space.dtype).reshape(space.shape)
    if schema.kind == "discrete":
        return int(action) + int(space.start)
    start = getattr(space, "start", 0)
    return (np.asarray(action).reshape(space.shape) + start).astype(space.dtype)


def first_difference(
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
