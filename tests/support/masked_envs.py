"""Small environments with action masks, which notice every forbidden action; and a turn-based game of PettingZoo."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pettingzoo import AECEnv
from pettingzoo.utils import AgentSelector

LIFE = 6
KINDS = ("info", "method", "observation")


class Seen:
    """How many actions were played, and how many of them were forbidden, in all environments of this process."""

    played = forbidden = 0

    @classmethod
    def reset(cls) -> None:
        cls.played = cls.forbidden = 0


class Masked(gym.Env[Any, Any]):
    """Reward 1 for the first allowed action; which are allowed is drawn in every step and can be seen.

    ``where``: `KINDS`, or ``none``. ``sizes``: of several choices. ``fault``: what is wrong with the mask in the third
    step: ``empty``, ``short``, ``other`` or ``missing``.
    """

    made: ClassVar[int] = 0

    def __init__(self, where: str = "info", sizes: tuple[int, ...] = (), count: int = 4, fault: str = "") -> None:
        type(self).made += 1
        self.where, self.fault, self.sizes = where, fault, tuple(sizes) or (count,)
        self.action_space = gym.spaces.MultiDiscrete(list(sizes)) if sizes else gym.spaces.Discrete(count)
        self.observation_names = tuple(f"seen_{i}" for i in range(sum(self.sizes)))
        self.action_names = tuple(f"do_{i}" for i in range(sum(self.sizes)))
        plain = gym.spaces.Box(-1.0, 1.0, (sum(self.sizes),), np.float32)
        if where == "observation":
            flags = gym.spaces.MultiBinary(sum(self.sizes))
            self.observation_space = gym.spaces.Dict({"observation": plain, "action_mask": flags})
            self.observation_names = {"observation": self.observation_names}  # type: ignore[assignment]
        else:
            self.observation_space = plain
        if where == "method":
            self.action_masks = lambda: self._mask

    def _draw(self) -> Any:
        parts = []
        for size in self.sizes:
            part = self.np_random.random(size) < 0.4
            part[self.np_random.integers(size)] = True
            parts.append(part)
        self.allowed: NDArray[np.bool_] = np.concatenate(parts)
        noise = self.np_random.uniform(0.0, 0.5, len(self.allowed))
        self._mask: Any = self.allowed
        return np.where(self.allowed, 0.5 + noise, -noise).astype(np.float32)

    def _shown(self, obs: Any) -> tuple[Any, dict[str, Any]]:
        if self.where == "observation":
            return {"observation": obs, "action_mask": np.asarray(self._mask, np.int8)}, {}
        return obs, {"action_mask": self._mask} if self.where == "info" and self._mask is not None else {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._shown(self._draw())

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        chosen = np.atleast_1d(action) + np.cumsum((0, *self.sizes[:-1]))
        Seen.played += 1
        Seen.forbidden += not self.allowed[chosen].all()
        first = [int(np.argmax(part)) for part in np.split(self.allowed, np.cumsum(self.sizes)[:-1])]
        reward = float(np.array_equal(np.atleast_1d(action), first)) + 0.125 * self.t
        self.t += 1
        ended = self.t == LIFE
        obs = self._draw()
        if ended:  # nothing is to be chosen any more
            self._mask = np.zeros_like(self.allowed)
        elif self.fault and self.t == 3:
            none = np.zeros_like(self.allowed)
            faulty = {"empty": none, "short": [True], "other": none + 2, "missing": None}
            self._mask = faulty[self.fault]
        return *(shown := self._shown(obs))[:1], reward, ended, False, shown[1]


def register() -> None:
    """``Masked-v0``, with its keywords."""
    if "Masked-v0" not in gym.registry:
        gym.register("Masked-v0", Masked)


register()  # for processes that know it as ``support.masked_envs:Masked-v0``


class Nim(AECEnv[str, Any, Any]):
    """Two agents take 1 to 3 of ``stones`` in turn; who takes the last wins. No more can be taken than there are."""

    metadata: ClassVar[dict[str, Any]] = {"name": "nim", "render_modes": []}
    render_mode = None

    def __init__(self, stones: int = 7) -> None:
        self.possible_agents = ["left_0", "right_0"]
        self.stones = stones
        space = gym.spaces.Dict(
            {"observation": gym.spaces.Box(0, stones, (1,)), "action_mask": gym.spaces.MultiBinary(3)}
        )
        self._space = space

    def observation_space(self, agent: str) -> Any:
        return self._space

    def action_space(self, agent: str) -> Any:
        return gym.spaces.Discrete(3, start=0)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self.left = int(np.random.default_rng(seed).integers(4, self.stones + 1))
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self._selector = AgentSelector(self.agents)
        self.agent_selection = self._selector.next()

    def observe(self, agent: str) -> Any:
        mine = agent == self.agent_selection
        mask = np.array([mine and self.left >= take for take in (1, 2, 3)], np.int8)
        return {"observation": np.array([self.left], np.float32), "action_mask": mask}

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        Seen.played += 1
        Seen.forbidden += int(action) + 1 > self.left
        self.left -= min(int(action) + 1, self.left)
        self._clear_rewards()
        if self.left == 0:
            self.rewards = {other: 1.0 if other == agent else -1.0 for other in self.agents}
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = self._selector.next()
        self._accumulate_rewards()

    def close(self) -> None: ...


def env(**options: Any) -> Nim:
    """As PettingZoo's modules have it: ``pettingzoo:support.masked_envs``."""
    return Nim(**options)
