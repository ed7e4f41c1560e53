"""Puts a built-in game into a state set up by hand, and plays it step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft import envs
from graft.envs import Task


def batch(game: str, num_envs: int = 1, seed: int = 0, **options: Any) -> Any:
    """A batch of ``Graft/<game>-v0`` that shows the whole board, under same-step autoreset.

    Environment i has the seed ``seed + i``.
    """
    return envs.make(Task(f"Graft/{game}-v0", {"view": "planes", **options}), num_envs, seed)


def place(env: Any, player: tuple[int, int], cells: dict[tuple[int, int], int], **fields: Any) -> None:
    """Put every environment into one state: an otherwise empty board, enemies out of the way in a corner."""
    env.reset()
    state = env.save_state()
    state["cells"][:] = 0
    state["movers"][:] = 9
    state["player"][:] = player
    for (row, column), code in cells.items():
        state["cells"][:, row, column] = code
    for name, value in fields.items():
        state[name][:] = value
    env.restore_state(state)


def play(env: Any, action: int) -> tuple[list[int], float, bool]:
    """One step of environment 0: where the player then stands, the reward and whether it died."""
    _, rewards, terminated, _, _ = env.step(np.full(env.num_envs, action))
    return env.save_state()["player"][0].tolist(), float(rewards[0]), bool(terminated[0])


def path(env: Any, actions: list[int]) -> list[tuple[int, int]]:
    """Where the player of environment 0 stands after each of ``actions``."""
    places = [play(env, action)[0] for action in actions]
    return [(row, column) for row, column in places]


def board(env: Any) -> NDArray[np.uint8]:
    """Cells of all environments, (N, SIZE, SIZE)."""
    cells: NDArray[np.uint8] = env.save_state()["cells"]
    return cells


def cells_of(env: Any, code: int) -> list[tuple[int, int]]:
    """Where the board of environment 0 holds ``code``, row by row."""
    return [(int(row), int(column)) for row, column in np.argwhere(board(env)[0] == code)]


def share(count: float, of: int, expected: float) -> bool:
    """Whether ``count`` successes of so many draws agree with a chance, within four standard deviations."""
    return abs(count / of - expected) <= 4 * np.sqrt(expected * (1 - expected) / of)


def episode_length(env: Any, action: int = 0) -> int:
    """Steps until environment 0 is truncated; it must not die before."""
    for step in range(1, 1000):
        _, _, terminated, truncated, _ = env.step(np.full(env.num_envs, action))
        assert not terminated[0]
        if truncated[0]:
            return step
    raise AssertionError("not truncated within 1,000 steps")
