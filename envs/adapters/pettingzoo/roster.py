"""The agents of a parallel environment of PettingZoo: slots, teams, observations and actions."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from graft.envs.adapters.masks import MaskedCheck
from graft.envs.adapters.parts import check_and_codec
from graft.envs.adapters.spaces import ActionCodec, Array, ObservationCodec, action_codec
from graft.envs.core.random_actions import no_op
from graft.envs.core.schema import Schemas
from graft.envs.core.teams import Bools
from graft.envs.supervision.observation_check import ObservationCheck
from graft.envs.supervision.restarts import EnvFailure
from graft.errors import GraftError

MOVES = ("noop", "left", "right", "down", "up")  # the five actions of MPE, named as those of the built-in games


class UnknownAgent(GraftError):
    """An environment contradicts its own lists of agents; it is not made again."""


class Roster:
    """The agents of an environment.

    Attributes:
        agents: names of the slots, (A,). slots: agent -> its slot. teams: name -> its slots, ascending.
        places: of each slot, its team and its place in it. masked: agents that are given `Shown`.

    Args:
        env: one environment, not yet reset. task: id, for error messages.
        strict: whether observations are clipped to the bounds of their space. channels: of pictures, as the user says.
    Raises:
        GraftError: no list of possible agents, a team whose agents have different spaces, or spaces without a codec.
    """

    def __init__(self, env: Any, task: str, strict: bool, channels: Any = None) -> None:
        self._task, self._channels = task, channels
        self.masked = frozenset(map(str, getattr(env, "masked", ())))
        possible = getattr(env, "possible_agents", None)
        if not possible:
            raise GraftError(f"Task '{task}' does not list its possible_agents, which Graft needs to number them.")
        self.agents = tuple(map(str, possible))
        self.slots = {agent: a for a, agent in enumerate(possible)}
        stems = [re.sub(r"_?\d+$", "", agent) or agent for agent in self.agents]
        self.teams = {stem: tuple(a for a, s in enumerate(stems) if s == stem) for stem in dict.fromkeys(stems)}
        self.places = [(stem, self.teams[stem].index(a)) for a, stem in enumerate(stems)]
        self._spaces = [(env.observation_space(agent), env.action_space(agent)) for agent in possible]
        own = getattr(env, "schemas", None)  # agent -> `Schemas`: a built-in game's
        self._known = own if isinstance(own, dict) else {}
        self._checks: dict[str, ObservationCheck] = {}
        self._codecs: dict[str, tuple[ObservationCodec, ActionCodec]] = {}
        self._make_codecs(strict)

    def _make_codecs(self, strict: bool) -> None:
        """Those of each team. Where spaces of teams differ, the names of features or actions contain the team."""
        for team, its in self.teams.items():
            for a in its[1:]:
                for mine, theirs in zip(self._spaces[its[0]], self._spaces[a], strict=True):
                    if mine != theirs:
                        raise GraftError(
                            f"Agents of team '{team}' of '{self._task}' differ: {self.agents[its[0]]} has {mine}, "
                            f"{self.agents[a]} has {theirs}."
                        )
        alike = [all(spaces[n] == self._spaces[0][n] for spaces in self._spaces) for n in (0, 1)]
        game = re.sub(r"_v\d+$", "", self._task.rpartition(".")[2])
        moves = MOVES if ":mpe2." in self._task else None
        for team, its in self.teams.items():
            seen, done = self._spaces[its[0]]
            sees, does = (game if same else f"{game}.{team}" for same in alike)
            flat = seen.shape is not None and len(seen.shape) < 3
            channels = None if flat else self._channels  # some teams may see no pictures
            known = self._known.get(self.agents[its[0]])
            if isinstance(known, Schemas) and (known.observation.space(), known.action.space()) == (seen, done):
                self._checks[team], shown = ObservationCheck(seen, strict), ObservationCodec(known.observation, np.copy)
                self._codecs[team] = shown, action_codec(does, done, known.action.names)
                continue
            check, shown = check_and_codec(sees, seen, strict, channels=channels)
            action = action_codec(does, done, moves)
            if self.agents[its[0]] in self.masked:
                check = masked = MaskedCheck(check, shown, action.schema)
                shown = masked.codec
            self._checks[team], self._codecs[team] = check, (shown, action)

    def take_clips(self) -> list[tuple[int, str]]:
        """How many observations were clipped since the last call, and the first in words, of teams that had some."""
        return [check.clips.take() for check in self._checks.values() if check.clips.count]

    def buffers(self, num_envs: int) -> dict[str, Array]:
        """Raw observations (N, size, *raw) of each team, zeros."""
        checks = self._checks
        return {
            team: np.zeros((num_envs, len(its), *checks[team].shape), checks[team].dtype)
            for team, its in self.teams.items()
        }

    def schemas_of(self, team: str) -> Schemas:
        observation, action = self._codecs[team]
        return Schemas(observation.schema, action.schema)

    def shown(self, raw: dict[str, Array], valid: Bools) -> dict[str, Array]:
        """Observations (N, size, *shape) by team, zero where not ``valid`` (N, A)."""
        shown = {}
        for team, its in self.teams.items():
            codec, rows = self._codecs[team][0], raw[team]
            obs = codec.encode(rows.reshape(-1, *rows.shape[2:])).reshape(*rows.shape[:2], *codec.schema.shape)
            obs[~valid[:, list(its)]] = 0
            shown[team] = obs
        return shown

    def decode(self, team: str, actions: Any, alive: Bools) -> Array:
        """Actions (N, size) or (N, size, n) as the environments take them, (N, size, *raw); `no_op` if not in play."""
        codec = self._codecs[team][1]
        alive = alive[:, list(self.teams[team])]
        given = np.array(actions)
        given[~alive] = no_op(codec.schema, alive.shape)[~alive]
        decoded = codec.decode(given.reshape(-1, *given.shape[2:]))
        return decoded.reshape(*alive.shape, *decoded.shape[1:])

    def slot(self, agent: Any) -> int:
        """Of an agent that is to act; raises UnknownAgent for one that is not among the possible ones."""
        if agent not in self.slots:
            raise UnknownAgent(f"Task '{self._task}' has agent '{agent}', who is not among its possible_agents.")
        return self.slots[agent]

    def observation(self, agent: Any, obs: Any) -> Array:
        """A copy of an agent's observation; raises EnvFailure for a faulty one, UnknownAgent for none."""
        if agent not in obs:
            raise UnknownAgent(f"Task '{self._task}' shows nothing to agent '{agent}', who is to act.")
        check = self._checks[self.places[self.slots[agent]][0]]
        try:
            return np.array(check.read(obs[agent]))
        except EnvFailure as failure:
            raise EnvFailure(failure.kind, f"agent '{agent}': {failure.text}") from None
