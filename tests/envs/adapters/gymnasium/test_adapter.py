"""The fallback adapter: any Gymnasium id as a batch, with names, and errors that say what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.env_rollouts import action_streams, assert_equal, episodes, transitions

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.adapters import packages

Box = gym.spaces.Box


class Fuse(gym.Env[Any, Any]):
    """Shows (steps so far, last action), burns for a random 2 to 5 steps and pays what it was given."""

    def __init__(self, observation: gym.Space[Any] | None = None, fails: type[Exception] | None = None) -> None:
        if fails is not None:
            raise fails("no fuse in stock")
        self.observation_space = observation or Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(3, start=5)

    def _look(self, action: int) -> Any:
        return np.array([self.clock, action], np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock, self.length = 0, int(self.np_random.integers(2, 6))
        return self._look(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.clock += 1
        return self._look(int(action)), float(action), self.clock >= self.length, False, {}


@pytest.fixture(autouse=True)
def fuse() -> Iterator[None]:
    gym.register("Fuse-v0", entry_point=Fuse)
    yield
    del gym.registry["Fuse-v0"]


def make(task_id: str, num_envs: int = 1, seed: int = 0, mode: str = "SameStep", **kwargs: Any) -> envs.TaskVectorEnv:
    return envs.make(Task(task_id, kwargs), num_envs, seed, AutoresetMode(mode))


def test_same_step_by_hand() -> None:
    env = make("Fuse-v0", num_envs=2, max_episode_steps=2)
    env.reset()
    _, rewards, terminated, truncated, infos = env.step(np.array([0, 2]))
    assert rewards.tolist() == [5.0, 7.0]  # actions are counted from the space's start
    lengths = [e.unwrapped.length for e in env._batch.envs]  # type: ignore[attr-defined]
    assert not truncated.any()
    assert infos == {}
    obs, _, terminated, truncated, infos = env.step(np.array([1, 1]))
    assert terminated.tolist() == [length == 2 for length in lengths]
    assert truncated.tolist() == [True, True]
    assert infos["_final_obs"].tolist() == [True, True]
    assert infos["final_obs"].tolist() == [[2.0, 6.0], [2.0, 6.0]]
    assert obs.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert obs.dtype == np.float32


def test_next_step_by_hand() -> None:
    env = make("Fuse-v0", mode="NextStep", max_episode_steps=2)
    env.reset()
    env.step(np.array([0]))
    obs, _, _, truncated, infos = env.step(np.array([1]))
    assert (obs.tolist(), truncated.tolist(), infos) == ([[2.0, 6.0]], [True], {})
    obs, rewards, terminated, truncated, _ = env.step(np.array([1]))  # this action is ignored
    assert (obs.tolist(), rewards.tolist()) == ([[0.0, 0.0]], [0.0])
    assert not (terminated | truncated).any()


def test_reset_after_an_end_leaves_no_reset_step_behind() -> None:
    env = make("Fuse-v0", mode="NextStep", max_episode_steps=1)
    env.reset()
    assert env.step(np.array([0]))[3].tolist() == [True]
    env.reset(options={"reset_mask": np.array([True])})
    assert env.step(np.array([1]))[1].tolist() == [6.0]  # a reset step would pay nothing


def test_final_obs_marks_only_the_ended_rows() -> None:
    env = make("Fuse-v0", num_envs=8)
    env.reset()
    lengths = np.array([e.unwrapped.length for e in env._batch.envs])  # type: ignore[attr-defined]
    assert lengths.min() == 3
    assert lengths.max() > 3
    infos = [env.step(np.zeros(8, int))[4] for _ in range(3)]
    assert infos[:2] == [{}, {}]
    np.testing.assert_array_equal(infos[2]["_final_obs"], lengths == 3)


@pytest.mark.parametrize("task_id", ["Fuse-v0", "CartPole-v1", "FrozenLake-v1"])
def test_batch_of_n_equals_n_batches_of_one(task_id: str) -> None:
    together = make(task_id, num_envs=3, seed=4)
    streams = action_streams(together, 150)
    played = transitions(together, streams)
    assert episodes(played) >= 6
    for i in range(3):
        assert_equal([played[i]], transitions(make(task_id, seed=4 + i), [streams[i]]))


@pytest.mark.parametrize("task_id", ["Fuse-v0", "CartPole-v1", "FrozenLake-v1"])
def test_autoreset_conventions_give_the_same_transitions(task_id: str) -> None:
    same, following = make(task_id, 3), make(task_id, 3, mode="NextStep")
    streams = action_streams(same, 150)
    played = transitions(same, streams)
    assert episodes(played) >= 6
    assert_equal(played, transitions(following, streams))


def test_plain_gymnasium_gives_the_same_transitions() -> None:
    stream = action_streams(make("CartPole-v1"), 60)
    played = transitions(make("CartPole-v1", seed=3), stream)[0]
    plain = gym.make("CartPole-v1")
    obs, _ = plain.reset(seed=3)
    for action, t in zip(stream[0], played, strict=True):
        np.testing.assert_array_equal(obs, t.obs)
        obs, reward, terminated, truncated, _ = plain.step(action)
        np.testing.assert_array_equal(obs, t.next_obs)
        assert (reward, terminated, truncated) == t[1:4]
        if terminated or truncated:
            obs, _ = plain.reset()


def test_resets_without_a_seed_go_on_with_the_random_numbers() -> None:
    env = make("CartPole-v1", num_envs=2, seed=7)
    first, second = env.reset()[0], env.reset()[0]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(env.reset(seed=7)[0], first)
    np.testing.assert_array_equal(env.reset()[0], second)


def test_a_seed_for_each_environment_or_none_for_some() -> None:
    env = make("CartPole-v1", num_envs=2)
    ones = make("CartPole-v1", num_envs=1, seed=1).reset()[0]
    np.testing.assert_array_equal(env.reset(seed=[8, 1])[0][1:], ones)
    running = env.reset()[0]
    env.reset(seed=[8, 1])
    np.testing.assert_array_equal(env.reset(seed=[None, 1])[0], [running[0], ones[0]])
    with pytest.raises(GraftError, match="3 seeds were given for 2 environments"):
        env.reset(seed=[1, 2, 3])


def test_reset_mask_resets_only_the_chosen() -> None:
    env = make("CartPole-v1", num_envs=2, mode="NextStep")
    before, _ = env.reset()
    after, _ = env.reset(options={"reset_mask": np.array([True, False])})
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [False, True]


def test_returned_arrays_are_the_callers_to_keep() -> None:
    env = make("CartPole-v1", num_envs=2)
    obs, _ = env.reset()
    kept = obs.copy()
    env.step(np.zeros(2, int))
    np.testing.assert_array_equal(obs, kept)


def test_disabled_autoreset_is_refused() -> None:
    with pytest.raises(GraftError, match="'Disabled' is not offered; allowed: 'SameStep', 'NextStep'"):
        make("CartPole-v1", mode="Disabled")


@pytest.mark.parametrize(
    ("task_id", "observation", "action"),
    [
        ("CartPole-v1", "cart_position cart_velocity pole_angle pole_velocity", "left right"),
        ("MountainCar-v0", "position velocity", "left noop right"),
        ("MountainCarContinuous-v0", "position velocity", "force"),
        ("Pendulum-v1", "cos_angle sin_angle angular_velocity", "torque"),
    ],
)
def test_classic_names(task_id: str, observation: str, action: str) -> None:
    schemas = envs.schemas(Task(task_id))
    assert schemas.observation.names == tuple(observation.split())
    assert schemas.action.names == tuple(action.split())


def test_pendulum_torque_bounds_and_effect() -> None:
    env = make("Pendulum-v1")
    assert (env.action_schema.low, env.action_schema.high) == ((-2.0,), (2.0,))
    env.reset()
    env._batch.envs[0].unwrapped.state = np.array([0.0, 0.0])  # type: ignore[attr-defined]
    obs = env.step(np.array([[2.0]]))[0]
    assert obs[0, 2] == pytest.approx(3 * 2.0 * 0.05)  # 3 / (m l^2) * torque * dt, upright and at rest


def test_mujoco_actions_are_named_after_their_joints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it is started
    pytest.importorskip("mujoco", reason="pip install 'graft-rl[games]'")
    pytest.importorskip("imageio", reason="pip install imageio")
    names = envs.schemas(Task("HalfCheetah-v5")).action.names
    assert names == ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")


def test_atari_actions_are_named_by_their_meanings() -> None:
    pytest.importorskip("ale_py", reason="pip install 'graft-rl[games]'")
    schemas = envs.schemas(Task("ale_py:ALE/Pong-v5"))
    assert schemas.action.names == ("noop", "fire", "right", "left", "rightfire", "leftfire")
    assert (schemas.observation.kind, schemas.observation.shape) == ("pixels", (3, 210, 160))


@pytest.mark.parametrize("space", [gym.spaces.Text(3), gym.spaces.Sequence(gym.spaces.Discrete(2))])
def test_other_observations_are_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(GraftError, match=r"Observations of 'Fuse-v0' are .*; allowed: Box, Discrete"):
        make("Fuse-v0", observation=space)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("CartPole", "CartPole-v1"),
        ("Pendulum-v0", "Pendulum-v1"),
        ("graft/Gathr-v0", "Graft/Gather-v0"),
    ],
)
def test_unknown_id_is_answered_with_the_nearest_of_all_adapters(given: str, meant: str) -> None:
    with pytest.raises(GraftError, match=f"Unknown task '{given}'.*Did you mean '{meant}'"):
        make(given)


def test_old_version_is_made_without_a_warning() -> None:
    assert make("CartPole-v0").reset()[0].shape == (1, 4)


def test_missing_module_is_named() -> None:
    with pytest.raises(GraftError, match="Module 'no_such_games' of task 'no_such_games:Foo-v0' cannot be imported"):
        make("no_such_games:Foo-v0")


def test_module_of_a_user_is_imported_and_its_ids_are_hinted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"import gymnasium\ngymnasium.register('MyFuse-v0', entry_point='{Fuse.__module__}:Fuse')\n"
    (tmp_path / "my_fuses.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert make("my_fuses:MyFuse-v0").reset()[0].tolist() == [[0.0, 0.0]]
        with pytest.raises(GraftError, match="Did you mean 'my_fuses:MyFuse-v0'"):
            make("my_fuses:MyFuze-v0")
    finally:
        gym.registry.pop("MyFuse-v0", None)
        sys.modules.pop("my_fuses", None)


def test_unknown_keyword_gets_the_nearest_name() -> None:
    with pytest.raises(
        GraftError, match=r"Unknown keyword of CartPole-v1 'sutton_barto'.*Did you mean 'sutton_barto_reward'"
    ):
        make("CartPole-v1", sutton_barto=True)


def test_value_that_the_constructor_refuses_is_named() -> None:
    with pytest.raises(GraftError, match=r"'Fuse-v0' does not accept fails=.*: no fuse in stock"):
        make("Fuse-v0", fails=ValueError)


def test_missing_dependency_keeps_the_install_line() -> None:
    with pytest.raises(
        GraftError, match="'Fuse-v0' needs a package that is not installed; install it: no fuse in stock"
    ):
        make("Fuse-v0", fails=gym.error.DependencyNotInstalled)


def test_bounds_of_the_classics_lie_inside_the_possible_returns() -> None:
    longest = {"CartPole-v1": (1, 500), "Acrobot-v1": (-500, 0), "MountainCar-v0": (-200, 0), "Pendulum-v1": (-3255, 0)}
    for task_id, (least, most) in longest.items():
        found = envs.bounds(Task(task_id))
        assert found is not None
        assert least <= found.random < found.expert <= most
        assert found.how
    assert envs.bounds(Task("FrozenLake-v1")) is None


def test_random_cartpole_scores_what_its_bounds_say() -> None:
    env = make("CartPole-v1", num_envs=20, seed=100)
    played = transitions(env, action_streams(env, 600, seed=1))
    ends, steps = episodes(played), sum(map(len, played))
    bounds = envs.bounds(Task("CartPole-v1"))
    assert bounds is not None
    # Every step pays 1, so steps per episode estimate the mean return; its standard error here is about 0.5.
    assert steps / ends == pytest.approx(bounds.random, abs=2.5)


def test_an_unknown_id_names_the_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraftError, match=r"Did you mean 'CartPole-v1'\?$"):
        make("CartPol-v1")
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "ale_py" else object())
    with pytest.raises(GraftError, match=r"Not installed: ALE; `pip install 'graft-rl\[games\]'` brings them\.$"):
        make("ALE/Pog-v5")
