"""Third-party PettingZoo environments: MPE, our own through the adapter, and one whose agents come and go."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from pettingzoo import ParallelEnv

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.core.faults import TooManyFaults
from graft.envs.factory import check

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
    assert env.action_schema.names == ("tide.action_1", "tide.action_2", "tide.action_3")
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
    assert not env.savable, "its state cannot be saved"


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


def test_observations_may_have_parts_whose_faults_are_named(tide: list[Tide], monkeypatch: pytest.MonkeyPatch) -> None:
    space = gym.spaces.Dict({"kind": gym.spaces.Discrete(3, start=1), "place": gym.spaces.Box(0, 1, (2,))})
    monkeypatch.setattr(Tide, "observation_space", lambda self, agent: space)
    wrong: dict[str, Any] = {}

    def see(self: Tide, agents: Any) -> dict[str, Any]:
        shown = {"kind": 2, "place": np.array([0.25, 1.5])}
        return {a: shown | (wrong if a == "gull_1" and self.time == 1 else {}) for a in agents}

    monkeypatch.setattr(Tide, "_see", see)
    env = envs.make(Task("pettingzoo:tide_v0"), 4, 0)
    assert env.observation_schema.names[3:] == ("place/tide.obs_0", "place/tide.obs_1")
    obs, infos = env.reset()
    assert obs[infos["alive"]].tolist() == [[0, 1, 0, 0.25, 1]] * 3
    assert env.faults.clipped == 3
    assert env.faults.clipped_first == "feature 'place/tide.obs_1' is 1.5, allowed are 0 to 1"
    wrong["kind"] = 0
    assert env.step(np.zeros(4, np.int64))[1].tolist() == [1, 0, 3, 4]
    assert env.faults.last.endswith("agent 'gull_1': part 'kind' is 0, allowed are 1 to 3")


def test_rewards_of_several_numbers_and_old_interfaces(tide: list[Tide], monkeypatch: pytest.MonkeyPatch) -> None:
    step, reset, form = Tide.step, Tide.reset, 5

    def paid(self: Tide, actions: dict[str, int]) -> Any:
        obs, rewards, *rest = step(self, actions)
        return (obs, {a: np.array([[r], [2.0]]) for a, r in rewards.items()}, *rest)[:form]

    monkeypatch.setattr(Tide, "step", paid)
    env = envs.make(Task("pettingzoo:tide_v0", {"reward_weights": [10, -1]}), 4, 0)
    env.reset()
    assert env.step(np.zeros(4, np.int64))[1].tolist() == [8, 0, 28, 38]
    with pytest.raises(GraftError, match=r"'pettingzoo:tide_v0' cannot be played: its reward is 2 numbers"):
        check(Task("pettingzoo:tide_v0"))
    form = 4
    with pytest.raises(GraftError, match=r"its step\(\) returns 4 values"):
        check(Task("pettingzoo:tide_v0"))
    monkeypatch.setattr(Tide, "reset", lambda self, seed=None, options=None: reset(self, seed)[0])
    with pytest.raises(GraftError, match=r"its reset\(\) returns the observation alone"):
        check(Task("pettingzoo:tide_v0"))


class Storm(Tide):
    """Does ``what`` in step ``at`` of every life of an instance, or only of the first that was made."""

    def __init__(self, what: str = "nothing", at: int = 2, first_only: bool = False, first: bool = True) -> None:
        super().__init__()
        self.what, self.at, self.taken = what if first or not first_only else "nothing", at, 0

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        found = super().reset(seed, options)
        if self.what == "raise in reset":
            raise RuntimeError("no level left")
        return found

    def step(self, actions: dict[str, int]) -> Any:
        obs, rewards, *rest = super().step(actions)
        self.taken += 1
        if self.taken == self.at:
            match self.what:
                case "raise":
                    raise ZeroDivisionError("a bug")
                case "nan reward":
                    rewards["gull_1"] = float("nan")
                case "nan":
                    obs["gull_1"][1] = np.nan
                case "nan at the end":
                    obs["gull_0"][1] = np.nan
                case "beyond":
                    obs["crab_0"][0] = 101
                case "shape":
                    obs["crab_1"] = np.zeros(3, np.float32)
        return obs, rewards, *rest


@pytest.fixture
def storms(monkeypatch: pytest.MonkeyPatch) -> list[Storm]:
    """The module ``storm_v0``, and the environments that it has made."""
    made: list[Storm] = []

    def parallel_env(**options: Any) -> Storm:
        made.append(Storm(**options, first=not made))
        return made[-1]

    module = ModuleType("storm_v0")
    module.parallel_env, module.raw_env = parallel_env, Storm  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "storm_v0", module)
    return made


def storm(rules: dict[str, Any] | None = None, **options: Any) -> Any:
    """Two environments of four rows each, not yet reset."""
    return envs.make(Task("pettingzoo:storm_v0", {"faults": rules or {}, **options}), 8, 5)


def play(env: Any, steps: int) -> list[Any]:
    env.reset()
    return [env.step(np.zeros(env.num_envs, np.int64)) for _ in range(steps)]


KINDS = {
    "raise": ("raised", r"ZeroDivisionError: a bug \(test_adapter.py:\d+, in step\)"),
    "nan reward": ("not_finite", "the reward of agent 'gull_1' is nan"),
    "nan": ("not_finite", "agent 'gull_1': feature 'storm.obs_1' is nan"),
    "nan at the end": ("not_finite", "agent 'gull_0': feature 'storm.obs_1' is nan"),
    "shape": ("outside", r"agent 'crab_1': the observation has shape \(3,\), its space has \(2,\)"),
}


@pytest.mark.parametrize("what", KINDS)
def test_a_fault_truncates_all_agents_in_play_at_what_they_saw_last(storms: list[Storm], what: str) -> None:
    env = storm(what=what, first_only=True)
    kind, said = KINDS[what]
    before, at, after = play(env, 3)
    assert not before[3].any()
    obs, rewards, terminated, truncated, infos = at
    earned = {"raise": [0] * 4, "nan reward": [1, 0, 3, 0]}.get(what, [1, 0, 3, 4])
    assert rewards.tolist() == [*earned, 1, 0, 3, 4]
    ended = [] if what == "raise" else [2]  # who died in that step has died, whatever else is wrong
    assert np.flatnonzero(terminated).tolist() == [*ended, 6]
    assert np.flatnonzero(truncated).tolist() == ([0, 3] if ended else [0, 2, 3])
    assert infos["_final_obs"].tolist() == [True, False, True, True, False, False, True, False]
    assert infos["final_obs"].tolist() == [[0, 1], [0, 0], [2, 1], [3, 1], [0, 0], [0, 0], [2, 2], [0, 0]]
    assert infos["winner"].tolist() == [-2, -1]
    assert obs.tolist() == [[0, 0], [0, 0], [2, 0], [3, 0], [0, 2], [1, 2], [0, 0], [3, 2]]
    assert infos["alive"].tolist() == [True, False, True, True, True, True, False, True]
    assert after[1].tolist() == [1, 0, 3, 4, 1, 2, 0, 4]
    assert dict(env.faults) == {"raised": 0, "hung": 0, "not_finite": 0, "outside": 0} | {kind: 1}
    assert re.search(f"^environment 0 in its step: {said}", env.faults.last), env.faults.last
    assert [one.closed for one in storms] == [True, False, False]
    env.close()
    assert all(one.closed for one in storms)


def test_a_failing_reset_is_tried_again_with_another_seed(storms: list[Storm]) -> None:
    env = storm(what="raise in reset", first_only=True)
    assert env.reset()[1]["alive"].sum() == 6
    assert env.faults["raised"] == 1
    assert "environment 0 in its reset: RuntimeError: no level left" in env.faults.last
    first, healthy, again = (one.seeds for one in storms)
    assert (first, healthy, len(again)) == ([5], [6], 1)
    assert again[0] not in (None, 5)


def test_restarts_are_reproducible_and_leave_the_other_environments_alone(storms: list[Storm]) -> None:
    def played(**options: Any) -> tuple[list[Any], list[Any]]:
        del storms[:]
        steps = play(storm(**options), 12)
        return [[part.tolist() for part in (*step[:4], step[4]["alive"])] for step in steps], [s.seeds for s in storms]

    steps, seeds = played(what="raise", at=3)
    assert played(what="raise", at=3) == (steps, seeds)
    # Lives of both: reset when made, in every third step; each has a seed of its own.
    given = [seed for its in seeds for seed in its]
    assert (len(storms), len(given), len(set(given))) == (2 + 2 * 4, 10, 10)
    alone, _ = played(what="raise", at=3, first_only=True)
    healthy, _ = played()
    assert [[part[4:] for part in step] for step in alone] == [[part[4:] for part in step] for step in healthy]


def test_too_many_faults_end_the_run_and_say_why(storms: list[Storm]) -> None:
    env = storm({"limit": 3}, what="raise")
    with pytest.raises(TooManyFaults, match="'pettingzoo:storm_v0' failed too often") as caught:
        play(env, 20)
    assert "4 times within 10,000 env steps, 3 are allowed): 4 raised in all" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_only_faults_within_the_window_count(storms: list[Storm]) -> None:
    """Both environments fail in every second step: 2 of 4 env steps."""
    assert len(play(storm({"limit": 2, "window": 4}, what="raise"), 20)) == 20
    with pytest.raises(TooManyFaults):
        play(storm({"limit": 2, "window": 5}, what="raise"), 20)


def test_values_out_of_bounds_are_clipped_and_counted_unless_it_is_switched_off(storms: list[Storm]) -> None:
    env = storm({"limit": 0}, what="beyond")
    assert play(env, 2)[-1][0][0].tolist() == [100, 2]
    assert (env.faults.total, env.faults.clipped) == (0, 2)
    assert env.faults.clipped_first == "feature 'storm.obs_0' is 101.0, allowed are 0 to 100"
    env = storm({"outside": False}, what="beyond")
    assert play(env, 2)[-1][0][0].tolist() == [101, 2]
    assert (env.faults.total, env.faults.clipped) == (0, 0)
    del storms[:]
    env = storm({"outside": False}, what="nan", first_only=True)
    play(env, 2)
    assert env.faults["not_finite"] == 1


def test_rules_that_make_no_sense_and_a_keyword_faults_of_its_own(
    storms: list[Storm], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GraftError, match="Unknown option of faults of pettingzoo:storm_v0 'limits'"):
        storm({"limits": 3})
    with pytest.raises(GraftError, match=r"Unknown keyword of .* 'fault'.*Did you mean 'faults'"):
        storm(fault=3)
    kept: list[int] = []

    def parallel_env(faults: int, **options: Any) -> Storm:
        kept.append(faults)
        return Storm(**options)

    monkeypatch.setattr(sys.modules["storm_v0"], "parallel_env", parallel_env)
    envs.make(Task("pettingzoo:storm_v0", {"faults": 3}), 4, 0)
    assert kept == [3]


def test_a_task_that_fails_in_its_first_step_is_found_before_anything_is_trained(storms: list[Storm]) -> None:
    with pytest.raises(GraftError, match="fails in its first step: environment 0 in its step: ZeroDivisionError"):
        check(Task("pettingzoo:storm_v0", {"what": "raise", "at": 1}))


@pytest.mark.parametrize("game", ["pursuit", "gather"])
def test_our_own_arenas_play_the_same_through_the_adapter(game: str) -> None:
    """Until an episode ends: then native environments go on with their numbers, and others get a seed."""
    native = Task({"pursuit": "Graft/Pursuit-v0", "gather": "Graft/TeamGather-v0"}[game], {"team": "all"})
    sizes = {"pursuit": {"hunters": 3, "prey": 3}, "gather": {"reds": 3, "blues": 3}}[game]
    mine = envs.make(Task(native.id, {**native.kwargs, **sizes}), 6, 11)
    theirs = envs.make(Task("pettingzoo:graft.envs.builtin.arena.pettingzoo_env", {"game": game, **sizes}), 6, 11)
    assert mine.schemas == theirs.schemas
    np.testing.assert_array_equal(mine.reset()[0], theirs.reset()[0])
    draw, died = np.random.default_rng(1), 0
    while True:
        actions = draw.integers(0, 6, 6)
        a, b = mine.step(actions), theirs.step(actions)
        for x, y in zip(a[1:4], b[1:4], strict=True):
            np.testing.assert_array_equal(x, y)
        died += int(a[2].sum())
        if a[4]["winner"] != -1:
            break
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[4]["alive"], b[4]["alive"])
    assert died == 6
    np.testing.assert_array_equal(a[4]["final_obs"], b[4]["final_obs"])


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
            "needs the Python module 'simple_tag_v3', which is not installed",
        ),
        (
            Task("pettingzoo:nothere.game_v0"),
            "needs the Python module 'nothere', which is not installed",
        ),
    ],
)
def test_what_is_refused(task: Task, text: str) -> None:
    with pytest.raises(GraftError, match=text):
        envs.make(task, 2, 0)


def test_next_step_autoreset_is_refused(tide: list[Tide]) -> None:
    with pytest.raises(GraftError, match="same-step autoreset alone"):
        envs.make(Task("pettingzoo:tide_v0"), 4, 0, AutoresetMode.NEXT_STEP)
