"""Other people's environments beside the libraries they come from: equal transitions, ends, returns and lengths."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.env_rollouts import Transition, action_streams, assert_equal, transitions

from graft import envs
from graft.envs import Task
from graft.envs.adapters.minigrid.adapter import encode
from graft.envs.adapters.minigrid.missions import word_row
from graft.envs.adapters.pettingzoo.adapter import PREFIX as ZOO
from graft.envs.catalog import providers
from graft.envs.core.faults import LOOSE_BOUNDS
from graft.envs.factory import ADAPTERS
from graft.envs.supervision.restarts import derived_seed

POOL = "envpool/"


def model(**scales: float) -> Callable[[Any], None]:
    """What scales the arrays of a MuJoCo environment's model, and derives what follows from them."""

    def change(env: Any) -> None:
        mujoco = importlib.import_module("mujoco")
        for name, scale in scales.items():
            getattr(env.model.opt if name == "gravity" else env.model, name)[:] *= scale
        mujoco.mj_setConst(env.model, mujoco.MjData(env.model))

    return change


def attributes(**values: float) -> Callable[[Any], None]:
    """What sets attributes of an environment."""

    def change(env: Any) -> None:
        for name, value in values.items():
            setattr(env, name, value)

    return change


@dataclass(frozen=True)
class Case:
    """A task, and how the library itself makes it.

    Attributes:
        limit: of an episode's steps, low enough to be met. steps: of each environment.
        kwargs: of the task. change: does the same to a plain environment; without it, that takes ``kwargs`` too.
        rivals: whether the other teams have agents.
    """

    id: str
    limit: int = 20
    steps: int = 64
    kwargs: dict[str, Any] = field(default_factory=dict)
    change: Callable[[Any], None] | None = None


LIGHT, HEAVY = {"limit": 20, "steps": 64}, {"limit": 15, "steps": 48}
DOUBLE = {"body_mass": 2.0, "body_inertia": 2.0}
TAXI = Case("Taxi-v3", kwargs={"action_masks": False}, change=attributes())  # its masks: see test_masks.py
CASES: dict[str, list[Case]] = {
    "Gymnasium classic control": [
        Case("CartPole-v1", 16, 80),
        Case("CartPole-v1", 16, 80, {"length": 2.0}, attributes(length=2.0, polemass_length=0.2)),
        Case("Acrobot-v1"),
        Case("MountainCar-v0"),
        Case("MountainCarContinuous-v0"),
        Case("Pendulum-v1"),
        Case("Pendulum-v1", kwargs={"mass": 2.0}, change=attributes(m=2.0)),
    ],
    "Gymnasium toy text": [Case("FrozenLake-v1", 9), Case("CliffWalking-v1"), TAXI],
    "Gymnasium Box2D": [
        Case("LunarLander-v3", 60, 150),
        Case("LunarLander-v3", kwargs={"gravity": -5.0}),
        Case("LunarLanderContinuous-v3"),
        Case("BipedalWalker-v3"),
        Case("CarRacing-v3", 5, 12),
    ],
    "Gymnasium MuJoCo": [
        Case("Swimmer-v5"),
        Case("Reacher-v5"),
        Case("InvertedPendulum-v5", 9),
        Case("Humanoid-v5", 18),
        Case("Pusher-v5"),
    ],
    "MuJoCo with dynamics": [
        Case("HalfCheetah-v5"),
        Case("HalfCheetah-v5", kwargs={"gravity": 0.5}, change=model(gravity=0.5)),
        Case("Hopper-v5", 18),
        Case("Hopper-v5", 18, kwargs={"mass": 2.0}, change=model(**DOUBLE)),
        Case("Walker2d-v5", kwargs={"damping": 3.0}, change=model(dof_damping=3.0)),
        Case("Ant-v5"),
    ],
    "MiniGrid": [
        Case("minigrid:MiniGrid-Empty-5x5-v0"),
        Case("minigrid:MiniGrid-DoorKey-6x6-v0"),
        Case("minigrid:MiniGrid-LavaGapS5-v0"),
        Case("minigrid:MiniGrid-Fetch-5x5-N2-v0"),
        Case("minigrid:BabyAI-GoToRedBallNoDists-v0"),
    ],
    "ALE": [Case("ale_py:ALE/Pong-v5", **HEAVY), Case("ale_py:ALE/Breakout-v5", **HEAVY)],
    "EnvPool": [
        Case(f"{POOL}CartPole-v1", 16, 80),
        Case(f"{POOL}Acrobot-v1"),
        Case(f"{POOL}MountainCar-v0"),
        Case(f"{POOL}Pendulum-v1"),
        Case(f"{POOL}Catch-v0", 7),
        Case(f"{POOL}highway-fast-v0"),
        Case(f"{POOL}MiniGrid-DoorKey-6x6-v0"),
        Case(f"{POOL}MiniGrid-LavaGapS5-v0"),
        Case(f"{POOL}MiniGrid-Fetch-5x5-N2-v0"),
        Case(f"{POOL}BabyAI-GoToLocal-v0"),
        Case(f"{POOL}BabyAI-OneRoomS8-v0"),
        Case(f"{POOL}LunarLander-v3", 60, 150),
        Case(f"{POOL}BipedalWalker-v3"),
        Case(f"{POOL}HalfCheetah-v4"),
        Case(f"{POOL}Hopper-v5", 18),
        Case(f"{POOL}Ant-v4"),
        Case(f"{POOL}MetaWorld/Reach-v3"),
        Case(f"{POOL}MetaWorld/Push-v3"),
        Case(f"{POOL}Pong-v5", **HEAVY),
        Case(f"{POOL}Breakout-v5", **HEAVY),
    ],
    "EnvPool's Procgen": [
        Case(f"{POOL}CoinrunEasy-v0", **HEAVY),
        Case(f"{POOL}MazeEasy-v0", **HEAVY),
        Case(f"{POOL}StarpilotEasy-v0", 30, 80),
    ],
    "PettingZoo MPE": [
        Case(f"{ZOO}mpe2.simple_v3"),
        Case(f"{ZOO}mpe2.simple_spread_v3"),
        Case(f"{ZOO}mpe2.simple_tag_v3", kwargs={"team": "adversary", "opponents": "still"}),
        Case(f"{ZOO}mpe2.simple_adversary_v3", kwargs={"team": "agent", "opponents": "still"}),
        Case(f"{ZOO}mpe2.simple_speaker_listener_v4", kwargs={"team": "listener", "opponents": "still"}),
    ],
}
"""By the part of the catalog that has to be ready."""

