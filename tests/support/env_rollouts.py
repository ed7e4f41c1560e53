"""Rollouts that do not depend on the autoreset convention, for tests of every kind of batch."""

from __future__ import annotations

from contextlib import closing
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from graft.envs import TaskVectorEnv


class Transition(NamedTuple):
    obs: Any
    reward: float
    terminated: bool
    truncated: bool
    next_obs: Any


def action_streams(env: TaskVectorEnv, count: int, seed: int = 0) -> list[list[Any]]:
    """``count`` random actions for each environment."""
    env.single_action_space.seed(seed)
    return [[env.single_action_space.sample() for _ in range(count)] for _ in range(env.num_envs)]


def transitions(env: TaskVectorEnv, streams: list[list[Any]]) -> list[list[Transition]]:
    """Environment i plays ``streams[i]``, one action per transition; the reset steps of next-step are left out."""
    same_step = env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    out: list[list[Transition]] = [[] for _ in streams]
    waiting = np.zeros(len(streams), bool)
    obs, _ = env.reset()
    while min(map(len, out)) < len(streams[0]):
        actions = np.stack([s[min(len(o), len(s) - 1)] for s, o in zip(streams, out, strict=True)])
        after, rewards, terminated, truncated, infos = env.step(actions)
        ended = terminated | truncated
        if same_step and ended.any():
            np.testing.assert_array_equal(infos["_final_obs"], ended)
        for i, done in enumerate(ended):
            if not waiting[i] and len(out[i]) < len(streams[i]):
                reached = infos["final_obs"][i] if same_step and done else after[i]
                flags = bool(terminated[i]), bool(truncated[i])
                out[i].append(Transition(obs[i], float(rewards[i]), *flags, reached))
        waiting = np.zeros_like(waiting) if same_step else ended
        obs = after
    return out


def assert_equal(a: list[list[Transition]], b: list[list[Transition]]) -> None:
    """Bit-equal transitions of all environments."""
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert len(one) == len(other)
        for t, (x, y) in enumerate(zip(one, other, strict=True)):
            assert x[1:4] == y[1:4], f"transition {t}"
            np.testing.assert_array_equal(x.obs, y.obs)
            np.testing.assert_array_equal(x.next_obs, y.next_obs)


def assert_gymnasiums(batch: TaskVectorEnv, task_id: str) -> None:
    """An unchanged task, made with the seed 3, is Gymnasium's bit for bit."""
    stream = action_streams(batch, 60)
    with closing(gym.make(task_id)) as plain:
        obs, _ = plain.reset(seed=3)
        for t in transitions(batch, stream)[0]:
            np.testing.assert_array_equal(np.float32(obs), t.obs)
            obs, reward, terminated, truncated, _ = plain.step(stream[0].pop(0))
            assert (reward, terminated, truncated) == t[1:4]
            np.testing.assert_array_equal(np.float32(obs), t.next_obs)
            if terminated or truncated:
                obs, _ = plain.reset()


def assert_restored(one: TaskVectorEnv, other: TaskVectorEnv, actions: Any) -> None:
    """After ten steps ``other`` takes over the state of ``one``, and both play the same."""
    one.reset()
    other.reset()
    for chosen in actions[:10]:
        one.step(chosen)
    other.restore_state(one.save_state())
    for chosen in actions[10:]:
        for mine, theirs in zip(one.step(chosen)[:4], other.step(chosen)[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def episodes(played: list[list[Transition]]) -> int:
    """How many episodes ended."""
    return sum(t.terminated or t.truncated for one in played for t in one)
