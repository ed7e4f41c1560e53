"""PettingZoo's parallel environments as a batch of agents in teams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from graft.envs.adapters.pettingzoo.roster import Roster, UnknownAgent
from graft.envs.adapters.spaces import Array, first_line, metadata_of
from graft.envs.core.action_masks import any_mask
from graft.envs.core.faults import FaultLog, FaultRules, Faults, checks_bounds
from graft.envs.core.schema import Schemas
from graft.envs.core.teams import Bools, TeamEnv, envs_needed, team_slots
from graft.envs.supervision.interface import NUMBERS, UNSAID, WrongInterface, first_pair, scalar_reward, step_error
from graft.envs.supervision.restarts import EnvFailure, RestartableEnvs, attempts, derived_seed
from graft.errors import GraftError

NO_WINNER = -2


class _Shown(NamedTuple):
    """Observations of one environment by slot: of agents that act next, and the last ones of those that ended."""

    next: dict[int, Array]
    last: dict[int, Array]


class PettingZooBatch(TeamEnv):
    """Parallel environments stepped one after the other.

    Agents may end and enter in any step. One that leaves ``agents`` without a flag has terminated. An environment is
    over when no agent is left to act; its next seed follows from its first one and the number of its episode, because
    some environments lose their random numbers at a reset without a seed.

    One that fails is counted and made again (`FaultRules`): the episode of its agents in play ends with their last
    observations and what the step gave beside the fault, their rewards and who terminated; the others are truncated.
    Then its next episode begins. Every attempt at an episode counts in its number.

    Args:
        make: makes one of the environments; they are closed with the batch. task: id, for messages.
        rules: of faults; a step of one environment is one env step, however many agents act.
        weights: of rewards that are arrays: their weighted sum is the reward.
        rows, team: how many environments: as many as hold ``rows`` agents of ``team``, or ``rows`` where it is None.
        channels: of pictures, as the user says.
        masks_said: whether the user says what becomes of action masks.
    Raises:
        GraftError: see `Roster`, and an unknown team.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        task: str,
        rules: FaultRules,
        rows: int = 1,
        team: str | None = None,
        weights: tuple[float, ...] | None = None,
        channels: Any = None,
        masks_said: bool = False,
    ) -> None:
        self._weights, self._masks_said = weights, masks_said
        self._task, self._restartable, self._log = task, RestartableEnvs(make, 1), FaultLog(task, rules)
        self._envs = self._restartable.envs
        self._broken: set[int] = set()  # to be made again
        try:
            self._restartable.restart(0)
            self._roster = Roster(self._envs[0], task, checks_bounds(rules, task), channels)
            self.agents, self.teams = self._roster.agents, self._roster.teams
            self.metadata = metadata_of(self._envs[0])
            self.render_mode = getattr(self._envs[0], "render_mode", None)
            self.num_envs = rows if team is None else envs_needed(rows, len(team_slots(self, team)))
            for i in range(1, self.num_envs):
                self._envs.append(None)
                self._restartable.restart(i)
        except EnvFailure as failure:
            self.close()
            raise GraftError(f"Task '{task}' cannot be made: {failure.text}.") from failure
        except GraftError:
            self.close()
            raise
        self._alive = np.zeros((self.num_envs, len(self.agents)), np.bool_)
        self._raw, self._last = self._roster.buffers(self.num_envs), self._roster.buffers(self.num_envs)
        self._seeds = np.zeros(self.num_envs, np.int64)
        self._episodes = np.zeros(self.num_envs, np.int64)

    @property
    def faults(self) -> Faults:
        return self._log.faults

    def schemas_of(self, team: str) -> Schemas:
        return self._roster.schemas_of(team)

    def reset(self, seed: int | None = None) -> tuple[dict[str, Array], Bools, dict[str, Any]]:
        if seed is not None:
            self._seeds[:] = seed + np.arange(self.num_envs)
            self._episodes[:] = 0
        self._begin(range(self.num_envs))
        return *self.observe(), {}

    def observe(self) -> tuple[dict[str, Array], Bools]:
        return self._roster.shown(self._raw, self._alive), self._alive.copy()

    def _begin(self, which: Sequence[int]) -> None:
        """Fresh episodes of the environments ``which``, tried until there are some."""
        while len(which):
            self._alive[which] = False
            seen, which = self._call("reset", self._reset_one, which)
            for i, shown in seen.items():
                self._keep(i, shown)
            if which:
                self._log.check()

    def _reset_one(self, i: int) -> _Shown:
        seed, episode = int(self._seeds[i]), int(self._episodes[i])
        self._episodes[i] += 1
        if i in self._broken:
            self._restartable.restart(i)
            self._broken.discard(i)
        env = self._envs[i]
        obs, infos = first_pair(env, {"seed": derived_seed(seed, episode) if episode else seed})
        if not self._masks_said and not self._roster.masked and any_mask(infos):
            raise WrongInterface(UNSAID)
        return _Shown({self._roster.slot(agent): self._roster.observation(agent, obs) for agent in env.agents}, {})

    def _call(
        self, doing: str, one: Callable[[int], _Shown], which: Sequence[int]
    ) -> tuple[dict[int, _Shown], list[int]]:
        """Call ``one`` with each of the environments ``which``: what they showed, and which failed; counts these."""
        seen: dict[int, _Shown] = {}

        def call(i: int) -> None:
            seen[i] = one(i)

        failures = attempts(call, which)
        for clipped in self._roster.take_clips():
            self._log.clip(*clipped)
        for i, failure in failures.items():
            if isinstance(failure.error, UnknownAgent):
                raise failure.error
            if isinstance(failure.error, WrongInterface):
                raise GraftError(f"Task '{self._task}' cannot be played: {failure.error}.") from failure.error
            self._broken.add(i)
            self._log.add(failure.kind, f"environment {i} in its {doing}: {failure.text}", failure.error)
        return seen, list(failures)

    def _keep(self, i: int, seen: _Shown) -> None:
        self._alive[i] = False
        self._alive[i, list(seen.next)] = True
        for found, kept in ((seen.last, self._last), (seen.next, self._raw)):
            for a, shown in found.items():
                team, k = self._roster.places[a]
                kept[team][i, k] = shown

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Array], Array, Bools, Bools, Bools, dict[str, Any]]:
        shape = (self.num_envs, len(self.agents))
        rewards = np.zeros(shape)
        terminated, truncated = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        decoded = {team: self._roster.decode(team, actions[team], self._alive) for team in self.teams}

        def step_one(i: int) -> _Shown:
            return self._play(i, decoded, rewards[i], terminated[i], truncated[i])

        self._log.count_steps(self.num_envs)
        seen, failed = self._call("step", step_one, range(self.num_envs))
        for i, shown in seen.items():
            self._keep(i, shown)
        for i in failed:
            truncated[i] = self._alive[i] & ~terminated[i]
            for team in self.teams:
                self._last[team][i] = self._raw[team][i]
            self._alive[i] = False
        if failed:
            self._log.check()
        over = np.logical_not(self._alive.any(axis=1))
        infos: dict[str, Any] = {"winner": np.where(over, NO_WINNER, -1).astype(np.int8)}
        if self.render_mode is not None and over.any():  # those that failed can't be drawn
            infos["final_frame"] = tuple(self._picture(i) if o and i in seen else None for i, o in enumerate(over))
        self._begin(np.flatnonzero(over).tolist())
        ended = terminated | truncated
        if ended.any():
            infos |= {"final_obs": self._roster.shown(self._last, ended), "_final_obs": ended}
        obs, alive = self.observe()
        return obs, rewards, terminated, truncated, alive, infos

    def _play(self, i: int, actions: dict[str, Array], rewards: Array, terminated: Bools, truncated: Bools) -> _Shown:
        """A step of environment i; writes the rewards and flags of agents that acted."""
        env, acted = self._envs[i], self._alive[i]
        given = {}
        for agent in env.agents:  # some environments go on listing agents that have ended
            team, k = self._roster.places[self._roster.slot(agent)]
            given[agent] = actions[team][i, k]
        try:
            obs, earned, died, cut, _ = env.step(given)
        except ValueError as error:
            raise step_error(error) from error.__cause__
        listed = set(env.agents)
        ended = [agent for agent in self._roster.slots if died.get(agent, False) or cut.get(agent, False)]
        staying = listed.difference(ended)
        for agent, a in self._roster.slots.items():  # before observations, which may be faulty
            if acted[a]:
                terminated[a] = bool(died.get(agent, False)) or (agent not in staying and not cut.get(agent, False))
                truncated[a] = agent not in staying and not terminated[a]
        self._earn(earned, acted, rewards)
        seen = _Shown({}, {})
        for agent, a in self._roster.slots.items():
            if agent in staying:
                seen.next[a] = self._roster.observation(agent, obs)
            elif acted[a]:
                team, k = self._roster.places[a]
                seen.last[a] = self._roster.observation(agent, obs) if agent in obs else self._raw[team][i, k]
        for agent in listed:
            self._roster.slot(agent)
        return seen

    def _earn(self, earned: dict[Any, Any], acted: Bools, rewards: Array) -> None:
        """Write the rewards of agents that acted; one that is a fault is reported when the others are written."""
        faulty = None
        for agent, a in self._roster.slots.items():
            if not acted[a] or agent not in earned:
                continue
            reward = earned[agent]
            if self._weights is not None or type(reward) not in NUMBERS:
                reward = scalar_reward(reward, self._weights)
            if isfinite(reward):
                rewards[a] = reward
            else:
                faulty = faulty or EnvFailure("not_finite", f"the reward of agent '{agent}' is {reward}")
        if faulty:
            raise faulty

    def render(self) -> tuple[Any, ...]:
        return tuple(self._picture(i) for i in range(self.num_envs))

    def _picture(self, i: int) -> Any:
        try:
            return self._envs[i].render()
        except Exception as error:  # of third-party code, or of a graphics library
            raise GraftError(f"'{self._task}' cannot be drawn: {type(error).__name__}, {first_line(error)}.") from error

    def close(self) -> None:
        self._restartable.close()