OWN_LIMIT = tuple(POOL + name for name in ("Catch", "Coinrun", "Maze", "Starpilot", "highway"))
"""Pools that play on after ``max_episode_steps``: there the plain loop resets them by hand."""

NUM_ENVS, SEED = 2, 7


def states() -> dict[str, str]:
    """Of every part, without importing any."""
    found: dict[str, str] = {}
    for name in ADAPTERS:
        found |= getattr(ADAPTERS[name], "states", dict)()
    return found


def parameters(*but: str) -> list[Any]:
    known, found = states(), []
    for part, cases in CASES.items():
        for case in cases if part not in but else ():
            name = f"{case.id} {case.kwargs}" if case.kwargs else case.id
            missing = pytest.mark.skipif(known[part] != "ready", reason=known[part])
            found.append(pytest.param(case, id=name, marks=missing))
    return found


def task_of(case: Case) -> Task:
    limit = "max_cycles" if case.id.startswith(ZOO) else "max_episode_steps"
    return Task(case.id, {**case.kwargs, limit: case.limit})


def shown(env: envs.TaskVectorEnv, raw: Any) -> Any:
    """One observation of the library as Graft shows it."""
    schema = env.observation_schema
    if isinstance(raw, dict):  # of MiniGrid
        view = encode(np.asarray(raw["image"])[None])[0]
        if len(schema.names) == len(view):
            return view
        mission = raw["mission"] if isinstance(raw["mission"], str) else bytes(raw["mission"]).rstrip(b"\0").decode()
        words = np.frombuffer(word_row(mission.encode()), np.uint8)
        return np.concatenate([view, np.broadcast_to(words[:, None, None], (len(words), *view.shape[1:]))])
    if schema.kind == "vector":
        flat = np.asarray(raw, np.float32).ravel()
        return np.eye(schema.shape[0], dtype=np.float32)[int(raw)] if flat.shape != schema.shape else flat
    return raw if raw.shape == schema.shape else np.moveaxis(raw, 2, 0)


