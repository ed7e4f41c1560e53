"""Puts an arena into a state set up by hand, and plays it step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.envs.builtin.arena.batch import ArenaBatch
from graft.envs.builtin.arena.game import ARENAS

Place = tuple[int, int] | None


def arena(game: str, first: list[Place], second: list[Place], cells: Any = None, **options: Any) -> ArenaBatch:
    """A batch of one with both teams at these places, None for an agent that is out, and otherwise an empty board."""
    sizes = {team.name: len(its) for team, its in zip(ARENAS[game].teams, (first, second), strict=True)}
    batch = ArenaBatch(game, 1, **sizes, **options)
    batch.reset()
    state = batch.save_state()
    state["cells"][:] = 0
    for (row, column), code in (cells or {}).items():
        state["cells"][0, row, column] = code
    for a, place in enumerate(first + second):
        state["alive"][0, a] = place is not None
        state["place"][0, a] = place or (0, 0)
    batch.restore_state(state)
    return batch


def play(batch: ArenaBatch, *actions: int) -> tuple[list[float], list[bool], int]:
    """One step of a batch of one, an action for each slot: rewards, who ended, and the winner."""
    _, rewards, terminated, truncated, _, infos = batch.step(by_team(batch, np.array([actions])))
    assert not truncated.any()
    return np.round(rewards[0], 6).tolist(), terminated[0].tolist(), int(infos["winner"][0])


def places(batch: ArenaBatch) -> list[Place]:
    """Where the agents of a batch of one stand; None for those that are out."""
    state = batch.save_state()
    return [tuple(p) if alive else None for p, alive in zip(state["place"][0].tolist(), state["alive"][0], strict=True)]


def by_team(batch: Any, actions: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Actions (N, A) by team."""
    return {team: actions[:, list(its)] for team, its in batch.teams.items()}


def random_steps(batch: Any, count: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """What ``count`` steps with random actions give; the same actions for the same environment in any batch."""
    draw = np.random.default_rng(seed)
    actions = draw.integers(0, 6, (count, 64, len(batch.agents)))
    return [batch.step(by_team(batch, a[: batch.num_envs])) for a in actions]
