"""Third-party PettingZoo environments: MPE, our own through the adapter, and one whose agents come and go."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from pettingzoo import ParallelEnv

import envs
from envs import GraftError, Task
from envs.factory import check
from envs.faults import TooManyFaults

needs_mpe = pytest.mark.skipif(find_spec("mpe2") is None, reason="mpe2 is missing: pip install 'graft-rl[games]'")
TAG = "pettingzoo:mpe2.simple_tag_v3"


class Tide(ParallelEnv[str, Any, int]):
    """Agents that come and go by a table: agent -> (step of its entry, step of its end, how it ends).

    An agent sees (its number, the time), and earns its number + 1 in each step; ``listing`` reverses orders, and goes
    on naming agents that have ended.
    """

    metadata = {"name": "tide_v0"}  # noqa: RUF012
    possible_agents = ["crab_0", "crab_1", "gull_0", "gull_1"]  # noqa: RUF012
    table = {  # noqa: RUF012
        "crab_0": (0, 5, "cut"),
        "crab_1": (2, 4, "died"),
        "gull_0": (0, 2, "died"),
        "gull_1": (0, 3, "left"),
    }

    def __init__(self, listing: str = "plain", wide: bool = False, spaceless: bool = False) -> None:
        self.listing, self.wide = listing, wide
        self.seeds: list[int | None] = []
        self.closed = False
        self.agents: list[str] = []
        if spaceless:
            self.possible_agents = []

    def observation_space(self, agent: str) -> Any:
        return gym.spaces.Box(0, 100, (3 if self.wide and agent == "gull_1" else 2,), np.float32)

    def action_space(self, agent: str) -> Any:
        return gym.spaces.Discrete(3, start=1)

    def _there(self) -> list[str]:
        there = [a for a, (start, end, _) in self.table.items() if start <= self.time < end]
        return there[::-1] if self.listing == "reversed" else there

    def _see(self, agents: Any) -> dict[str, Any]:
        return {a: np.array([self.possible_agents.index(a), self.time], np.float32) for a in agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.seeds.append(seed)
        self.time = 0
        self.agents = self._there()
        return self._see(self.agents), {a: {} for a in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        assert set(actions) == set(self.agents)
        assert all(1 <= action <= 3 for action in actions.values())
        acted, self.time = self.agents, self.time + 1
        self.agents = self._there()
        ended = {a: self.table[a][2] for a in acted if self.time >= self.table[a][1]}
        known = [a for a in {*acted, *self.agents} if ended.get(a) != "left"]
        if self.listing == "lingering" and self.agents:
            self.agents = [*self.agents, *(a for a, how in ended.items() if how != "left")]
        return (
            self._see(known),
            {a: float(self.possible_agents.index(a) + 1) for a in acted},
            {a: ended.get(a) == "died" for a in known},
            {a: ended.get(a) == "cut" for a in known},
            {a: {} for a in known},
        )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tide(monkeypatch: pytest.MonkeyPatch) -> list[Tide]:
    """The module ``tide_v0``, and the environments that it has made."""
    made: list[Tide] = []

    def parallel_env(**options: Any) -> Tide:
        made.append(Tide(**options))
        return made[-1]

    module = ModuleType("tide_v0")
    module.parallel_env, module.raw_env = parallel_env, Tide  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tide_v0", module)
    return made


@pytest.mark.parametrize("listing", ["plain", "reversed", "lingering"])
def test_agents_end_early_or_late_or_enter_late_in_any_order(tide: list[Tide], listing: str) -> None:
    env = envs.make(Task("pettingzoo:tide_v0", {"listing": listing}), 4, 0)
    obs, infos = env.reset()
    for _ in range(2):
        assert infos["alive"].tolist() == [True, False, True, True]
        assert obs.tolist() == [[0, 0], [0, 0], [2, 0], [3, 0]]
        steps = [env.step(np.zeros(4, np.int64)) for _ in range(5)]
        assert [step[1].tolist() for step in steps] == [
            [1, 0, 3, 4],
            [1, 0, 3, 4],
            [1, 2, 0, 4],
            [1, 2, 0, 0],
            [1, 0, 0, 0],
        ]
        flags = [(np.flatnonzero(step[2]).tolist(), np.flatnonzero(step[3]).tolist()) for step in steps]
        assert flags == [([], []), ([2], []), ([3], []), ([1], []), ([], [0])], "gull_1 left without a word"
        assert [np.flatnonzero(step[4]["alive"]).tolist() for step in steps] == [
            [0, 2, 3],
            [0, 1, 3],
            [0, 1],
            [0],
            [0, 2, 3],
        ]
        assert [step[4]["winner"].tolist() for step in steps] == [[-1]] * 4 + [[-2]]
        assert [step[4]["final_obs"][k].tolist() for step, k in zip(steps[1:], (2, 3, 1, 0), strict=True)] == [
            [2, 2],
            [3, 2],  # the last that was seen of it
            [1, 4],
            [0, 5],
        ]
        assert steps[1][0].tolist() == [[0, 2], [1, 2], [0, 0], [3, 2]]
        obs, infos = steps[-1][0], steps[-1][4]


def test_a_team_is_what_shares_the_front_of_its_name(tide: list[Tide]) -> None:
    env = envs.make(Task("pettingzoo:tide_v0", {"team": "gull", "opponents": "still"}), 5, 7)
    assert len(tide) == 3
    obs, _ = env.reset()
    assert obs.tolist() == [[2, 0], [3, 0], [2, 0], [3, 0], [2, 0]]
    steps = [env.step(np.zeros(5, np.int64)) for _ in range(5)]
    assert [step[4]["alive"].tolist() for step in steps] == [
        [True] * 5,
        [False, True, False, True, False],
        [False] * 5,
        [False] * 5,
        [True] * 5,
    ]
    assert env.observation_schema.names == ("tide.obs_0", "tide.obs_1")
    assert env.action_schema.names == ("tide.action_0", "tide.action_1", "tide.action_2")
    env.close()
    assert all(one.closed for one in tide)


def test_every_episode_has_a_seed_that_follows_from_the_first(tide: list[Tide]) -> None:
    for _ in range(2):
        env = envs.make(Task("pettingzoo:tide_v0"), 8, 40)
        env.reset()
        for _ in range(12):
            env.step(np.zeros(8, np.int64))
    (a, b), (c, d) = (one.seeds for one in tide[:2]), (one.seeds for one in tide[2:])
    assert (a[0], b[0], len(a)) == (40, 41, 3)
    assert len({*a, *b}) == 6
    assert (a, b) == (c, d)
    assert not hasattr(env, "save_state"), "its state cannot be saved"


def test_what_a_team_sees_must_be_the_same(tide: list[Tide]) -> None:
    with pytest.raises(GraftError, match=r"team 'gull'.* differ: gull_0 has Box.*\(2,\).*gull_1 has .*\(3,\)"):
        envs.make(Task("pettingzoo:tide_v0", {"wide": True}), 4, 0)
    assert all(one.closed for one in tide)
    with pytest.raises(GraftError, match="does not list its possible_agents"):
        envs.make(Task("pettingzoo:tide_v0", {"spaceless": True}), 4, 0)


def test_an_agent_that_nobody_announced_is_named(tide: list[Tide], monkeypatch: pytest.MonkeyPatch) -> None:
    env = envs.make(Task("pettingzoo:tide_v0"), 4, 0)
    monkeypatch.setattr(Tide, "_there", lambda self: ["crab_0", "whale_0"][: 1 + self.time])
    monkeypatch.setattr(Tide, "_see", lambda self, agents: {a: np.zeros(2, np.float32) for a in agents})
    env.reset()
    with pytest.raises(GraftError, match="'whale_0', who is not among its possible_agents"):
        env.step(np.zeros(4, np.int64))


def play_one(env: Any) -> None:
    env.reset()
    env.step(np.zeros(4, np.int64))


@pytest.mark.parametrize(
    ("name", "broken", "text"),
    [
        ("step", lambda *_: 1 / 0, "1 raised in all; the last, environment 0: ZeroDivisionError in its step"),
        ("reset", lambda *_, **__: 1 / 0, "environment 0: ZeroDivisionError in its reset"),
        ("_see", lambda self, agents: {a: np.full(2, np.nan, np.float32) for a in agents}, "'crab_0' is not finite"),
    ],
)
def test_one_that_fails_ends_the_run(
    tide: list[Tide], monkeypatch: pytest.MonkeyPatch, name: str, broken: Any, text: str
) -> None:
    env = envs.make(Task("pettingzoo:tide_v0"), 4, 0)
    monkeypatch.setattr(Tide, name, broken)
    with pytest.raises(TooManyFaults, match=text):
        play_one(env)
    assert env.faults.total == 1


def test_rewards_that_are_not_finite_end_the_run(tide: list[Tide], monkeypatch: pytest.MonkeyPatch) -> None:
    env, step = envs.make(Task("pettingzoo:tide_v0"), 4, 0), Tide.step
    monkeypatch.setattr(
        Tide, "step", lambda self, a: (lambda s: (s[0], dict.fromkeys(s[1], np.inf), *s[2:]))(step(self, a))
    )
    env.reset()
    with pytest.raises(TooManyFaults, match="a reward is not finite"):
        env.step(np.zeros(4, np.int64))


@pytest.mark.parametrize("game", ["pursuit", "gather"])
def test_our_own_arenas_play_the_same_through_the_adapter(game: str) -> None:
    """Until an episode ends: then native environments go on with their numbers, and others get a seed."""
    native = Task({"pursuit": "Graft/Pursuit-v0", "gather": "Graft/TeamGather-v0"}[game], {"team": "all"})
    sizes = {"pursuit": {"hunters": 3, "prey": 3}, "gather": {"reds": 3, "blues": 3}}[game]
    mine = envs.make(Task(native.id, {**native.kwargs, **sizes}), 6, 11)
    theirs = envs.make(Task("pettingzoo:envs.graft_arena", {"game": game, **sizes}), 6, 11)
    np.testing.assert_array_equal(mine.reset()[0], planes(theirs.reset()[0]))
    draw, died = np.random.default_rng(1), 0
    while True:
        actions = draw.integers(0, 6, 6)
        a, b = mine.step(actions), theirs.step(actions)
        for x, y in zip(a[1:4], b[1:4], strict=True):
            np.testing.assert_array_equal(x, y)
        died += int(a[2].sum())
        if a[4]["winner"] != -1:
            break
        np.testing.assert_array_equal(a[0], planes(b[0]))
        np.testing.assert_array_equal(a[4]["alive"], b[4]["alive"])
    assert died == 6
    np.testing.assert_array_equal(a[4]["final_obs"], planes(b[4]["final_obs"]))


def planes(obs: Any) -> Any:
    """Boxes of zeros and ones are read as images, channels last; this takes that back."""
    return np.moveaxis(obs, 1, 3)


@needs_mpe
def test_tag_is_truncated_and_names_its_moves() -> None:
    env = envs.make(Task(TAG, {"team": "adversary", "max_cycles": 10}), 6, 0)
    assert env.observation_schema.shape == (16,)
    assert env.observation_schema.names[0] == "simple_tag.adversary.obs_0"
    assert env.action_schema.names == ("noop", "left", "right", "down", "up")
    obs, _ = env.reset()
    assert env.observation_space.contains(obs)
    right = [env.step(np.full(6, 2)) for _ in range(10)]
    assert [int(step[3].sum()) for step in right] == [0] * 9 + [6]
    assert not any(step[2].any() for step in right)
    assert right[-1][4]["winner"].tolist() == [-2, -2]
    # Features 0 and 1 are an agent's velocity: 2 moves to the right.
    assert (right[0][0][:, 0] > 0).all()
    check(Task(TAG, {"team": "agent"}))
    check(Task("pettingzoo:mpe2.simple_spread_v3"))
    check(Task(TAG, {"team": "adversary", "continuous_actions": True}))


@needs_mpe
def test_tag_plays_as_it_does_alone() -> None:
    from mpe2 import simple_tag_v3

    env, plain = envs.make(Task(TAG, {"team": "adversary"}), 3, 9), simple_tag_v3.parallel_env()
    env.opponents = lambda obs, alive: np.full(alive.shape, 4)
    seen = plain.reset(seed=9)[0]
    obs, _ = env.reset()
    for _ in range(20):
        np.testing.assert_array_equal(obs, np.stack([seen[f"adversary_{k}"] for k in range(3)]))
        obs, rewards, *_ = env.step(np.array([1, 2, 3]))
        seen, earned, *_ = plain.step({"adversary_0": 1, "adversary_1": 2, "adversary_2": 3, "agent_0": 4})
        assert rewards.tolist() == [earned[f"adversary_{k}"] for k in range(3)]


@needs_mpe
@pytest.mark.parametrize(
    ("task", "text"),
    [
        (
            Task(TAG),
            r"sees vector of shape \(16,\) and agent vector of shape \(14,\); choose one .*: adversary, agent",
        ),
        (Task(TAG, {"team": "adversry"}), "Unknown team 'adversry'.*Did you mean 'adversary'"),
        (Task(TAG, {"num_god": 2, "team": "agent"}), "Unknown keyword of .* 'num_god'.*Did you mean 'num_good'"),
        (Task("pettingzoo:mpe2.simple_tga_v3"), "Unknown task.*Did you mean 'pettingzoo:mpe2.simple_tag_v3'"),
        (Task("pettingzoo:mpe2"), "has no parallel_env"),
        (
            Task("pettingzoo:simple_tag_v3"),
            "is not installed; install it: `pip install simple_tag_v3`",
        ),
        (
            Task("pettingzoo:nothere.game_v0"),
            "is not installed; install it: `pip install nothere`",
        ),
    ],
)
def test_what_is_refused(task: Task, text: str) -> None:
    with pytest.raises(GraftError, match=text):
        envs.make(task, 2, 0)


def test_next_step_autoreset_is_refused(tide: list[Tide]) -> None:
    with pytest.raises(GraftError, match="same-step autoreset alone"):
        envs.make(Task("pettingzoo:tide_v0"), 4, 0, AutoresetMode.NEXT_STEP)
