"""Squads in RLlib: agents that come and go, a plain loop over PettingZoo, and what both have to have in common."""

from __future__ import annotations

import sys
from collections import defaultdict
from types import ModuleType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from pettingzoo import ParallelEnv
from ray.rllib.env.env_context import EnvContext

from graft.agents.rllib.multi_agent import SquadGame

PURSUIT, TIDE = "Graft/Pursuit-v0", "pettingzoo:tide_v0"
AGENTS = ["crab_0", "crab_1", "gull_0", "gull_1"]


class Tide(ParallelEnv[str, Any, int]):
    """Agents that come and go by a table: agent -> [step of its entry, step of its end, how it ends].

    An agent sees (its number, the time, a random number), and earns a random number and its action. Without a table,
    each game draws one. ``breaks``: the step of each life of an instance that raises.
    """

    metadata = {"name": "tide_v0"}  # noqa: RUF012
    possible_agents = AGENTS

    def __init__(self, table: Any = None, breaks: int = 0, wide: bool = False) -> None:
        self.table, self.breaks, self.wide, self.taken = table, breaks, wide, 0
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Any:
        return gym.spaces.Box(0, 1000, (4 if self.wide and agent.startswith("gull") else 3,), np.float32)

    def action_space(self, agent: str) -> Any:
        return gym.spaces.Discrete(3)

    def _see(self, agents: Any) -> dict[str, Any]:
        shapes = {a: self.observation_space(a).shape for a in agents}
        return {a: np.resize([AGENTS.index(a), self.time, self.number], shapes[a]).astype(np.float32) for a in agents}

    def _there(self) -> list[str]:
        return [a for a in reversed(AGENTS) if a in self.plan and self.plan[a][0] <= self.time < self.plan[a][1]]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.dice, self.time = np.random.default_rng(seed), 0
        self.number = int(self.dice.integers(100))
        starts, lengths = self.dice.integers(-4, 5, 4).clip(0), self.dice.integers(1, 5, 4)
        starts[self.dice.integers(4)] = 0
        ends = self.dice.choice(["cut", "died", "left"], 4)
        drawn = zip(starts, starts + lengths, ends, strict=True)
        self.plan = self.table or dict(zip(AGENTS, drawn, strict=True))
        self.agents = self._there()
        return self._see(self.agents), {}

    def step(self, actions: dict[str, int]) -> Any:
        assert set(actions) == set(self.agents)
        self.taken += 1
        if self.taken == self.breaks:
            raise ZeroDivisionError("a bug")
        acted, self.time = self.agents, self.time + 1
        self.number, self.agents = int(self.dice.integers(100)), self._there()
        ended = {a: self.plan[a][2] for a in acted if self.time >= self.plan[a][1]}
        known = [a for a in {*acted, *self.agents} if ended.get(a) != "left"]
        flags = [{a: ended.get(a) == how for a in known} for how in ("died", "cut")]
        return self._see(known), {a: float(self.number + actions[a]) for a in acted}, *flags, {}


def as_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``tide_v0`` be a module with it."""
    module = ModuleType("tide_v0")
    module.parallel_env = module.raw_env = Tide  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tide_v0", module)


class Life(NamedTuple):
    """What an agent has seen, its last observation included, what it earned, and how it ended."""

    obs: list[Any]
    rewards: list[float]
    end: str


def game(task_id: str, worker: int = 0, **kwargs: Any) -> SquadGame:
    return SquadGame(EnvContext({"task": {"id": task_id, "kwargs": kwargs}, "seed": 3}, worker_index=worker))


def chosen(agents: Any, time: int, count: int) -> dict[str, int]:
    """Some action of each agent that has one at that time."""
    return {agent: (sum(map(ord, agent)) + 3 * time * time) % count for agent in agents}


def played(env: Any, first: tuple[Any, Any], actions: Any) -> dict[str, Life]:
    """The game that begins with ``first``, as a plain loop over PettingZoo plays it: ``actions(agents, time)``."""
    obs, infos = first
    absent = {agent for agent, info in infos.items() if info.get("alive") is False}  # of our own arenas
    seen, earned = {a: [obs[a]] for a in env.agents if a not in absent}, defaultdict(list)
    ends: dict[str, str] = {}
    time = 0
    while env.agents:
        acting = [agent for agent in env.agents if agent not in absent]
        given = actions(acting, time)
        obs, rewards, died, cut, _ = env.step(given | dict.fromkeys(absent & set(env.agents), 0))
        time += 1
        for agent in acting:
            earned[agent].append(rewards[agent])
            seen[agent].append(obs.get(agent, seen[agent][-1]))
            if agent not in env.agents or died[agent] or cut[agent]:
                ends[agent] = "cut" if cut.get(agent) and not died.get(agent) else "died"
        for agent in env.agents:
            if agent not in absent and agent not in seen:
                seen[agent] = [obs[agent]]
    return {agent: Life(seen[agent], earned[agent], ends[agent]) for agent in seen}


def assert_same(mine: dict[str, Life], theirs: dict[str, Life]) -> None:
    assert mine.keys() == theirs.keys()
    for agent, life in mine.items():
        np.testing.assert_array_equal(np.stack(life.obs), np.stack(theirs[agent].obs), agent)
        assert life[1:] == theirs[agent][1:], agent


def by_threes(agents: Any, time: int) -> dict[str, int]:
    return chosen(agents, time, 3)


def by_sixes(agents: Any, time: int) -> dict[str, int]:
    return chosen(agents, time, 6)
