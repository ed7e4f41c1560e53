"""EnvPool: MiniGrid's named planes, seeds, both autoreset conventions, and errors that say what to do."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.env_rollouts import action_streams, assert_equal, episodes, transitions

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.adapters.envpool import adapter as envpool
from graft.envs.adapters.names import known_names
from graft.envs.adapters.procgen.qt import found_qt

INSTALL = "pip install 'graft-rl[games]'"
DOOR_KEY = "MiniGrid-DoorKey-6x6-v0"
EMPTY = "MiniGrid-Empty-5x5-v0"
LEFT, RIGHT, FORWARD = range(3)
TO_GOAL = (FORWARD, FORWARD, RIGHT, FORWARD, FORWARD)  # shortest way through Empty-5x5: its agent starts opposite

needs_envpool = pytest.mark.skipif(find_spec("envpool") is None, reason=f"EnvPool is missing: {INSTALL}")


def make(name: str, num_envs: int = 1, seed: int = 0, mode: str = "SameStep", **kwargs: Any) -> envs.TaskVectorEnv:
    return envs.make(Task("envpool/" + name, kwargs), num_envs, seed, AutoresetMode(mode))


def plane(schema: envs.ObservationSchema, obs: Any, name: str) -> list[list[int]]:
    """Cells (row, column) that are set in a plane of one observation (C, H, W)."""
    cells: list[list[int]] = np.argwhere(obs[schema.names.index(name)]).tolist()
    return cells


def test_missing_envpool_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(
        GraftError, match=r"EnvPool is not installed; install it with `pip install 'graft-rl\[games\]'`"
    ):
        make(DOOR_KEY)
    with pytest.raises(GraftError, match="Did you mean 'CartPole-v1'"):
        envs.make(Task("CartPol-v1"), 1, 0)  # the fallback's hint does without EnvPool's ids


@needs_envpool
def test_empty_room_by_hand() -> None:
    env = make(EMPTY)
    obs = env.reset()[0][0]
    schema = env.observation_schema
    # The agent is in the middle of the lowest row and looks up, which is east; the goal is two ahead, two to the right.
    assert plane(schema, obs, "object:goal") == [[4, 5]]
    assert plane(schema, obs, "colour:green") == [[4, 5]]
    assert plane(schema, obs, "object:empty") == [[4, 3], [4, 4], [5, 3], [5, 4], [5, 5], [6, 3], [6, 4], [6, 5]]
    assert plane(schema, obs, "state:open") == []
    assert plane(schema, obs, "colour:red") == []


@needs_envpool
def test_success_pays_by_time_and_terminates() -> None:
    env = make(EMPTY)
    env.reset()
    steps = [env.step(np.array([action])) for action in TO_GOAL]
    assert [float(s[1][0]) for s in steps[:4]] == [0.0] * 4
    assert float(steps[4][1][0]) == pytest.approx(1 - 0.9 * 5 / 100, abs=1e-6)
    assert [bool(s[2][0]) for s in steps] == [False] * 4 + [True]
    assert not any(s[3][0] for s in steps)
    final = steps[4][4]["final_obs"][0]
    assert plane(env.observation_schema, final, "object:goal") == []  # the agent stands on it
    assert plane(env.observation_schema, steps[4][0][0], "object:goal") == [[4, 5]]  # a fresh episode


@needs_envpool
@pytest.mark.parametrize(("steps", "terminated", "truncated"), [(4, False, True), (5, True, False)])
def test_time_limit_truncates_but_success_in_the_last_step_terminates(
    steps: int, terminated: bool, truncated: bool
) -> None:
    env = make(EMPTY, max_episode_steps=steps)
    env.reset()
    played = [env.step(np.array([action])) for action in TO_GOAL[:steps]]
    assert not any(s[2][0] or s[3][0] for s in played[:-1])
    assert (bool(played[-1][2][0]), bool(played[-1][3][0])) == (terminated, truncated)


@needs_envpool
def test_next_step_ignores_the_action_after_the_end() -> None:
    env = make(EMPTY, mode="NextStep", max_episode_steps=1)
    first, _ = env.reset()
    turned, _, _, truncated, infos = env.step(np.array([LEFT]))
    assert (truncated.tolist(), infos) == ([True], {})
    assert not np.array_equal(turned, first)
    obs, rewards, terminated, truncated, _ = env.step(np.array([LEFT]))
    np.testing.assert_array_equal(obs, first)
    assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == ([0.0], [False], [False])


@needs_envpool
def test_reset_after_an_end_leaves_no_reset_step_behind() -> None:
    env = make(EMPTY, mode="NextStep", max_episode_steps=1)
    env.reset()
    assert env.step(np.array([LEFT]))[3].tolist() == [True]
    env.reset(options={"reset_mask": np.array([True])})
    assert env.step(np.array([LEFT]))[3].tolist() == [True]  # a reset step would not end an episode


@needs_envpool
@pytest.mark.parametrize("name", [DOOR_KEY, "MiniGrid-LavaGapS5-v0", "CartPole-v1"])
def test_autoreset_conventions_give_the_same_transitions(name: str) -> None:
    same, following = make(name, 4, 9), make(name, 4, 9, "NextStep")
    streams = action_streams(same, 800)
    played = transitions(same, streams)
    assert episodes(played) >= 8
    assert_equal(played, transitions(following, streams))


@needs_envpool
@pytest.mark.parametrize("name", [DOOR_KEY, "MiniGrid-LavaGapS5-v0", "CartPole-v1"])
def test_batch_of_n_equals_n_batches_of_one(name: str) -> None:
    together = make(name, 3, seed=20)
    streams = action_streams(together, 800)
    played = transitions(together, streams)
    assert episodes(played) >= 6
    for i in range(3):
        assert_equal([played[i]], transitions(make(name, seed=20 + i), [streams[i]]))


@needs_envpool
def test_threads_change_nothing() -> None:
    task = Task("envpool/CartPole-v1")  # its short episodes reset other subsets of the batch in most steps
    one, three = (envs.make(task, 16, 0, max_threads=threads) for threads in (1, 3))
    streams = action_streams(one, 200)
    assert_equal(transitions(one, streams), transitions(three, streams))


@needs_envpool
def test_seeds() -> None:
    env = make(DOOR_KEY, 4, seed=5)
    first, second = env.reset()[0], env.reset()[0]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(env.reset(seed=5)[0], first)
    np.testing.assert_array_equal(env.reset()[0], second)
    np.testing.assert_array_equal(env.reset(seed=[5, 6, 7, 8])[0], first)
    np.testing.assert_array_equal(env.reset(seed=6)[0][:3], first[1:])


@needs_envpool
@pytest.mark.parametrize("seed", [2**31 - 1, [1, None]])
def test_seeds_that_envpool_cannot_hold_are_refused(seed: Any) -> None:
    with pytest.raises(GraftError, match="EnvPool takes one seed from 0 to 2147483647 for each of its 2"):
        make(DOOR_KEY, 2).reset(seed=seed)


@needs_envpool
def test_reset_mask_resets_only_the_chosen() -> None:
    env = make(DOOR_KEY, 3, mode="NextStep")
    before, _ = env.reset()
    after, _ = env.reset(options={"reset_mask": np.array([True, False, True])})
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [False, True, False]


@needs_envpool
def test_returned_arrays_are_the_callers_to_keep() -> None:
    env = make("CartPole-v1", 2)
    obs, _ = env.reset()
    kept = obs.copy()
    for _ in range(3):
        env.step(np.zeros(2, int))
    np.testing.assert_array_equal(obs, kept)


@needs_envpool
def test_keywords_reach_the_game() -> None:
    wide, narrow = make(EMPTY, size=16).reset()[0], make(EMPTY, size=5).reset()[0]
    open_floor = envs.schemas(Task("envpool/" + EMPTY)).observation.names.index("object:empty")
    assert (wide[0, open_floor].sum(), narrow[0, open_floor].sum()) == (28, 8)


@needs_envpool
def test_unknown_keyword_and_pool_keywords_are_refused() -> None:
    with pytest.raises(GraftError, match=f"Unknown keyword of envpool/{DOOR_KEY} 'siez'.*Did you mean 'size'"):
        make(DOOR_KEY, siez=8)
    with pytest.raises(GraftError, match="'num_threads'"):
        make(DOOR_KEY, num_threads=8)


@needs_envpool
def test_value_of_a_wrong_type_is_named() -> None:
    with pytest.raises(GraftError, match=f"Task 'envpool/{DOOR_KEY}' does not accept size='large'"):
        make(DOOR_KEY, size="large")


@needs_envpool
def test_unknown_id_gets_the_nearest() -> None:
    with pytest.raises(GraftError, match=f"Unknown task 'envpool/MiniGrid-DorKey-6x6-v0'.*'envpool/{DOOR_KEY}'"):
        make("MiniGrid-DorKey-6x6-v0")
    with pytest.raises(GraftError, match=f"Did you mean '(envpool/)?{DOOR_KEY}'"):
        envs.make(Task("MiniGrid-DorKey-6x6-v0"), 1, 0)


@needs_envpool
@pytest.mark.parametrize(("name", "parts"), [("FetchReach-v4", 3), ("WalkerRun-v1", 3)])
def test_dictionary_observations_are_parts(name: str, parts: int) -> None:
    env = make(name, num_envs=2)
    assert len(env.observation_schema.parts) == parts
    obs, _ = env.reset()
    env.action_space.seed(0)
    for _ in range(20):
        assert all(env.single_observation_space.contains(one) for one in obs)
        obs, *_ = env.step(env.action_space.sample())


@needs_envpool
def test_a_board_of_wide_whole_numbers_is_a_vector() -> None:
    env = make("Game2048-v1", action_masks=False)
    pool = envpool._library().make_gymnasium("Game2048-v1", num_envs=1, env_seed=[0])
    obs, raw = env.reset()[0], pool.reset()[0]
    assert [name for name, _ in env.observation_schema.parts] == ["board", "action_mask"]
    for action in (0, 1, 2, 3):
        np.testing.assert_array_equal(obs[0], np.concatenate([raw["board"].ravel(), raw["action_mask"].ravel()]))
        obs, raw = env.step(np.array([action]))[0], pool.step(np.array([action]))[0]


@needs_envpool
def test_minigrids_own_package_shows_and_plays_the_same() -> None:
    pytest.importorskip("minigrid", reason=INSTALL)
    ours, theirs = make(EMPTY), envs.make(Task(f"minigrid:{EMPTY}"), 1, 0)
    assert ours.schemas == theirs.schemas
    streams = action_streams(ours, 300)
    played = transitions(ours, streams)
    assert episodes(played) >= 3
    for a, b in zip(played[0], transitions(theirs, streams)[0], strict=True):
        np.testing.assert_array_equal(a.next_obs, b.next_obs)
        assert a.reward == pytest.approx(b.reward, abs=1e-6)
        assert (a.terminated, a.truncated) == (b.terminated, b.truncated)


@needs_envpool
def test_generic_tasks_share_names_with_gymnasium() -> None:
    assert envs.schemas(Task("envpool/CartPole-v1")).action == envs.schemas(Task("CartPole-v1")).action
    ours, theirs = (envs.schemas(Task(i)).observation.names for i in ("envpool/Pendulum-v1", "Pendulum-v1"))
    assert ours == theirs
    assert envs.bounds(Task("envpool/Pendulum-v1")) == envs.bounds(Task("Pendulum-v1"))


@needs_envpool
@pytest.mark.parametrize("name", ["LunarLander-v3", "BipedalWalker-v3"])
def test_box2d_has_names_and_bounds(name: str) -> None:
    schemas = envs.schemas(Task("envpool/" + name))
    assert not any("." in action and action.startswith(name[:-3]) for action in schemas.action.names)
    assert not any(feature.startswith(name[:-3]) for feature in schemas.observation.names)
    assert envs.bounds(Task("envpool/" + name)) == envs.bounds(Task(name))


def test_both_forms_of_a_task_have_names() -> None:
    discrete: gym.Space[Any] = gym.spaces.Discrete(4)
    box = gym.spaces.Box(-1, 1, (2,), np.float32)
    assert known_names("LunarLander-v3", discrete).action == ("noop", "left_engine", "main_engine", "right_engine")
    assert known_names("LunarLander-v3", box).action == known_names("LunarLanderContinuous-v3").action
    assert known_names("CarRacing-v3", gym.spaces.Discrete(5)).action == (
        *("noop", "steer_right", "steer_left"),
        *("gas", "brake"),
    )
    assert known_names("CartPole-v1", discrete) == known_names("CartPole-v1")


@needs_envpool
def test_keywords_that_an_id_stands_for_are_not_offered() -> None:
    for name, keyword in (("Pong-v5", "task"), ("MetaWorld/Reach-v3", "task_name")):
        with pytest.raises(GraftError, match=f"Unknown keyword of envpool/{name} '{keyword}'"):
            envs.make(Task("envpool/" + name, {keyword: "push-v3"}), 1, 0)


@needs_envpool
@pytest.mark.parametrize("name", ["CartPole-v1", "highway-v0", EMPTY])
def test_an_episode_has_at_least_one_step(name: str) -> None:
    with pytest.raises(GraftError, match=f"max_episode_steps=0 of envpool/{name} is not allowed; give 1 or more"):
        make(name, max_episode_steps=0)


@needs_envpool
@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_resets_of_some_show_the_others_as_they_were(mode: str) -> None:
    env = make("CartPole-v1", 4, mode=mode, max_episode_steps=6)
    env.reset()
    for t in range(20):
        shown = env.step(np.zeros(4, np.int64))[0]
        mask = np.arange(4) == t % 4
        obs = env.reset(options={"reset_mask": mask})[0]
        np.testing.assert_array_equal(obs[~mask], shown[~mask])
        assert (np.abs(obs[mask]) <= 0.05).all()


def test_states_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*missing: str) -> dict[str, str]:
        monkeypatch.setattr(envpool, "find_spec", lambda name: None if "envpool" in missing else True)
        monkeypatch.setattr(envpool, "found_qt", lambda: "qt" not in missing)
        return envpool.EnvPoolAdapter().states()

    assert without() == {"EnvPool": "ready", "EnvPool's Procgen": "ready"}
    assert (
        without("qt")["EnvPool's Procgen"]
        == "Qt 5 is not installed; install it with `pip install 'graft-rl[procgen]'`."
    )
    assert set(without("envpool").values()) == {f"EnvPool is not installed; install it with `{INSTALL}`."}


@needs_envpool
def test_qt_is_found_where_procgen_plays() -> None:
    try:
        make("CoinrunEasy-v0")
    except GraftError:
        pytest.skip("pip install 'graft-rl[procgen]'")
    assert found_qt()


@needs_envpool
def test_lunar_lander_has_no_lower_bound() -> None:
    # EnvPool declares the smallest positive float32 there, which every second observation violates.
    assert set(envs.schemas(Task("envpool/LunarLander-v3")).observation.low) == {-np.inf}


@needs_envpool
def test_random_play_scores_what_the_bounds_say() -> None:
    env = make(EMPTY, 50, seed=300)
    played = transitions(env, action_streams(env, 400, seed=2))
    returns = [t.reward for one in played for t in one if t.terminated or t.truncated]
    bounds = envs.bounds(Task("envpool/" + EMPTY))
    assert bounds is not None
    assert np.mean(returns) == pytest.approx(bounds.random, abs=0.06)
