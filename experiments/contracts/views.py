"""What every view and every built-in game keep: tests run it on Graft's own, ``graft check`` on anybody's views."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

from graft import envs
from graft.envs import Task
from graft.envs.builtin.engine.game import GAMES
from graft.experiments.contracts.basics import expect

NUM_ENVS = 8


def check_inside(env: envs.TaskVectorEnv, obs: Any) -> None:
    """Of observations (T, N, *shape): shape, type and bounds are the schema's."""
    schema = env.observation_schema
    wanted = (NUM_ENVS, *schema.shape)
    expect(obs.shape[1:] == wanted, f"observations have the shape {obs.shape[1:]}, and the schema says {wanted}")
    expect(obs.dtype == np.dtype(schema.dtype), f"observations are {obs.dtype}, and the schema says {schema.dtype}")
    flat = np.moveaxis(obs, 2, 0).reshape(len(schema.names), -1)
    outside = (flat.min(1) < np.array(schema.low)) | (flat.max(1) > np.array(schema.high))
    names = [name for name, out in zip(schema.names, outside, strict=True) if out]
    expect(not names, f"{', '.join(names[:5])} leaves the bounds of the schema")


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
        expect(("final_obs" in infos) == (same_step and bool(ended.any())), "last observations come at other times")
        if "final_obs" in infos:
            np.testing.assert_array_equal(infos["_final_obs"], ended)
            lasts.append(infos["final_obs"][ended])
    obs, rewards, terminated, truncated = map(np.stack, zip(*steps, strict=True))
    return Played(obs, rewards, terminated, truncated, np.concatenate(lasts) if lasts else np.empty(0))


def check_same(one: Played, other: Played, what: str) -> None:
    """Bit-equal play."""
    for name, a, b in zip(Played._fields, one, other, strict=True):
        expect(np.array_equal(a, b), f"{name} differs between {what}")


def play_is_legal_reproducible_and_savable(task: Task, seed: int, mode: AutoresetMode, steps: int) -> None:
    """Play stays in the schema's bounds, is the same from the same seed in any batch, and goes on from a saved state.

    Random play beside a twin, a batch of one, and a copy that comes back to an earlier state.
    """
    env, twin = (envs.make(task, NUM_ENVS, seed, mode) for _ in range(2))
    single, same_step = envs.make(task, 1, seed + 3, mode), mode is AutoresetMode.SAME_STEP
    obs, _ = env.reset()
    expect(np.array_equal(obs, twin.reset()[0]), "two batches of the same seed begin differently")
    expect(np.array_equal(obs[3:4], single.reset()[0]), "an environment begins differently in a batch of one")
    actions = np.random.default_rng(seed).integers(len(env.action_schema.names), size=(steps, NUM_ENVS))
    early, late = np.split(actions, 2)
    before = play(env, early, same_step)
    saved = env.save_state()
    after = play(env, late, same_step)
    check_same(before, play(twin, early, same_step), "two batches of the same seed")
    check_same(after, play(twin, late, same_step), "two batches of the same seed")
    twin.restore_state(saved)
    check_same(after, play(twin, late, same_step), "a batch and one that was restored from its state")
    whole = [np.concatenate(parts) for parts in zip(before[:4], after[:4], strict=True)]
    alone = play(single, actions[:, 3:4], same_step)
    for mine, its in zip(whole, alone[:4], strict=True):
        expect(np.array_equal(mine[:, 3:4], its), "an environment plays differently in a batch of one")
    obs, rewards, terminated, truncated = whole
    check_inside(env, obs)
    for lasts in (before.lasts, after.lasts):
        if lasts.size:
            check_inside(env, np.repeat(lasts[:, None], NUM_ENVS, axis=1))
    expect(np.isfinite(rewards).all(), "rewards are not finite")
    expect(not (terminated & truncated).any(), "a step terminated and was truncated")
    limit, age = GAMES[task.id].max_steps, np.zeros(NUM_ENVS, np.int64)
    for by_rules, by_time in zip(terminated, truncated, strict=True):
        age += 1
        expect((age[by_time] >= limit).all(), "an episode was truncated before its time")
        expect((age <= limit + 1).all(), "an episode was not truncated in time")  # next-step autoreset takes a step
        age[by_rules | by_time] = 0 if same_step else -1


def the_view_shows_what_happens(task: Task) -> None:
    """Observations change while it is played."""
    env = envs.make(task, NUM_ENVS, 0)
    first = env.reset()[0].copy()
    env.action_space.seed(0)
    later = (env.step(env.action_space.sample())[0] for _ in range(200))
    expect(any(not np.array_equal(first, obs) for obs in later), "observations never change")
