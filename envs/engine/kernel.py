"""The compiled loops over a batch. `begin`, `advance` and `paint` stand for the rules of the game they serve.

These are templates: `envs.engine.compile.specialise` puts a game's rules in the place of the three names below.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.engine.state import State, clear, uniform

begin: Any
advance: Any
paint: Any


def reset_batch(s: State, p: Any, chosen: Any, obs: Any) -> None:
    """Start a fresh episode in every environment whose flag in ``chosen`` (N,) is set; ``obs`` of the rest stays."""
    for i in range(s.clock.shape[0]):
        if chosen[i]:
            clear(s, i)
            begin(s, i, p)
        obs[i] = 0
        paint(s, i, obs[i])


def step_batch(
    s: State,
    p: Any,
    actions: Any,
    waiting: Any,
    same_step: bool,
    max_steps: int,
    obs: Any,
    final_obs: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
) -> int:
    """One step of every environment; returns how many episodes ended.

    Args:
        actions: (N,) int64, indices of the action schema.
        waiting: (N,) bool, in and out: environments that next-step autoreset resets at this call.
        same_step: reset ended environments at once and put their last observation into ``final_obs``.
        obs, final_obs: (N, C, H, W) uint8, written here. rewards: (N,) float64.
    """
    ended = 0
    for i in range(actions.shape[0]):
        obs[i] = 0
        rewards[i] = 0.0
        terminated[i] = False
        truncated[i] = False
        if waiting[i]:
            waiting[i] = False
            clear(s, i)
            begin(s, i, p)
            paint(s, i, obs[i])
            continue
        action = np.int64(actions[i])
        if p.invert and 1 <= action <= 4:
            action = action + 1 if action % 2 == 1 else action - 1
        # One number is drawn whether or not the game slips, so that slip changes nothing else about a level.
        if uniform(s, i) < p.slip:
            action = s.last[i]
        s.last[i] = action
        s.clock[i] += 1
        reward, dead = advance(s, i, action, p)
        rewards[i] = reward
        terminated[i] = dead
        truncated[i] = not dead and s.clock[i] >= max_steps
        if terminated[i] or truncated[i]:
            ended += 1
            if same_step:
                final_obs[i] = 0
                paint(s, i, final_obs[i])
                clear(s, i)
                begin(s, i, p)
            else:
                waiting[i] = True
        paint(s, i, obs[i])
    return ended
