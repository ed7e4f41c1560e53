"""What every built-in game keeps in every view, whatever its mechanics: drawn at random from the ranges declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft import envs
from graft.envs import Task
from graft.envs.builtin.engine.entities import PALETTES
from graft.envs.builtin.engine.game import GAMES
from graft.envs.builtin.engine.mechanics import Mechanic
from graft.envs.builtin.engine.view import VIEWS

NUM_ENVS, STEPS = 8, 250  # 2,000 env steps
MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)


def values(mechanic: Mechanic) -> st.SearchStrategy[Any]:
    """All that it may be, its ends more often than by chance."""
    if isinstance(mechanic.default, bool):
        return st.booleans()
    if mechanic.choices:
        return st.sampled_from(mechanic.choices)
    ends = st.sampled_from(mechanic.extremes)
    if isinstance(mechanic.default, int):
        return ends | st.integers(int(mechanic.low), int(mechanic.high))
    return ends | st.floats(mechanic.low, mechanic.high)


@st.composite
def tasks(draw: st.DrawFn, game: str, view: str) -> Task:
    """The game in that view, with any of its mechanics, colours and ranges of levels."""
    mechanics = GAMES[game].mechanics
    chosen = draw(st.lists(st.sampled_from(sorted(mechanics)), unique=True))
    kwargs = {name: draw(values(mechanics[name])) for name in chosen}
    first = draw(st.integers(0, 1000))
    levels = draw(st.none() | st.builds(lambda n: [first, first + n], st.integers(1, 50)))
    palette = draw(st.sampled_from(sorted(PALETTES)))
    return Task(game, {**kwargs, "view": view, "palette": palette, **({"levels": levels} if levels else {})})


def check_inside(env: envs.TaskVectorEnv, obs: Any) -> None:
    schema = env.observation_schema
    assert obs.shape == (NUM_ENVS, *schema.shape)
    assert obs.dtype == np.dtype(schema.dtype)
    flat = np.moveaxis(obs, 1, 0).reshape(len(schema.names), -1)
    assert (flat.min(1) >= np.array(schema.low)).all()
    assert (flat.max(1) <= np.array(schema.high)).all()


def check_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    for a, b in zip(one[:4], other[:4], strict=True):
        np.testing.assert_array_equal(a, b)
    assert one[4].keys() == other[4].keys()
    if "final_obs" in one[4]:
        ended = one[4]["_final_obs"]
        np.testing.assert_array_equal(ended, other[4]["_final_obs"])
        np.testing.assert_array_equal(one[4]["final_obs"][ended], other[4]["final_obs"][ended])


def play(task: Task, seed: int, mode: AutoresetMode) -> None:
    """Random play beside a twin, a batch of one, and a copy that comes back to an earlier state."""
    env, twin = (envs.make(task, NUM_ENVS, seed, mode) for _ in range(2))
    single = envs.make(task, 1, seed + 3, mode)
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs, twin.reset()[0])
    np.testing.assert_array_equal(obs[3:4], single.reset()[0])
    actions = np.random.default_rng(seed).integers(len(env.action_schema.names), size=(STEPS, NUM_ENVS))
    limit = GAMES[task.id].max_steps
    age = np.zeros(NUM_ENVS, np.int64)
    for t, chosen in enumerate(actions):
        if t == STEPS // 2:
            saved, later = env.save_state(), []
        step = env.step(chosen)
        obs, rewards, terminated, truncated, infos = step
        check_inside(env, obs)
        check_same(step, twin.step(chosen))
        alone = single.step(chosen[3:4])
        for mine, its in zip(step[:4], alone[:4], strict=True):
            np.testing.assert_array_equal(mine[3:4], its)
        assert np.isfinite(rewards).all()
        assert not (terminated & truncated).any()
        ended = terminated | truncated
        age += 1
        assert (age[truncated] >= limit).all()
        assert (age <= limit + 1).all()  # next-step autoreset takes a step of its own
        age[ended] = 0 if mode is AutoresetMode.SAME_STEP else -1
        assert ("final_obs" in infos) == (mode is AutoresetMode.SAME_STEP and bool(ended.any()))
        if "final_obs" in infos:
            check_inside(env, np.where(ended.reshape(-1, *[1] * (obs.ndim - 1)), infos["final_obs"], obs))
        if t >= STEPS // 2:
            later.append(step)
    twin.restore_state(saved)
    for chosen, step in zip(actions[STEPS // 2 :], later, strict=True):
        check_same(step, twin.step(chosen))


@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("game", list(GAMES))
def test_play_is_legal_reproducible_and_savable(game: str, view: str) -> None:
    @settings(
        max_examples=3 if view == "pixels" else 5,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(task=tasks(game, view), seed=st.integers(0, 10_000))
    def check(task: Task, seed: int) -> None:
        for mode in MODES:
            play(task, seed, mode)

    check()
