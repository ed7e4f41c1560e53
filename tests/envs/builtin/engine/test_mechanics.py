"""The mechanics that every game has: controls, late rewards and what is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from support.game_states import batch, path, place, play, share

from graft import envs
from graft.envs import Task
from graft.envs.builtin.engine.game import ACT, DOWN, GAMES, LEFT, NOOP, RIGHT, UP
from graft.envs.builtin.engine.state import COIN, HAZARD, WALL

GAME_IDS = list(GAMES)
NAMES = [game.removeprefix("Graft/").removesuffix("-v0") for game in GAME_IDS]
STEPS = 220  # more than the longest episode


def actions_of(num_envs: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 6, (STEPS, num_envs))


def played(env: Any, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """(observations, rewards, ends), time first, the first observation included."""
    observations, rewards, ends = [env.reset()[0]], [], []
    for chosen in actions:
        obs, reward, terminated, truncated, _ = env.step(chosen)
        observations.append(obs)
        rewards.append(reward)
        ends.append(terminated | truncated)
    return np.stack(observations), np.stack(rewards), np.stack(ends)


# Controls


@pytest.mark.parametrize(
    ("action", "end"), [(UP, [6, 5]), (DOWN, [4, 5]), (LEFT, [5, 6]), (RIGHT, [5, 4]), (ACT, [5, 5]), (NOOP, [5, 5])]
)
def test_invert_mirrors_the_controls(action: int, end: list[int]) -> None:
    env = batch("Gather", invert=True)
    place(env, (5, 5), {})
    assert play(env, action)[0] == end


def test_slip_one_repeats_the_last_move_for_ever() -> None:
    env = batch("Gather", slip=1.0)
    place(env, (5, 5), {}, last=RIGHT)
    assert play(env, UP)[0] == [5, 6]
    assert play(env, DOWN)[0] == [5, 7]
    env.reset()
    before = env.save_state()["player"][0].tolist()
    assert play(env, UP)[0] == before  # a fresh episode has no last move to repeat


def test_slip_repeats_in_its_share_of_the_steps() -> None:
    env = batch("Gather", 10_000, slip=0.3)
    place(env, (5, 5), {}, last=RIGHT)
    env.step(np.full(10_000, LEFT))
    assert share((env.save_state()["player"][:, 1] == 6).sum(), 10_000, 0.3)


@pytest.mark.parametrize("game", NAMES)
def test_mechanics_of_every_game_leave_the_levels_alone(game: str) -> None:
    plain = batch(game, 4).reset()[0]
    changed = batch(game, 4, slip=0.9, invert=True, delay=3, reward_delay=9).reset()[0]
    np.testing.assert_array_equal(plain, changed)


@pytest.mark.parametrize("delay", [0, 1, 2, 3, 4])
def test_an_action_takes_effect_so_many_steps_later_and_none_at_first(delay: int) -> None:
    env = batch("Gather", delay=delay)
    place(env, (5, 5), {})
    moves = [RIGHT, UP, UP, LEFT, DOWN, RIGHT, RIGHT]
    prompt = [(5, 6), (4, 6), (3, 6), (3, 5), (4, 5), (4, 6), (4, 7)]
    assert path(env, moves) == ([(5, 5)] * delay + prompt)[: len(moves)]


@pytest.mark.parametrize("game", NAMES)
def test_delay_is_play_without_it_whose_actions_come_late(game: str) -> None:
    actions = actions_of(16)
    observations, rewards, ends = played(batch(game, 16, delay=3), actions)
    late = np.zeros_like(actions)
    for i in range(16):
        start = 0  # of the episode: what was chosen before is forgotten
        for t in range(STEPS):
            late[t, i] = actions[t - 3, i] if t - 3 >= start else NOOP
            start = t + 1 if ends[t, i] else start
    prompt = played(batch(game, 16), late)
    np.testing.assert_array_equal(observations, prompt[0])
    np.testing.assert_array_equal(rewards, prompt[1])


# Rewards


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("delay", [1, 5, 16])
@pytest.mark.parametrize("game", GAME_IDS)
def test_reward_delay_pays_late_and_the_rest_at_the_end(game: str, delay: int, mode: AutoresetMode) -> None:
    actions = actions_of(16)
    observations, prompt, ends = played(envs.make(Task(game), 16, 0, mode), actions)
    seen, late, late_ends = played(envs.make(Task(game, {"reward_delay": delay}), 16, 0, mode), actions)
    np.testing.assert_array_equal(observations, seen)
    np.testing.assert_array_equal(ends, late_ends)
    assert ends.any()
    for i in range(16):
        start = 0
        for end in np.flatnonzero(ends[:, i]):
            earned = prompt[start : end + 1, i]  # the step that resets pays nothing under either
            paid = late[start : end + 1, i]
            assert paid.sum() == pytest.approx(earned.sum())
            count = len(earned) - 1
            expected = [0.0] * min(delay, count) + list(earned[: max(count - delay, 0)])
            # Under next-step autoreset the step that resets is no step of the episode, which is one shorter.
            if mode is AutoresetMode.NEXT_STEP and start > 0:
                assert earned[0] == paid[0] == 0.0
                expected = [0.0] * min(delay + 1, count) + list(earned[1 : max(count - delay, 1)])
            np.testing.assert_array_equal(paid[:-1], expected)
            start = end + 1


# Sight


def near(obs: NDArray[Any], radius: int) -> NDArray[np.bool_]:
    """Cells (T, N, 1, 10, 10) within ``radius`` rows and columns of the player."""
    flat = obs[:, :, 0].reshape(*obs.shape[:2], 100).argmax(axis=2)
    rows, columns = np.indices((10, 10))
    far_r = np.abs(rows - (flat // 10)[..., None, None])
    far_c = np.abs(columns - (flat % 10)[..., None, None])
    return (np.maximum(far_r, far_c) <= radius)[:, :, None]  # type: ignore[no-any-return]


@pytest.mark.parametrize("game", NAMES)
def test_mirror_exchanges_left_and_right_of_what_is_shown(game: str) -> None:
    actions = actions_of(8)
    plain, mirrored = played(batch(game, 8), actions), played(batch(game, 8, mirror=True), actions)
    np.testing.assert_array_equal(mirrored[0], plain[0][..., ::-1])
    np.testing.assert_array_equal(mirrored[1], plain[1])


@pytest.mark.parametrize("radius", [1, 4, 9])
@pytest.mark.parametrize("game", NAMES)
def test_fog_hides_what_is_further_than_its_radius_and_no_more(game: str, radius: int) -> None:
    actions = actions_of(8)
    plain, fogged = played(batch(game, 8), actions), played(batch(game, 8, fog=radius), actions)
    np.testing.assert_array_equal(fogged[0], plain[0] * near(plain[0], radius))
    np.testing.assert_array_equal(fogged[1], plain[1])


def test_fog_by_hand() -> None:
    env = batch("Gather", fog=2)
    place(env, (5, 5), {(5, 7): COIN, (5, 8): COIN, (3, 3): HAZARD, (2, 5): HAZARD, (7, 7): WALL, (8, 7): WALL})
    shown = env.step(np.array([NOOP]))[0][0]
    assert [tuple(map(int, cell)) for cell in np.argwhere(shown)] == [(0, 5, 5), (1, 7, 7), (2, 3, 3), (3, 5, 7)]


@pytest.mark.parametrize("game", NAMES)
def test_noise_flips_its_share_of_cells_but_neither_the_player_nor_the_play(game: str) -> None:
    actions = actions_of(32)
    plain, noisy = played(batch(game, 32), actions), played(batch(game, 32, noise=0.1), actions)
    np.testing.assert_array_equal(noisy[1], plain[1])
    np.testing.assert_array_equal(noisy[2], plain[2])
    np.testing.assert_array_equal(noisy[0][:, :, 0], plain[0][:, :, 0])
    flipped = noisy[0] != plain[0]
    for plane in range(1, flipped.shape[2]):
        assert share(flipped[:, :, plane].sum(), flipped[:, :, plane].size, 0.1)
    both = flipped[1:, :, 1] & flipped[:-1, :, 1]  # wrong again at the next step: by chance only
    assert share(both.sum(), both.size, 0.01)


def test_noise_is_the_same_for_the_same_seed() -> None:
    actions = actions_of(8)
    one, again = (played(batch("Hunt", 8, noise=0.2), actions) for _ in range(2))
    np.testing.assert_array_equal(one[0], again[0])


def test_noise_of_a_final_observation_is_the_same_in_both_autoreset_modes() -> None:
    task = Task("Graft/Dodge-v0", {"noise": 0.1, "fall_rate": 0.0})
    same, following = (envs.make(task, 4, 0, mode) for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP))
    same.reset()
    following.reset()
    for _ in range(200):
        infos = same.step(np.zeros(4, np.int64))[4]
        last = following.step(np.zeros(4, np.int64))[0]
    np.testing.assert_array_equal(infos["final_obs"], last)
