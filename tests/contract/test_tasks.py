"""What every task keeps, whoever provides it: a new game or mechanic is tested here unedited."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from graft import envs
from graft.envs import ActionSchema, ObservationSchema, Task
from graft.envs.builtin.engine.game import GAMES

NUM_ENVS, STEPS = 8, 100
MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)
NEEDS = {"envpool/": "envpool", "ale_py:": "ale_py", "minigrid:": "minigrid"}


def builtin_tasks() -> list[Task]:
    """Each game as it is, and with all of its mechanics at each end of their ranges."""
    tasks: dict[Task, None] = {}
    for game in GAMES:
        mechanics = GAMES[game].mechanics.values()
        tasks[Task(game)] = None
        for high in (False, True):
            tasks[Task(game, {m.name: m.extremes[high] for m in mechanics})] = None
    return list(tasks)


def single_mechanics() -> list[Task]:
    """Each game with each of its mechanics at each end of its range."""
    return [
        Task(game, {m.name: value})
        for game in GAMES
        for m in GAMES[game].mechanics.values()
        for value in m.extremes
        if value != m.default
    ]


THIRD_PARTY = [
    Task("CartPole-v1"),
    Task("Acrobot-v1"),
    Task("MountainCar-v0", {"max_episode_steps": 30}),
    Task("Pendulum-v1", {"g": 5.0}),
    Task("FrozenLake-v1", {"is_slippery": False}),
    Task("ale_py:ALE/Pong-v5", {"frameskip": 4}),
    Task("minigrid:MiniGrid-Empty-5x5-v0"),
    Task("envpool/MiniGrid-DoorKey-6x6-v0"),
    Task("envpool/MiniGrid-LavaGapS5-v0"),
    Task("envpool/MiniGrid-Dynamic-Obstacles-5x5-v0"),
    Task("envpool/CartPole-v1"),
    Task("envpool/HalfCheetah-v4"),
    Task("envpool/LunarLander-v3"),
    Task("envpool/Pong-v5"),
]


def needing(task: Task) -> Any:
    """The task, skipped with the install line where its package is missing."""
    package = next((p for prefix, p in NEEDS.items() if task.id.startswith(prefix)), "gymnasium")
    reason = f"{package} is missing: pip install 'graft-rl[games]'"
    return pytest.param(task, marks=pytest.mark.skipif(find_spec(package) is None, reason=reason), id=str(task))


ALL = [needing(task) for task in builtin_tasks() + THIRD_PARTY]


@pytest.mark.parametrize("task", [*ALL, *map(needing, single_mechanics())])
def test_play_stays_inside_the_spaces_and_the_schemas(task: Task) -> None:
    same, following = (envs.make(task, NUM_ENVS, 0, mode) for mode in MODES)
    for env, mode in zip((same, following), MODES, strict=True):
        assert env.metadata["autoreset_mode"] is mode
        assert env.schemas == same.schemas
        assert env.single_observation_space == env.observation_schema.space()
        assert env.single_action_space == env.action_schema.space()
        check_play(env)
        env.close()


def check_play(env: envs.TaskVectorEnv) -> None:
    obs, _ = env.reset()
    env.action_space.seed(0)
    for _ in range(STEPS if obs[0].size < 10_000 else STEPS // 4):
        check_observation(env, obs)
        obs, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
        assert rewards.shape == terminated.shape == truncated.shape == (NUM_ENVS,)
        assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
        assert np.isfinite(rewards).all()
        ended = terminated | truncated
        if env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and ended.any():
            np.testing.assert_array_equal(infos["_final_obs"], ended)
            check_observation(env, np.where(ended.reshape(-1, *[1] * (obs.ndim - 1)), infos["final_obs"], obs))
        else:
            assert "final_obs" not in infos


def check_observation(env: envs.TaskVectorEnv, obs: Any) -> None:
    schema = env.observation_schema
    assert obs.shape == (NUM_ENVS, *schema.shape)
    assert obs.dtype == np.dtype(schema.dtype)
    per_channel = np.moveaxis(obs, 1, 0).reshape(len(schema.names), -1)
    assert (per_channel >= np.reshape(schema.low, (-1, 1))).all()
    assert (per_channel <= np.reshape(schema.high, (-1, 1))).all()
    if schema.kind != "vector":
        assert schema.dtype == "uint8"


@pytest.mark.parametrize("task", ALL)
def test_schemas_survive_json(task: Task) -> None:
    observation, action = envs.schemas(task)
    for schema in (observation, action):
        text = json.dumps(schema.to_json(), allow_nan=False)
        assert type(schema).from_json(json.loads(text)) == schema
    assert isinstance(observation, ObservationSchema)
    assert isinstance(action, ActionSchema)
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


@pytest.mark.parametrize("task", ALL)
def test_same_seed_same_start_in_any_batch(task: Task) -> None:
    few, many = envs.make(task, 2, seed=41), envs.make(task, 4, seed=40)
    np.testing.assert_array_equal(few.reset()[0], many.reset()[0][1:3])


@pytest.mark.parametrize("game", list(GAMES))
def test_mechanics_change_neither_names_nor_shapes(game: str) -> None:
    plain = envs.schemas(Task(game))
    assert all(envs.schemas(task) == plain for task in builtin_tasks() + single_mechanics() if task.id == game)


@pytest.mark.parametrize("game", list(GAMES))
def test_every_mechanic_at_its_default_is_the_plain_game(game: str) -> None:
    defaults = {name: m.default for name, m in GAMES[game].mechanics.items()}
    a, b = envs.make(Task(game), 4, 0), envs.make(Task(game, defaults), 4, 0)
    np.testing.assert_array_equal(a.reset()[0], b.reset()[0])
    a.action_space.seed(0)
    for _ in range(STEPS):
        actions = a.action_space.sample()
        for x, y in zip(a.step(actions)[:4], b.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("task", ALL)
def test_bounds_put_the_expert_above_the_random_policy(task: Task) -> None:
    bounds = envs.bounds(task)
    if bounds is not None:
        assert bounds.expert > bounds.random
        assert (bounds.normalise(bounds.random), bounds.normalise(bounds.expert)) == (0.0, 1.0)
        assert bounds.how
