"""The agents of one team, or of all, as rows of a batch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from graft.envs.core.faults import Faults
from graft.envs.core.random_actions import RandomActions, no_op
from graft.envs.core.schema import Schemas
from graft.envs.core.task import TaskVectorEnv
from graft.envs.core.teams import ALL, RULES, Array, Bools, Policy, TeamEnv, envs_needed, schema_difference, team_slots
from graft.errors import GraftError, unknown


class TeamRows(TaskVectorEnv):
    """The agents of one team as a batch: row r is slot ``r % k`` of the team's k in environment ``r // k``.

    ``infos["alive"]`` (rows,) of every reset and step says which of the returned observations belong to an agent in
    play. A row out of play has an observation of zeros, no reward and no end, and its action is ignored. A row ends
    (``terminated``, with its ``final_obs``) in the step in which its agent dies, and waits for the next episode of its
    environment; when that ends, all rows in play end. ``infos["winner"]`` of each step is that of `TeamEnv.step`,
    (environments,), and ``infos["over"]`` (rows,) says whose environment's game it ended.

    Args:
        squad: environments under same-step autoreset, ``ceil(rows / k)`` of them.
        team: the team that learns, or ``"all"`` for the slots of all teams.
        rows: how many; surplus agents of the last environment act at random.
        opponents: who plays the other teams: ``"random"``, ``"still"`` or a `Policy`; can be set at any time.
        seed: of the first reset without a seed.
    Raises:
        GraftError: an unknown team or rule, or ``"all"`` of teams with different schemas.
    """

    dead_rows = True

    def __init__(
        self, squad: TeamEnv, team: str = ALL, rows: int = 1, opponents: str | Policy = "random", seed: int = 0
    ) -> None:
        self.squad = squad  # first of all: gymnasium closes what is thrown away, even half made
        self.team = team
        self.slots = team_slots(squad, team)
        self.others = tuple(name for name in squad.teams if team not in (ALL, name))
        self.opponents = opponents
        count = len(self.slots)
        if squad.num_envs != envs_needed(rows, count):
            raise GraftError(
                f"{rows} rows of {count} agents need {envs_needed(rows, count)} environments, not {squad.num_envs}."
            )
        self._set_schemas(rows, *_same_schemas(squad, team))
        rendering = {name: value for name, value in squad.metadata.items() if name.startswith("render_")}
        self.metadata = {"render_modes": [], **rendering, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = squad.render_mode
        self._random = RandomActions(squad.num_envs)
        self._first_seed: int | None = seed
        self._seen: dict[str, Array] = {}
        self._alive = np.zeros((squad.num_envs, len(squad.agents)), np.bool_)

    @property
    def opponents(self) -> str | Policy:
        return self._opponents

    @opponents.setter
    def opponents(self, rule: str | Policy) -> None:
        if isinstance(rule, str):
            if rule not in RULES:
                raise unknown("rule for opponents", rule, RULES)
        elif len(self.others) != 1:
            given = ", ".join(self.others) or "none"
            raise GraftError(f"A policy can play one team of opponents; here these are: {given}.")
        self._opponents = rule

    @property
    def faults(self) -> Faults:
        return self.squad.faults

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        if options:
            raise GraftError(f"TeamRows take no reset options; got {', '.join(options)}.")
        seed = self._first_seed if seed is None else seed
        self._first_seed = None
        if seed is not None:
            if not isinstance(seed, int | np.integer):
                raise GraftError(f"Seeds {seed} are not allowed; give one number, since environments hold many rows.")
            if seed < 0:
                raise GraftError(f"Seed {seed} is not allowed; seeds are whole numbers from 0.")
            self._random.seed(int(seed))
        self._seen, self._alive, _ = self.squad.reset(None if seed is None else int(seed))
        return self._obs(self._seen), {"alive": self._rows(self._alive)}

    def step(self, actions: Any) -> tuple[Array, Array, Bools, Bools, dict[str, Any]]:
        chosen = np.asarray(actions)
        expected = self.action_space.shape
        if chosen.shape != expected:
            raise GraftError(f"Actions have shape {chosen.shape}; this batch takes {expected}.")
        acted = self._alive
        seen, rewards, terminated, truncated, alive, infos = self.squad.step(self._all_actions(chosen))
        self._seen, self._alive = seen, alive
        over = np.repeat(infos["winner"] != -1, len(self.slots))[: self.num_envs]
        mine: dict[str, Any] = {"alive": self._rows(alive), "winner": infos["winner"], "over": over}
        if "final_frame" in infos:
            mine["final_frame"] = infos["final_frame"]
        ended, cut = self._rows(terminated & acted), self._rows(truncated & acted)
        if (ended | cut).any():
            mine |= {"final_obs": self._obs(infos["final_obs"]), "_final_obs": ended | cut}
        return self._obs(seen), self._rows(np.where(acted, rewards, 0.0)), ended, cut, mine

    def render(self) -> tuple[Any, ...] | None:
        """A frame of each environment (not of each row); one whose game is over already shows the next."""
        if self.render_mode is None:
            gym.logger.warn("render gives nothing without a render_mode, such as render_mode='rgb_array'.")
            return None
        return self.squad.render()

    def _rows(self, values: Array) -> Array:
        """(N, A) -> (rows,)."""
        return values[:, self.slots].reshape(-1)[: self.num_envs]

    def _obs(self, by_team: dict[str, Array]) -> Array:
        rows = self._all_obs(by_team)[: self.num_envs]
        return rows if rows.base is None else rows.copy()

    def _all_obs(self, by_team: dict[str, Array]) -> Array:
        """Of all agents of the team, also of those that are no rows."""
        if self.team != ALL:
            mine = by_team[self.team]
        else:
            mine = np.empty(
                (len(self._alive), len(self.slots), *self.observation_schema.shape), self.observation_schema.dtype
            )
            for team, its in self.squad.teams.items():
                mine[:, list(its)] = by_team[team]
        rows: Array = mine.reshape(-1, *self.observation_schema.shape)
        return rows

    def _all_actions(self, chosen: Array) -> dict[str, Any]:
        environments, count = self.squad.num_envs, len(self.slots)
        surplus = environments * count - self.num_envs
        if surplus:
            forbidden = None
            if self.observation_schema.flags:
                forbidden = self.schemas.forbidden(self._all_obs(self._seen)[self.num_envs :])[None]
            extra = self._random.last().actions(self.action_schema, surplus, forbidden)[0]
            chosen = np.concatenate([chosen, extra.astype(chosen.dtype)])
        mine = chosen.reshape(environments, count, *chosen.shape[1:])
        if self.team == ALL:
            return {team: mine[:, list(its)] for team, its in self.squad.teams.items()}
        return {self.team: mine} | {other: self._opponents_actions(other) for other in self.others}

    def _opponents_actions(self, team: str) -> Any:
        its, schemas = self.squad.teams[team], self.squad.schemas_of(team)
        acts, forbidden = schemas.action, schemas.forbidden(self._seen[team])
        if callable(self._opponents):
            return self._opponents(self._seen[team], self._alive[:, list(its)])
        if self._opponents == "random":
            return self._random.actions(acts, len(its), forbidden)
        return no_op(acts, (self.squad.num_envs, len(its)), forbidden)

    @property
    def savable(self) -> bool:
        return self.squad.savable

    def save_state(self) -> dict[str, Array]:
        inner = {f"squad.{name}": array for name, array in self.squad.save_state().items()}
        return inner | {"dice": self._random.state.copy()}

    def restore_state(self, saved: dict[str, Array]) -> None:
        inner = {name.removeprefix("squad."): array for name, array in saved.items() if name.startswith("squad.")}
        self.squad.restore_state(inner)
        self._random.state[...] = saved["dice"]
        self._seen, self._alive = self.squad.observe()
        self._first_seed = None

    def close_extras(self, **kwargs: Any) -> None:
        self.squad.close()


def _same_schemas(squad: TeamEnv, team: str) -> Schemas:
    """The schemas of ``team``; of ``"all"``, where they are the same for every team."""
    if team != ALL:
        return squad.schemas_of(team)
    first, *others = squad.teams
    mine = squad.schemas_of(first)
    for other in others:
        theirs = squad.schemas_of(other)
        if mine != theirs:
            raise GraftError(
                f"team='{ALL}' needs teams that see and do the same, but {first} "
                f"{schema_difference(mine, theirs, other)}; choose one of them: {', '.join(squad.teams)}."
            )
    return mine
