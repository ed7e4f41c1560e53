"""PettingZoo's parallel environments as a batch of many agents: who ends and enters when, and in which order."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.adapters.spaces import ActionCodec, Array, ObservationCodec, action_codec, first_line, observation_codec
from envs.dice import still
from envs.errors import GraftError
from envs.faults import FaultLog, FaultRules, Faults
from envs.schema import Schemas

Bools = NDArray[np.bool_]

MOVES = ("noop", "left", "right", "down", "up")
"""The five actions of MPE, in its order and in the words of the built-in games."""

NO_WINNER = -2


class ZooSquad:
    """Parallel environments stepped one after the other; see `envs.squad.SquadEnv` for what it gives.

    Agents may end and enter in any step and in any order. One that leaves ``agents`` without a flag has terminated. An
    environment is over when nobody is left to act; it is then reset with a seed that follows from its first seed and
    the number of its episode, because some environments forget their random numbers at a reset without one.
    One that raises, or shows or pays what is not finite, ends the run with `envs.faults.TooManyFaults`: none is
    restarted.

    Args:
        envs: the environments, not yet reset; closed with the batch.
        task: id, for error messages.
    Raises:
        GraftError: no list of possible agents, a team whose agents see or do different things, or spaces that Graft
            cannot show (`envs.adapters.spaces`).
    """

    def __init__(self, envs: list[Any], task: str) -> None:
        self._envs, self._task = envs, task
        self._log = FaultLog(task, FaultRules(limit=0))
        self.num_envs = len(envs)
        possible = getattr(envs[0], "possible_agents", None)
        if not possible:
            raise GraftError(f"Task '{task}' does not list its possible_agents, which Graft needs to number them.")
        self.agents = tuple(map(str, possible))
        self._slots = {agent: a for a, agent in enumerate(possible)}
        stems = [re.sub(r"_?\d+$", "", agent) or agent for agent in self.agents]
        self.teams = {stem: tuple(a for a, s in enumerate(stems) if s == stem) for stem in dict.fromkeys(stems)}
        self._team = [(stem, self.teams[stem].index(a)) for a, stem in enumerate(stems)]
        self._spaces = [(envs[0].observation_space(agent), envs[0].action_space(agent)) for agent in possible]
        self._codecs = self._make_codecs()
        self._alive = np.zeros((self.num_envs, len(self.agents)), np.bool_)
        self._raw, self._last = self._buffers(), self._buffers()
        self._seeds = np.zeros(self.num_envs, np.int64)
        self._episodes = np.zeros(self.num_envs, np.int64)

    def _make_codecs(self) -> dict[str, tuple[ObservationCodec, ActionCodec]]:
        """Of each team. Where teams see or do different things their names say whose they are."""
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
        found = {}
        for team, its in self.teams.items():
            seen, done = self._spaces[its[0]]
            sees, does = (game if same else f"{game}.{team}" for same in alike)
            found[team] = observation_codec(sees, seen), action_codec(does, done, moves)
        return found

    def _buffers(self) -> dict[str, Array]:
        """Raw observations (N, size, *raw) of each team."""
        return {
            team: np.zeros((self.num_envs, len(its), *self._spaces[its[0]][0].shape), self._spaces[its[0]][0].dtype)
            for team, its in self.teams.items()
        }

    @property
    def faults(self) -> Faults:
        """What ended the run."""
        return self._log.faults

    def _fail(self, i: int, kind: str, text: str, error: BaseException | None = None) -> None:
        self._log.add(kind, f"environment {i}: {text}", error)
        self._log.check()

    def schemas_of(self, team: str) -> Schemas:
        """What every agent of ``team`` sees and does."""
        observation, action = self._codecs[team]
        return Schemas(observation.schema, action.schema)

    def _shown(self, raw: dict[str, Array], valid: Bools) -> dict[str, Array]:
        """Observations (N, size, *shape) by team, zero where not ``valid`` (N, A)."""
        shown = {}
        for team, its in self.teams.items():
            codec, rows = self._codecs[team][0], raw[team]
            obs = codec.encode(rows.reshape(-1, *rows.shape[2:])).reshape(*rows.shape[:2], *codec.schema.shape)
            obs[~valid[:, list(its)]] = 0
            shown[team] = obs
        return shown

    def reset(self, seed: int | None = None) -> tuple[dict[str, Array], Bools, dict[str, Any]]:
        """Fresh episodes; environment i starts with the seed ``seed + i``."""
        if seed is not None:
            self._seeds[:] = seed + np.arange(self.num_envs)
            self._episodes[:] = 0
        for i in range(self.num_envs):
            self._begin(i)
        return *self.observe(), {}

    def observe(self) -> tuple[dict[str, Array], Bools]:
        """What everybody in play sees now, and who that is; nothing changes."""
        return self._shown(self._raw, self._alive), self._alive.copy()

    def _begin(self, i: int) -> None:
        """A fresh episode of environment i."""
        seed, episode = int(self._seeds[i]), int(self._episodes[i])
        if episode:
            seed = int(np.random.SeedSequence([seed, episode]).generate_state(1)[0] >> np.uint32(1))
        self._episodes[i] += 1
        self._alive[i] = False
        try:
            obs = self._envs[i].reset(seed=seed)[0]
            for agent in self._envs[i].agents:
                self._enter(i, agent, obs)
        except GraftError:
            raise
        except Exception as error:  # whatever a third party's code may raise
            self._fail(i, "raised", f"{type(error).__name__} in its reset, {first_line(error)}", error)

    def _enter(self, i: int, agent: Any, obs: Any) -> None:
        """Take an agent that is to act, and what it sees."""
        if agent not in self._slots:
            raise GraftError(f"Task '{self._task}' has agent '{agent}', who is not among its possible_agents.")
        if agent not in obs:
            raise GraftError(f"Task '{self._task}' shows nothing to agent '{agent}', who is to act.")
        a = self._slots[agent]
        team, k = self._team[a]
        self._alive[i, a] = True
        self._raw[team][i, k] = obs[agent]
        if not np.isfinite(self._raw[team][i, k]).all():
            self._fail(i, "not_finite", f"the observation of agent '{agent}' is not finite")

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Array], Array, Bools, Bools, Bools, dict[str, Any]]:
        """One step of all environments; the arrays returned are the caller's to keep."""
        shape = (self.num_envs, len(self.agents))
        rewards = np.zeros(shape)
        terminated, truncated = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        winner = np.full(self.num_envs, -1, np.int8)
        decoded = {team: self._decode(team, actions[team]) for team in self.teams}
        for i in range(self.num_envs):
            try:
                self._play(i, decoded, rewards[i], terminated[i], truncated[i])
            except GraftError:
                raise
            except Exception as error:  # whatever a third party's code may raise
                self._fail(i, "raised", f"{type(error).__name__} in its step, {first_line(error)}", error)
            if not np.isfinite(rewards[i]).all():
                self._fail(i, "not_finite", "a reward is not finite")
            if not self._alive[i].any():
                winner[i] = NO_WINNER
                self._begin(i)
        infos: dict[str, Any] = {"winner": winner}
        ended = terminated | truncated
        if ended.any():
            infos |= {"final_obs": self._shown(self._last, ended), "_final_obs": ended}
        obs, alive = self.observe()
        return obs, rewards, terminated, truncated, alive, infos

    def _decode(self, team: str, actions: Any) -> Array:
        """Actions (N, size) or (N, size, n) as the environments take them, (N, size, *raw); the absent stay still."""
        codec, alive = self._codecs[team][1], self._alive[:, list(self.teams[team])]
        given = np.array(actions)
        given[~alive] = still(codec.schema, alive.shape)[~alive]
        decoded = codec.decode(given.reshape(-1, *given.shape[2:]))
        return decoded.reshape(*alive.shape, *decoded.shape[1:])

    def _play(self, i: int, actions: dict[str, Array], rewards: Array, terminated: Bools, truncated: Bools) -> None:
        """A step of environment i; writes its rows of rewards and flags, of those who acted."""
        env, acted = self._envs[i], self._alive[i].copy()
        given = {}
        for agent in env.agents:  # some environments go on listing agents that have ended
            team, k = self._team[self._slots[agent]]
            given[agent] = actions[team][i, k]
        obs, earned, died, cut, _ = env.step(given)
        listed = set(env.agents)
        self._alive[i] = False
        for agent, a in self._slots.items():
            ended = bool(died.get(agent, False)), bool(cut.get(agent, False))
            if agent in listed and not any(ended):
                self._enter(i, agent, obs)
            if not acted[a]:
                continue
            rewards[a] = earned.get(agent, 0.0)
            terminated[a], truncated[a] = ended
            if not self._alive[i, a]:
                terminated[a] |= not truncated[a]
                team, k = self._team[a]
                self._last[team][i, k] = obs[agent] if agent in obs else self._raw[team][i, k]
        for agent in listed - self._slots.keys():
            self._enter(i, agent, obs)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
