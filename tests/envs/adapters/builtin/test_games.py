"""The built-in games as environments: Gymnasium's contract, the batch, autoreset, saved states and errors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from support.env_rollouts import action_streams, assert_equal, episodes, transitions

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.builtin.engine.game import GAMES

GAME_IDS = list(GAMES)


def batch(game: str, num_envs: int = 1, seed: int = 0, mode: str = "SameStep", **mechanics: Any) -> Any:
    return envs.make(Task(f"Graft/{game}-v0", mechanics), num_envs, seed, AutoresetMode(mode))


@pytest.mark.parametrize("game", GAME_IDS)
def test_gymnasium_check_env(game: str) -> None:
    check_env(gym.make(game).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("game", GAME_IDS)
def test_gymnasium_make_and_make_vec_give_the_same_first_observation(game: str) -> None:
    single = gym.make(game, slip=0.5)
    vector = gym.make_vec(game, num_envs=3, slip=0.5)
    obs, _ = vector.reset(seed=4)
    assert vector.observation_space.contains(obs)
    np.testing.assert_array_equal(single.reset(seed=6)[0], obs[2])


@pytest.mark.parametrize("game", GAME_IDS)
def test_batch_of_n_equals_n_batches_of_one(game: str) -> None:
    kwargs = {"slip": 0.2}
    together = envs.make(Task(game, kwargs), num_envs=4, seed=3)
    streams = action_streams(together, 400)
    played = transitions(together, streams)
    assert episodes(played) >= 4
    for i in range(4):
        alone = envs.make(Task(game, kwargs), num_envs=1, seed=3 + i)
        assert_equal([played[i]], transitions(alone, [streams[i]]))


@pytest.mark.parametrize("game", GAME_IDS)
def test_autoreset_conventions_give_the_same_transitions(game: str) -> None:
    same, following = (
        envs.make(Task(game), 4, 11, mode) for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)
    )
    streams = action_streams(same, 400)
    played = transitions(same, streams)
    assert episodes(played) >= 4
    assert_equal(played, transitions(following, streams))


def test_disabled_autoreset_is_refused() -> None:
    with pytest.raises(GraftError, match="allowed: 'SameStep', 'NextStep'"):
        batch("Gather", mode="Disabled")


@pytest.mark.parametrize("game", GAME_IDS)
def test_same_seed_same_play_and_another_seed_another(game: str) -> None:
    a, b, other = (envs.make(Task(game), 2, seed) for seed in (5, 5, 7))
    streams = action_streams(a, 200)
    played = transitions(a, streams)
    assert_equal(played, transitions(b, streams))
    with pytest.raises(AssertionError):
        assert_equal(played, transitions(other, streams))


def test_reset_after_an_end_leaves_no_reset_step_behind() -> None:
    env = batch("Dodge", mode="NextStep", fall_rate=0.0)
    env.reset()
    rewards = [float(env.step(np.array([0]))[1][0]) for _ in range(200)]
    env.reset(options={"reset_mask": np.array([True])})
    assert float(env.step(np.array([0]))[1][0]) == rewards[0] == 0.1  # a reset step would pay nothing


@pytest.mark.parametrize("game", GAME_IDS)
@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_restored_state_replays_the_future(game: str, mode: str) -> None:
    env = envs.make(Task(game, {"slip": 0.3}), 8, 0, AutoresetMode(mode))
    actions = np.random.default_rng(0).integers(0, 6, (300, 8))
    env.reset()
    for a in actions[:100]:
        env.step(a)
    saved = env.save_state()
    first = [env.step(a)[:4] for a in actions[100:]]
    env.restore_state(saved)
    second = [env.step(a)[:4] for a in actions[100:]]
    for before, after in zip(first, second, strict=True):
        for x, y in zip(before, after, strict=True):
            np.testing.assert_array_equal(x, y)
    elsewhere = envs.make(Task(game, {"slip": 0.3}), 8, 99, AutoresetMode(mode))
    elsewhere.restore_state(saved)
    np.testing.assert_array_equal(elsewhere.step(actions[100])[0], first[0][0])


def test_saved_state_of_another_size_is_refused() -> None:
    with pytest.raises(GraftError, match=r"'cells' has shape \(2, 10, 10\), this batch \(3, 10, 10\)"):
        batch("Gather", 3).restore_state(batch("Gather", 2).save_state())


def test_reset_mask_resets_only_the_chosen() -> None:
    env = batch("Gather", 3)
    before, _ = env.reset()
    after, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    changed = [not np.array_equal(before[i], after[i]) for i in range(3)]
    assert changed == [False, True, False]


MECHANICS = [(game, m.name) for game in GAME_IDS for m in GAMES[game].mechanics.values()]


@pytest.mark.parametrize(("game", "name"), MECHANICS)
def test_mechanic_out_of_range_or_of_a_wrong_type_is_refused(game: str, name: str) -> None:
    mechanic = GAMES[game].mechanics[name]
    wrong: list[Any] = ["high", None, float("nan")]
    number = not isinstance(mechanic.default, bool | str)
    wrong += [mechanic.low - 0.01, mechanic.high + 0.01, mechanic.high + 1, True] if number else [1]
    for value in wrong:
        with pytest.raises(GraftError, match=f"{game}: {name}=.* is not allowed; it is"):
            envs.make(Task(game, {name: value}), 1, 0)


@pytest.mark.parametrize(("game", "name"), MECHANICS)
def test_mistyped_mechanic_gets_the_nearest_name(game: str, name: str) -> None:
    with pytest.raises(GraftError, match=f"Unknown mechanic of {game} '{name}e'.*Did you mean '{name}'"):
        envs.make(Task(game, {name + "e": 0}), 1, 0)


def test_a_mechanic_of_another_game_is_refused_with_those_of_this_one() -> None:
    with pytest.raises(GraftError, match=r"Graft/Snake-v0 has no mechanic 'enemy_speed'; allowed: slip, .*, wrap"):
        envs.make(Task("Graft/Snake-v0", {"enemy_speed": 0.5}), 1, 0)


@pytest.mark.parametrize("levels", [5, [3], [0, 1.5], [4, 4], [-1, 3], ["a", "b"]])
def test_levels_are_a_range(levels: Any) -> None:
    with pytest.raises(GraftError, match=r"levels=.* is not allowed; it is a range"):
        envs.make(Task("Graft/Gather-v0", {"levels": levels}), 1, 0)


@pytest.mark.parametrize("game", GAME_IDS)
def test_a_numbered_level_begins_the_same_whoever_plays_it(game: str) -> None:
    """So many levels as there are numbers, which other numbers do not share; what happens in one is left to chance."""

    def starts(levels: list[int], seed: int) -> set[bytes]:
        env = envs.make(Task(game, {"levels": levels, "view": "planes"}), 64, seed)
        return {obs.tobytes() for obs in env.reset()[0]}

    assert len(starts([7, 8], 0) | starts([7, 8], 100)) == 1
    few, again, others = starts([0, 4], 0), starts([0, 4], 500), starts([4, 8], 0)
    assert few == again
    assert 2 <= len(few) <= 4
    assert not few & others


@pytest.mark.parametrize(
    ("given", "meant"), [("Graft/Gahter-v0", "Gather"), ("Graft/Gather-v1", "Gather"), ("Graft/Hnut-v0", "Hunt")]
)
def test_mistyped_game_is_an_unknown_task(given: str, meant: str) -> None:
    with pytest.raises(GraftError, match=f"Unknown task '{given}'.*Did you mean 'Graft/{meant}-v0'"):
        envs.make(Task(given), 1, 0)
    with pytest.raises(GraftError, match=f"Unknown task '{given}'"):
        envs.bounds(Task(given))


@pytest.mark.parametrize(("num_envs", "seed", "text"), [(0, 0, "num_envs is 0"), (1, -1, "seed is -1")])
def test_bad_sizes_and_seeds_are_refused(num_envs: int, seed: int, text: str) -> None:
    with pytest.raises(GraftError, match=text):
        envs.make(Task("Graft/Gather-v0"), num_envs, seed)
