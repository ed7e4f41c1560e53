"""Compiled loops over a batch of arenas: templates, into which `specialise` puts `begin`, `advance` and `paint`."""

from __future__ import annotations

from typing import Any

import numpy as np

from graft.envs.builtin.arena.state import State, clear, draw_team_sizes

begin: Any
advance: Any
paint: Any


def reset_batch(s: State, p: Any, chosen: Any, obs: Any) -> None:
    """Start a fresh episode in every environment whose flag in ``chosen`` (N,) is set; write all observations."""
    for i in range(s.clock.shape[0]):
        if chosen[i]:
            clear(s, i)
            draw_team_sizes(s, i, p)
            begin(s, i, p)
        for a in range(s.alive.shape[1]):
            obs[i, a] = 0
            if s.alive[i, a]:
                paint(s, i, a, p, obs[i, a])


def step_batch(
    s: State,
    p: Any,
    actions: Any,
    waiting: Any,
    same_step: bool,
    obs: Any,
    final_obs: Any,
    rewards: Any,
    terminated: Any,
    winner: Any,
) -> int:
    """One step of every environment; returns how many agents' episodes ended. See `engine.kernel.step_batch`.

    Args:
        actions: (N, A) int64; those of the dead are ignored.
        obs, final_obs: (N, A, C, H, W) uint8, written here; zeros for agents that are not in play.
        rewards: (N, A) float64. terminated: (N, A) bool, whether an agent died or the game was decided.
        winner: (N,) int8, -1 while the game goes on, -2 for a draw, else the team that won.
    """
    ended, slots = 0, s.alive.shape[1]
    was = np.empty(slots, np.bool_)
    for i in range(actions.shape[0]):
        rewards[i] = 0.0
        terminated[i] = False
        winner[i] = -1
        fresh = waiting[i]
        waiting[i] = False
        if not fresh:
            was[:] = s.alive[i]
            s.clock[i] += 1
            won = advance(s, i, actions[i], p, rewards[i])
            winner[i] = won
            for a in range(slots):
                if was[a] and (won != -1 or not s.alive[i, a]):
                    terminated[i, a] = True
                    ended += 1
                    if same_step:
                        final_obs[i, a] = 0
                        paint(s, i, a, p, final_obs[i, a])
            if won != -1:
                fresh = same_step
                waiting[i] = not same_step
        if fresh:
            clear(s, i)
            draw_team_sizes(s, i, p)
            begin(s, i, p)
        for a in range(slots):
            obs[i, a] = 0
            if s.alive[i, a] or (terminated[i, a] and not same_step):
                paint(s, i, a, p, obs[i, a])
    return ended
