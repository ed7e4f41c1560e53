"""Faults of third-party environments: found, counted, survived, and at some point too many."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.env_rollouts import action_streams, assert_equal, transitions

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.core.faults import FaultLog, FaultRules, TooManyFaults
from graft.envs.supervision.observation_check import ObservationCheck, limits

Box = gym.spaces.Box
SHAPE = (3,)


class Faulty(gym.Env[Any, Any]):
    """Shows how many steps it has taken, three times; does ``what`` in step ``at`` of every life of an instance.

    ``lives`` counts instances, and ``closed`` those that were closed.
    """

    observation_space = Box(-10, 10, SHAPE)
    action_space = gym.spaces.Discrete(2)
    lives, closed = 0, 0
    seeds: list[int | None] = []  # noqa: RUF012 - shared on purpose

    def __init__(self, what: str = "nothing", at: int = 3, first_only: bool = False) -> None:
        Faulty.lives += 1
        self.what = what if not first_only or Faulty.lives == 1 else "nothing"
        self.at, self.taken = at, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        Faulty.seeds.append(seed)
        if self.what == "raise in reset":
            raise RuntimeError("no level left")
        return np.zeros(SHAPE, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        obs, reward = np.full(SHAPE, self.taken, np.float32), 1.0
        if self.taken == self.at:
            match self.what:
                case "raise":
                    raise ZeroDivisionError("a bug\nwith more lines")
                case "exit":
                    raise SystemExit(3)
                case "nan reward" | "inf reward":
                    reward = float(self.what[:3])
                case "nan" | "inf":
                    obs[1] = float(self.what)
                case "beyond":
                    obs[2] = 12
                case "shape":
                    obs = np.zeros(1, np.float32)
                case "none":
                    obs = None
        return obs, reward, False, False, {}

    def close(self) -> None:
        Faulty.closed += 1


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    Faulty.lives = Faulty.closed = 0
    Faulty.seeds = []
    gym.register("Faulty-v0", entry_point=Faulty)
    yield
    del gym.registry["Faulty-v0"]


def make(num_envs: int = 2, mode: str = "SameStep", rules: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    kwargs["faults"] = rules or {}
    return envs.make(Task("Faulty-v0", kwargs), num_envs, 5, AutoresetMode(mode))


def play(env: Any, steps: int) -> list[Any]:
    env.reset()
    return [env.step(np.zeros(env.num_envs, int)) for _ in range(steps)]


KINDS = {
    "raise": ("raised", r"ZeroDivisionError: a bug \(test_faults.py:\d+, in step\)"),
    "exit": ("raised", r"SystemExit: 3 \(test_faults.py:\d+, in step\)"),
    "nan reward": ("not_finite", "the reward is nan"),
    "inf reward": ("not_finite", "the reward is inf"),
    "nan": ("not_finite", "feature 'Faulty.obs_1' is nan"),
    "inf": ("not_finite", "feature 'Faulty.obs_1' is inf"),
    "shape": ("outside", r"the observation has shape \(1,\), its space has \(3,\)"),
    "none": ("outside", "the observation is a NoneType"),
}


EARNED = {"nan": 1.0, "inf": 1.0, "shape": 1.0, "none": 1.0}
"""The reward of the step, which counts where it is not the fault."""


@pytest.mark.parametrize("what", KINDS)
def test_a_fault_truncates_the_episode_at_the_last_good_observation(what: str) -> None:
    env = make(what=what, first_only=True)
    kind, said = KINDS[what]
    *_, before, at, after = play(env, 4)
    assert not before[3].any()
    obs, rewards, terminated, truncated, infos = at
    earned = EARNED.get(what, 0.0)
    assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == ([earned, 1], [False, False], [True, False])
    assert infos["_final_obs"].tolist() == [True, False]
    assert infos["final_obs"][0].tolist() == [2.0] * 3
    assert obs.tolist() == [[0.0] * 3, [3.0] * 3]
    assert (after[0].tolist(), after[1].tolist()) == ([[1.0] * 3, [4.0] * 3], [1.0, 1.0])
    assert dict(env.faults) == {"raised": 0, "hung": 0, "not_finite": 0, "outside": 0} | {kind: 1}
    assert env.faults.total == 1
    assert re.search(said, env.faults.last), env.faults.last
    assert env.faults.last.startswith("environment 0 in its step: ")
    assert (Faulty.lives, Faulty.closed) == (3, 1)
    env.close()
    assert Faulty.closed == 3


def test_next_step_autoreset_restarts_in_the_step_after() -> None:
    env = make(what="raise", mode="NextStep", first_only=True)
    *_, at, after, later = play(env, 5)
    assert (at[0].tolist(), at[3].tolist()) == ([[2.0] * 3, [3.0] * 3], [True, False])
    assert (after[0].tolist(), after[1].tolist()) == ([[0.0] * 3, [4.0] * 3], [0.0, 1.0])
    assert not (after[2] | after[3]).any()
    assert later[0].tolist() == [[1.0] * 3, [5.0] * 3]


def test_a_failing_reset_is_tried_again_with_another_seed() -> None:
    env = make(1, what="raise in reset", first_only=True)
    assert env.reset()[0].tolist() == [[0.0] * 3]
    assert (env.faults.total, Faulty.lives) == (1, 2)
    assert "in its reset" in env.faults.last
    first, second = Faulty.seeds
    assert first == 5
    assert second not in (None, 5)


def test_restarts_are_reproducible_and_each_has_a_seed_of_its_own() -> None:
    def seeds() -> list[int | None]:
        Faulty.seeds = []
        play(make(2, what="raise"), 9)
        return Faulty.seeds

    first = seeds()
    assert first == seeds()
    assert len(set(first)) == len(first) == 2 + 2 * 3  # two resets, then both fail in every third step


def test_many_faults_at_once_are_all_survived() -> None:
    env = make(40, what="raise", rules={"limit": 40})
    at = play(env, 3)[-1]
    assert at[3].all()
    assert at[4]["final_obs"].tolist() == [[2.0] * 3] * 40
    assert env.faults["raised"] == 40


def test_too_many_faults_end_the_run_and_say_why() -> None:
    env = make(1, what="raise", rules={"limit": 2})
    with pytest.raises(TooManyFaults, match="Environments of 'Faulty-v0' failed too often") as caught:
        play(env, 20)
    assert "3 times within 10,000 env steps, 2 are allowed): 3 raised in all" in str(caught.value)
    assert "environment 0 in its step: ZeroDivisionError: a bug (test_faults.py" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    caught.value.env_steps = 8
    for error in caught.value, pickle.loads(pickle.dumps(caught.value)):  # as between processes
        assert (error.task, error.faults["raised"], error.env_steps) == ("Faulty-v0", 3, 8)
        assert str(error) == str(caught.value)
    with pytest.raises(TooManyFaults, match="11 raised in all"):
        make(1, what="raise in reset").reset()


def test_only_faults_within_the_window_count() -> None:
    log = FaultLog("a game", FaultRules(limit=1, window=10))
    for _ in range(50):  # one in ten steps
        log.count_steps(10)
        log.add("raised", "")
        log.check()
    log.count_steps(9)
    log.add("raised", "")
    with pytest.raises(TooManyFaults):
        log.check()


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_values_out_of_bounds_are_clipped_and_counted(mode: str) -> None:
    env = make(1, what="beyond", mode=mode, rules={"limit": 0})
    steps = play(env, 5)
    assert [step[0].tolist()[0] for step in steps] == [[k, k, 10 if k == 3 else k] for k in (1, 2, 3, 4, 5)]
    assert [step[1].tolist() for step in steps] == [[1.0]] * 5
    assert not any(step[2].any() or step[3].any() for step in steps)
    assert (env.faults.total, env.faults.clipped) == (0, 1)
    assert env.faults.clipped_first == "feature 'Faulty.obs_2' is 12.0, allowed are -10 to 10"
    assert env.faults.metrics() == {"env/clipped": 1.0}


def test_clipping_can_be_switched_off_but_not_the_checks_for_nan_and_shape() -> None:
    env = make(1, what="beyond", rules={"outside": False})
    assert play(env, 3)[-1][0].tolist() == [[3.0, 3.0, 12.0]]
    assert (env.faults.total, env.faults.clipped) == (0, 0)
    for what, kind in {"nan": "not_finite", "shape": "outside", "none": "outside"}.items():
        env = make(1, what=what, rules={"outside": False})
        assert play(env, 3)[-1][3].tolist() == [True]
        assert env.faults[kind] == 1


class Cliff(gym.Env[Any, Any]):
    """Walks to an end, just outside of what its space allows or not a number, and falls for -100."""

    observation_space = Box(0, 1, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, end: float = 1.05) -> None:
        self.end = end

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.left = 0.5, int(self.np_random.integers(3, 9))
        return np.array([self.place]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        over = self.left == 0
        self.place = self.end if over else (self.place + 0.3 * int(action)) % 1.0
        return np.array([self.place]), -100.0 if over else 40.0, over, False, {}


@pytest.mark.parametrize("end", [1.05, np.nan])
def test_the_last_step_counts_whatever_is_wrong_with_its_observation(end: float) -> None:
    gym.register("Cliff-v0", entry_point=Cliff)
    try:
        rules = {"faults": {"limit": 1000}}
        env = envs.make(Task("Cliff-v0", {"end": end, **rules}), 4, 0)
        played = transitions(env, action_streams(env, 100))
        for i, one in enumerate(played):
            plain, seed = Cliff(end), i if end == 1.05 else None
            if seed is not None:  # an environment that gave NaN is made again, with another seed
                obs, _ = plain.reset(seed=seed)
                for t, action in zip(one, action_streams(env, 100)[i], strict=True):
                    assert t.obs == np.clip(obs, 0, 1).astype(np.float32)
                    obs, *given, _, _ = plain.step(action)
                    assert t[1:3] == tuple(given)
                    if given[1]:
                        obs, _ = plain.reset()
            ends = [t for t in one if t.reward == -100]
            assert len(ends) >= 10
            assert all(t.terminated and not t.truncated for t in ends)
            assert all(t.next_obs <= 1 for t in ends)
        ended = sum(t.terminated for one in played for t in one)
        assert (env.faults.clipped, env.faults.total) == ((ended, 0) if end == 1.05 else (0, ended))
    finally:
        del gym.registry["Cliff-v0"]


def test_a_rounding_error_is_clipped_and_not_counted() -> None:
    check = ObservationCheck(Box(np.array([-1, 0, -np.inf], np.float32), np.array([1, np.inf, 5], np.float32)), True)
    near = np.array([1.0015, -0.0009, 5.004], np.float32)
    np.testing.assert_array_equal(check.read(near), np.array([1, 0, 5], np.float32))
    assert check.clips.take() == (0, "")
    check.read(near + np.array([0.001, 0, 0], np.float32))
    assert check.clips.take() == (1, "observation[0] is 1.0025, allowed are -1 to 1")
    assert [int(x) for x in limits(gym.spaces.Discrete(4, start=3))] == [3, 6]


def test_without_faults_nothing_is_changed() -> None:
    """Bit for bit the loop that anybody would write over the same environments."""
    env = envs.make(Task("CartPole-v1"), 3, 4)
    streams = action_streams(env, 200)
    played = transitions(env, streams)
    for i, stream in enumerate(streams):
        plain = gym.make("CartPole-v1")
        obs, _ = plain.reset(seed=4 + i)
        for action, t in zip(stream, played[i], strict=True):
            np.testing.assert_array_equal(obs, t.obs)
            obs, reward, terminated, truncated, _ = plain.step(action)
            assert (reward, terminated, truncated) == t[1:4]
            if terminated or truncated:
                obs, _ = plain.reset()
    unchecked = envs.make(Task("CartPole-v1", {"faults": {"outside": False}}), 3, 4)
    assert_equal(played, transitions(unchecked, streams))
    assert env.faults.total == 0
    assert env.faults.metrics() == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limits": 3}, "Unknown option of faults of Faulty-v0 'limits'.*Did you mean 'limit'"),
        ({"limit": -1}, "faults of Faulty-v0: limit=-1 is not allowed"),
        ({"step_timeout": 0}, "step_timeout=0 is not allowed"),
        (7, r"faults=7 of Faulty-v0 is not allowed; give rules, such as \{limit: 10\}"),
    ],
)
def test_rules_that_make_no_sense(given: Any, said: str) -> None:
    with pytest.raises(GraftError, match=said):
        envs.make(Task("Faulty-v0", {"faults": given}), 1, 0)


def test_an_environment_with_a_keyword_faults_keeps_it() -> None:
    class Owner(Faulty):
        def __init__(self, faults: int) -> None:
            super().__init__()
            self.own = faults

    gym.register("Owner-v0", entry_point=Owner)
    try:
        env: Any = envs.make(Task("Owner-v0", {"faults": 3}), 1, 0)
        assert env._batch.envs[0].unwrapped.own == 3
    finally:
        del gym.registry["Owner-v0"]


def test_a_task_that_fails_in_its_first_step_is_found_before_anything_is_trained() -> None:
    from graft.envs.factory import check

    with pytest.raises(GraftError, match=r"Faulty\(at=1, what=raise\) fails in its first step.*ZeroDivisionError"):
        check(Task("Faulty-v0", {"what": "raise", "at": 1}))


def test_parts_of_a_mixture_and_widened_batches_tell_of_their_faults() -> None:
    from graft.envs.adapters.mixture import mixture

    healthy, faulty = Task("Faulty-v0"), Task("Faulty-v0", {"what": "raise"})
    env = envs.make(mixture([healthy, faulty]), 2, 0)
    assert play(env, 3)[-1][3].tolist() == [False, True]
    assert env.faults["raised"] == 1
    assert "environment 0 in its step" in env.faults.last


def test_envpool_simulations_that_are_not_finite_are_reset() -> None:
    pytest.importorskip("envpool", reason="pip install 'graft-rl[games]'")
    for mode in AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP:
        env: Any = envs.make(Task("envpool/CartPole-v1", {"faults": {"limit": 1}}), 3, 0, mode)
        before, _ = env.reset()
        pool, actions = env._pool, np.zeros(3, int)

        class Broken:
            def __getattr__(self, name: str, pool: Any = pool) -> Any:
                return getattr(pool, name)

            def step(self, given: Any, pool: Any = pool) -> Any:
                obs, rewards, *rest = pool.step(given)
                obs[1, 2] = np.nan
                return obs, rewards, *rest

        env._pool = Broken()
        obs, rewards, terminated, truncated, infos = env.step(actions)
        assert (rewards.tolist(), truncated.tolist(), terminated.any()) == ([1, 1, 1], [False, True, False], False)
        assert env.faults.last == "environment 1 in its step: feature 'pole_angle' is nan"
        shown = infos["final_obs"] if mode is AutoresetMode.SAME_STEP else obs
        np.testing.assert_array_equal(shown[1], before[1])
        env._pool = pool
        after, rewards, _, truncated, _ = env.step(actions)
        assert rewards.tolist() == ([1, 1, 1] if mode is AutoresetMode.SAME_STEP else [1, 0, 1])
        assert np.isfinite(after).all()
        assert not truncated.any()
        env._pool = Broken()
        with pytest.raises(TooManyFaults, match="2 not finite in all"):
            env.step(actions)
    with pytest.raises(GraftError, match="Unknown option of faults of envpool/CartPole-v1 'step_timeout'"):
        envs.make(Task("envpool/CartPole-v1", {"faults": {"step_timeout": 1}}), 1, 0)
