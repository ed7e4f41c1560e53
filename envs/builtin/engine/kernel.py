"""Compiled loops over a batch of games: templates, into which `specialise` puts `begin`, `advance` and `paint`."""

from __future__ import annotations

from typing import Any

import numpy as np

from graft.envs.builtin.engine.compile import jit, standalone
from graft.envs.builtin.engine.state import SIZE, State, clear, enter_level, side_bits, side_stream, uniform

_UPPER = np.uint64(0x8000800080008000)

begin: Any
advance: Any
paint: Any


def reset_batch(s: State, p: Any, chosen: Any, obs: Any) -> None:
    """Start a fresh episode in every environment whose flag in ``chosen`` (N,) is set; ``obs`` of the rest stays."""
    for i in range(s.clock.shape[0]):
        if chosen[i]:
            clear(s, i)
            key, counter = enter_level(s, i, p)
            begin(s, i, p)
            s.rng[i, 0] = key
            s.rng[i, 1] += counter
        obs[i] = 0
        s.stamp[i, 0] = s.rng[i, 1]
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
        fresh = waiting[i]
        waiting[i] = False
        if not fresh:
            reward, dead = advance(s, i, executed(s, i, actions[i], p), p)
            terminated[i] = dead
            truncated[i] = not dead and s.clock[i] >= max_steps
            over = terminated[i] or truncated[i]
            rewards[i] = delayed_reward(s, i, reward, p.reward_delay, over)
            if over:
                ended += 1
                if same_step:
                    final_obs[i] = 0
                    s.stamp[i, 1] = s.rng[i, 1]
                    paint(s, i, final_obs[i])
                    fresh = True
                else:
                    waiting[i] = True
        if fresh:
            clear(s, i)
            key, counter = enter_level(s, i, p)
            begin(s, i, p)
            s.rng[i, 0] = key
            s.rng[i, 1] += counter
        s.stamp[i, 0] = s.rng[i, 1]
        paint(s, i, obs[i])
    return ended


@jit
def executed(s: State, i: int, chosen: int, p: Any) -> int:
    """The action that is carried out now instead of the one that was chosen; the clock moves on."""
    action = due(s, i, chosen, p.delay)
    if p.invert and 1 <= action <= 4:
        action = action + 1 if action % 2 == 1 else action - 1
    # One number is drawn whether or not the game slips, so that slip changes nothing else about a level.
    if uniform(s, i) < p.slip:
        action = s.last[i]
    s.before[i] = s.last[i]
    s.last[i] = action
    s.clock[i] += 1
    return int(action)


@jit
def due(s: State, i: int, action: int, delay: int) -> int:
    """The action that takes effect now, chosen ``delay`` steps ago (none, at first)."""
    if delay == 0:
        return int(action)
    slot = s.clock[i] % delay
    chosen = s.queue[i, slot]
    s.queue[i, slot] = action
    return int(chosen)


@jit
def delayed_reward(s: State, i: int, reward: float, delay: int, over: bool) -> float:
    """The reward that arrives now; at the end of an episode all that is still on its way arrives."""
    if delay == 0:
        return reward
    slot = s.clock[i] % delay
    arrives = s.reward_queue[i, slot]
    s.reward_queue[i, slot] = reward
    if over:
        for k in range(delay):
            arrives += s.reward_queue[i, k]
    return float(arrives)


@standalone
def distort(s: State, p: Any, planes: Any, of: Any, last: int) -> None:
    """Mirror, fog and noise on planes (n, C, H, W) of environments ``of`` (n,); ``last`` as of `side_stream`."""
    for k in range(of.size):
        if p.mirror:
            mirror(planes[k])
        if p.fog:
            apply_fog(planes[k], p.fog)
        if p.noise > 0:
            flip_cells(s, of[k], p.noise, last, planes[k])


@jit
def mirror(planes: Any) -> None:
    """Left for right, in every plane (C, H, W)."""
    for c in range(planes.shape[0]):
        for r in range(SIZE):
            for k in range(SIZE // 2):
                left, right = planes[c, r, k], planes[c, r, SIZE - 1 - k]
                planes[c, r, k] = right
                planes[c, r, SIZE - 1 - k] = left


@jit
def player_cell(plane: Any) -> tuple[int, int]:
    """Row and column of the player in its plane (H, W); after an autoreset the state's player is another one."""
    for r in range(SIZE):
        for k in range(SIZE):
            if plane[r, k]:
                return r, k
    return 0, 0


@jit
def apply_fog(planes: Any, radius: int) -> None:
    """Empty the cells that are more than ``radius`` rows or columns from the player, in every plane (C, H, W)."""
    row, column = player_cell(planes[0])
    left, right = max(column - radius, 0), min(column + radius + 1, SIZE)
    for c in range(planes.shape[0]):
        for r in range(SIZE):
            if r < row - radius or r > row + radius:
                planes[c, r] = 0
            else:
                planes[c, r, :left] = 0
                planes[c, r, right:] = 0


@jit
def flip_cells(s: State, i: int, share: float, last: int, planes: Any) -> None:
    """Flip each cell of the planes (C, H, W) but the player's with probability ``share``, to one part in 32,768.

    A random number serves four cells, one with each 16-bit quarter: a quarter's upper bit is set, ``share`` is
    subtracted, and where that clears the bit the cell is flipped. Noise draws from a side stream: levels do not change.
    """
    key = side_stream(s, i, last)  # once: to the compiler, what is written below could be the state
    words = planes.reshape(-1).view(np.uint32)
    shares = np.uint64(round(share * 0x8000)) * np.uint64(0x0001000100010001)
    for n in range(SIZE * SIZE // 4, words.size):
        flips = (~((side_bits(key, n) | _UPPER) - shares) & _UPPER) >> np.uint64(15)
        flips = (flips | (flips >> np.uint64(8))) & np.uint64(0x0000010100000101)
        words[n] ^= np.uint32((flips | (flips >> np.uint64(16))) & np.uint64(0xFFFFFFFF))
