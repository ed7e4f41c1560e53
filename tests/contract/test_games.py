"""What every built-in game keeps in every view, whatever its mechanics: drawn at random from the ranges declared."""

from __future__ import annotations

from typing import Any, NamedTuple

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

NUM_ENVS, STEPS = 8, 250  # 2,000 env steps; those of screens are fewer, as they take most of the time
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
    """Of observations (T, N, *shape)."""
    schema = env.observation_schema
    assert obs.shape[1:] == (NUM_ENVS, *schema.shape)
    assert obs.dtype == np.dtype(schema.dtype)
    flat = np.moveaxis(obs, 2, 0).reshape(len(schema.names), -1)
    assert (flat.min(1) >= np.array(schema.low)).all()
    assert (flat.max(1) <= np.array(schema.high)).all()


class Played(NamedTuple):
    """Results of T steps of N environments; ``lasts`` are last observations in the order in which episodes ended."""

    obs: Any
    rewards: Any
    terminated: Any
    truncated: Any
    lasts: Any


def play(env: envs.TaskVectorEnv, actions: Any, same_step: bool) -> Played:
    """Take actions (T, N)."""
    steps, lasts = [], []
    for chosen in actions:
        obs, rewards, terminated, truncated, infos = env.step(chosen)
        steps.append([array.copy() for array in (obs, rewards, terminated, truncated)])
        ended = terminated | truncated
        assert ("final_obs" in infos) == (same_step and bool(ended.any()))
        if "final_obs" in infos:
            np.testing.assert_array_equal(infos["_final_obs"], ended)
            lasts.append(infos["final_obs"][ended])
    return Played(*map(np.stack, zip(*steps, strict=True)), np.concatenate(lasts) if lasts else np.empty(0))


def check_same(one: Played, other: Played) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def check(task: Task, seed: int, mode: AutoresetMode) -> None:
    """Random play beside a twin, a batch of one, and a copy that comes back to an earlier state."""
    env, twin = (envs.make(task, NUM_ENVS, seed, mode) for _ in range(2))
    single, same_step = envs.make(task, 1, seed + 3, mode), mode is AutoresetMode.SAME_STEP
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs, twin.reset()[0])
    np.testing.assert_array_equal(obs[3:4], single.reset()[0])
    steps = STEPS // 4 if task.kwargs["view"] == "pixels" else STEPS
    actions = np.random.default_rng(seed).integers(len(env.action_schema.names), size=(steps, NUM_ENVS))
    early, late = np.split(actions, 2)
    before = play(env, early, same_step)
    saved = env.save_state()
    after = play(env, late, same_step)
    check_same(before, play(twin, early, same_step))
    check_same(after, play(twin, late, same_step))
    twin.restore_state(saved)
    check_same(after, play(twin, late, same_step))
    whole = [np.concatenate(parts) for parts in zip(before[:4], after[:4], strict=True)]
    alone = play(single, actions[:, 3:4], same_step)
    for mine, its in zip(whole, alone[:4], strict=True):
        np.testing.assert_array_equal(mine[:, 3:4], its)
    obs, rewards, terminated, truncated = whole
    check_inside(env, obs)
    for lasts in (before.lasts, after.lasts):
        if lasts.size:
            check_inside(env, np.repeat(lasts[:, None], NUM_ENVS, axis=1))
    assert np.isfinite(rewards).all()
    assert not (terminated & truncated).any()
    limit, age = GAMES[task.id].max_steps, np.zeros(NUM_ENVS, np.int64)
    for by_rules, by_time in zip(terminated, truncated, strict=True):
        age += 1
        assert (age[by_time] >= limit).all()
        assert (age <= limit + 1).all()  # next-step autoreset takes a step of its own
        age[by_rules | by_time] = 0 if same_step else -1


@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("game", list(GAMES))
def test_play_is_legal_reproducible_and_savable(game: str, view: str) -> None:
    @settings(
        max_examples=2 if view == "pixels" else 3,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(task=tasks(game, view), seed=st.integers(0, 10_000))
    def run(task: Task, seed: int) -> None:
        for mode in MODES:
            check(task, seed, mode)

    run()
