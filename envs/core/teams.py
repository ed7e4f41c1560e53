"""Environments of several agents in teams: the base class `TeamEnv`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.envs.core.faults import Faults
from graft.envs.core.schema import Schemas
from graft.errors import unknown

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Policy = Callable[[Array, Bools], Any]
"""(observations (N, size, *shape), who is in play (N, size)) -> actions (N, size) or (N, size, n), for one team."""

RULES = ("random", "still")  # built-in opponents: uniformly random actions, or `no_op`
ALL = "all"


class TeamEnv:
    """N environments with A slots for agents each, in teams. Sizes of teams may change: not every slot is in play.

    Where ``render_mode`` is set and games end, ``infos["final_frame"]`` holds pictures of their ends, else None (a
    tuple, N).

    Attributes:
        num_envs: N. agents: names of the slots. teams: name -> its slots, ascending; each slot has one team.
        savable: whether `save_state` and `restore_state` work. metadata, render_mode: as Gymnasium's.
    """

    num_envs: int
    agents: tuple[str, ...]
    teams: dict[str, tuple[int, ...]]
    savable: bool = False
    metadata: dict[str, Any]
    render_mode: str | None

    @property
    def faults(self) -> Faults:
        """How often its environments failed and were restarted: third-party ones alone can."""
        return Faults()

    def schemas_of(self, team: str) -> Schemas:
        """Schemas of every agent of ``team``."""
        raise NotImplementedError

    def reset(self, seed: int | None = None) -> tuple[dict[str, Array], Bools, dict[str, Any]]:
        """Fresh episodes: observations, who is in play (N, A), and infos.

        Environment i is seeded with ``seed + i``; without a seed random numbers go on. Observations come by team,
        (N, size, *shape), and are zero for slots that are not in play.
        """
        raise NotImplementedError

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Array], Array, Bools, Bools, Bools, dict[str, Any]]:
        """One step with actions by team, (N, size) or (N, size, n); those of slots that are not in play are ignored.

        Returns:
            obs, rewards (N, A), terminated (N, A), truncated (N, A), alive (N, A), infos. An agent that leaves the
            game in mid-episode, or whose game is decided, is terminated in that step. Rewards and flags belong to
            the agents that acted, ``obs`` and ``alive`` to those that act next: when no agent is left to act, or the
            game is decided, the environment has reset itself. ``infos["winner"]`` (N,) int8 is -1 where the game goes
            on, else the index of the team that won it, or -2 where none did. Where agents ended,
            ``infos["final_obs"]`` holds their last observations by team, and ``infos["_final_obs"]`` (N, A) says whose.
        """
        raise NotImplementedError

    def observe(self) -> tuple[dict[str, Array], Bools]:
        """Observations of the agents in play, by team, and which those are (N, A); nothing changes."""
        raise NotImplementedError

    def render(self) -> tuple[Any, ...] | None:
        """A picture of each environment; None without a render mode."""
        raise NotImplementedError

    def save_state(self) -> dict[str, Array]:
        """Copies of everything that the future depends on."""
        raise NotImplementedError

    def restore_state(self, saved: dict[str, Array]) -> None:
        """Go back to a state of `save_state`."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all environments."""


def envs_needed(rows: int, count: int) -> int:
    """How many environments hold ``rows`` rows of ``count`` agents each; the last may hold more."""
    return -(-rows // count)


def team_slots(squad: TeamEnv, team: str) -> list[int]:
    """The slots of ``team``; raises GraftError for a team that there is not."""
    if team == ALL:
        return list(range(len(squad.agents)))
    if team not in squad.teams:
        raise unknown("team", team, [*squad.teams, ALL])
    return list(squad.teams[team])


def schema_difference(mine: Schemas, theirs: Schemas, other: str) -> str:
    """The difference, as the rest of a sentence about the first: "sees (16,) and agent (14,)"."""
    if mine.observation != theirs.observation:
        a, b = mine.observation, theirs.observation
        if (a.kind, a.shape) != (b.kind, b.shape):
            return f"sees {a.kind} of shape {a.shape} and {other} {b.kind} of shape {b.shape}"
        return f"and {other} see the same shape {a.shape} under other names or bounds"
    one, two = (f"{s.action.kind} actions ({', '.join(s.action.names)})" for s in (mine, theirs))
    return f"takes {one} and {other} {two}"