def taken(space: gym.Space[Any], action: Any) -> Any:
    """Graft's action as the library takes it."""
    return int(action) if isinstance(space, gym.spaces.Discrete) else action.astype(space.dtype).reshape(space.shape)


def plain_gymnasium(case: Case, env: envs.TaskVectorEnv, streams: list[list[Any]]) -> list[list[Transition]]:
    """The same actions in a loop over `gymnasium.make`."""
    played = []
    for i, stream in enumerate(streams):
        kwargs = {} if case.change else case.kwargs
        single = gym.make(case.id, disable_env_checker=True, max_episode_steps=case.limit, **kwargs)
        if case.change:
            case.change(single.unwrapped)
        obs, one = single.reset(seed=SEED + i)[0], []
        for action in stream:
            after, reward, terminated, truncated, _ = single.step(taken(single.action_space, action))
            flags = bool(terminated), bool(truncated and not terminated)
            one.append(Transition(shown(env, obs), float(reward), *flags, shown(env, after)))
            obs = single.reset()[0] if terminated or truncated else after
        single.close()
        played.append(one)
    return played


def plain_envpool(case: Case, env: envs.TaskVectorEnv, streams: list[list[Any]]) -> list[list[Transition]]:
    """The same actions in one pool, under its own autoreset: the step after an end is the reset."""
    own = case.id.startswith(OWN_LIMIT)
    limit = {} if own else {"max_episode_steps": case.limit}
    name, seeds = case.id.removeprefix(POOL), [SEED + i for i in range(len(streams))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        pool = importlib.import_module("envpool").make_gymnasium(
            name, num_envs=len(streams), num_threads=1, env_seed=seeds, **case.kwargs, **limit
        )
        first = pool.reset()[0]
    played: list[list[Transition]] = [[] for _ in streams]
    waiting = [False] * len(streams)
    obs = rows(env, first)
    ages = np.zeros(len(streams), np.int64)
    while min(map(len, played)) < case.steps:
        chosen = [
            taken(pool.action_space, s[min(len(o), case.steps - 1)]) for s, o in zip(streams, played, strict=True)
        ]
        raw, rewards, terminated, truncated, _ = pool.step(np.stack(chosen).astype(pool.action_space.dtype))
        after = rows(env, raw)
        ages = np.where(waiting, 0, ages + 1)
        late = (ages == case.limit) & ~terminated & own
        for i in range(len(streams)):
            if not waiting[i] and len(played[i]) < case.steps:
                flags = bool(terminated[i]), bool(truncated[i] or late[i])
                played[i].append(Transition(obs[i], float(rewards[i]), *flags, after[i]))
        if late.any():
            which = np.flatnonzero(late).astype(np.int32)
            for i, row in zip(which, rows(env, pool.reset(which)[0]), strict=True):
                after[i] = row
            ages[late] = 0
        waiting, obs = list(terminated | truncated), after
    return played


def rows(env: envs.TaskVectorEnv, raw: Any) -> list[Any]:
    """A pool's batch, one by one, as copies."""
    if isinstance(raw, dict):
        return [shown(env, {key: part[i] for key, part in raw.items()}) for i in range(len(raw["image"]))]
    return [np.array(shown(env, row)) for row in raw]


def plain_pettingzoo(case: Case, env: envs.TaskVectorEnv, streams: list[list[Any]]) -> list[list[Transition]]:
    """The same actions in a loop over ``parallel_env``; the others do nothing."""
    team = str(case.kwargs.get("team", ""))
    module = importlib.import_module(case.id.removeprefix(ZOO))
    played: list[list[Transition]] = []
    while len(played) < len(streams):
        number, episode = SEED + len(played) // width(case), 0
        parallel = module.parallel_env(max_cycles=case.limit)
        mine = [agent for agent in parallel.possible_agents if agent.startswith(team)]
        of, found = streams[len(played) :], [[] for _ in mine]  # type: ignore[var-annotated]
        obs = parallel.reset(seed=number)[0]
        for t in range(case.steps):
            actions = dict.fromkeys(parallel.agents, 0) | {a: int(of[k][t]) for k, a in enumerate(mine)}
            after, rewards, terminated, truncated, _ = parallel.step(actions)
            for one, a in zip(found, mine, strict=True):
                views = shown(env, obs[a]), shown(env, after[a])
                one.append(Transition(views[0], float(rewards[a]), terminated[a], truncated[a], views[1]))
            obs = after
            if not parallel.agents:
                episode += 1
                obs = parallel.reset(seed=derived_seed(number, episode))[0]
        played += found
    return played


def width(case: Case) -> int:
    """Rows of one environment."""
    return {"spread": 3, "tag": 3, "adversary": 2}.get(case.id.rpartition("simple_")[2].rpartition("_")[0], 1)


def episodes(played: list[Transition]) -> list[tuple[float, int, bool, bool]]:
    """Return, length, terminated and truncated of every episode that ended."""
    found, rewards = [], []
    for t in played:
        rewards.append(t.reward)
        if t.terminated or t.truncated:
            found.append((sum(rewards), len(rewards), t.terminated, t.truncated))
            rewards = []
    return found


def check_inside(env: envs.TaskVectorEnv, case: Case, played: list[list[Transition]]) -> None:
    """Every observation is of the space; where a library's bounds are not those of all states, by shape and dtype."""
    space: Any = env.single_observation_space
    straying = case.id.removeprefix(POOL).startswith(LOOSE_BOUNDS)
    for t in (t for one in played for t in one):
        for obs in (t.obs, t.next_obs):
            assert (obs.shape, obs.dtype) == (space.shape, space.dtype)
            assert np.isfinite(obs).all() if straying else space.contains(obs)


@pytest.mark.parametrize("case", parameters())
def test_play_is_the_librarys_own(case: Case) -> None:
    zoo = case.id.startswith(ZOO)
    env = envs.make(task_of(case), NUM_ENVS * (width(case) if zoo else 1), SEED)
    streams = action_streams(env, case.steps)
    played = transitions(env, streams)
    check_inside(env, case, played)
    plain = plain_pettingzoo if zoo else plain_envpool if case.id.startswith(POOL) else plain_gymnasium
    expected = plain(case, env, streams)
    env.close()
    if plain is plain_envpool:  # it calls an episode truncated that terminates in the last step of its time limit
        expected = [
            [
                e._replace(terminated=t.terminated, truncated=t.truncated) if e.truncated and t.terminated else e
                for t, e in zip(*pair, strict=True)
            ]
            for pair in zip(played, expected, strict=True)
        ]
    assert [episodes(one) for one in played] == [episodes(one) for one in expected]
    assert_equal(played, expected)
    ends = [end for one in played for end in episodes(one)]
    assert max(length for _, length, _, _ in ends) <= case.limit
    for _, length, terminated, truncated in ends:
        assert terminated != truncated
        assert not truncated or length == case.limit
    assert env.faults.total == 0


@pytest.mark.parametrize("case", parameters("PettingZoo MPE", "ALE", "EnvPool's Procgen"))
def test_next_step_autoreset_plays_the_same(case: Case) -> None:
    same, following = (
        envs.make(task_of(case), NUM_ENVS, SEED, AutoresetMode(mode)) for mode in ("SameStep", "NextStep")
    )
    streams = action_streams(same, case.steps)
    assert_equal(transitions(same, streams), transitions(following, streams))
    same.close()
    following.close()


@pytest.mark.parametrize("name", ["CartPole-v1", f"{POOL}CartPole-v1"])
def test_who_falls_in_the_last_step_that_is_allowed_has_terminated(name: str) -> None:
    if name.startswith(POOL) and states()["EnvPool"] != "ready":
        pytest.skip(states()["EnvPool"])

    def fall(**kwargs: int) -> tuple[int, bool, bool]:
        """Steps until the pole has fallen, pushed to the left all the time, and the flags then."""
        env = envs.make(Task(name, kwargs), 1, SEED)
        env.reset()
        for t in range(1, 100):
            _, _, terminated, truncated, _ = env.step(np.zeros(1, np.int64))
            if terminated[0] or truncated[0]:
                return t, bool(terminated[0]), bool(truncated[0])
        raise AssertionError

    steps, *flags = fall()
    assert flags == [True, False]
    assert fall(max_episode_steps=steps) == (steps, True, False)
    assert fall(max_episode_steps=steps - 1) == (steps - 1, False, True)


def test_the_table_covers_every_provider() -> None:
    elsewhere = {"Unity", "Godot"}  # libraries of their own environments: tests/envs/adapters/engines
    assert CASES.keys() == {part for part in providers() if not part.startswith("Built-in")} - elsewhere
    assert len({case.id for cases in CASES.values() for case in cases}) >= 40
