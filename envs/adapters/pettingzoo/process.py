"""A parallel environment of PettingZoo in a process of its own, which is ended when it hangs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym

from graft.envs.supervision.restarts import RESET_FACTOR
from graft.envs.supervision.subprocesses import SECONDS_TO_CLOSE, Subprocess, answer

_NOTHING: gym.Space[Any] = gym.spaces.Discrete(1)


class _Host(gym.Env[Any, Any]):
    """The parallel environment in its process, where only `ask` is used."""

    metadata: dict[str, Any] = {}  # noqa: RUF012 - of its own, as AsyncVectorEnv writes into it
    observation_space = action_space = _NOTHING

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._env: Any = None

    def ask(self, name: str, *args: Any) -> tuple[Any, BaseException | None]:
        """The method ``name`` of this, for the other process."""
        return answer(getattr(self, name), *args)

    def about(self) -> tuple[Any, ...]:
        """Make it; what is known before it is played."""
        env = self._env = self._make()
        agents = list(getattr(env, "possible_agents", None) or [])
        spaces = {agent: (env.observation_space(agent), env.action_space(agent)) for agent in agents}
        return dict(getattr(env, "metadata", {})), getattr(env, "render_mode", None), agents, spaces

    def begin(self, seed: int) -> Any:
        """What a reset shows, and who acts."""
        return self._env.reset(seed=seed)[0], list(self._env.agents)

    def play(self, actions: dict[Any, Any]) -> Any:
        """What a step gives but for its infos, and who acts."""
        return *self._env.step(actions)[:4], list(self._env.agents)

    def draw(self) -> Any:
        """A picture."""
        return self._env.render()

    def end(self) -> None:
        """Close it."""
        self._env.close()


class ProcessParallelEnv:
    """As much of PettingZoo's ``ParallelEnv`` as `graft.envs.adapters.pettingzoo.batch` needs, of one in a process.

    Args:
        make: makes the environment. task: id, for messages.
        timeout: seconds that a step may take; a reset, or making it, `RESET_FACTOR` times as long.
    Raises:
        Wrong: it takes too long. Whatever ``make`` raises. GraftError: the process cannot be started.
    """

    def __init__(self, make: Callable[[], Any], task: str, timeout: float) -> None:
        self._process = Subprocess(partial(_Host, make), task, shared_memory=False)
        self._timeout = timeout
        self.agents: list[Any] = []
        about = self._process.ask(RESET_FACTOR * timeout, "about")
        self.metadata, self.render_mode, self.possible_agents, self._spaces = about

    def observation_space(self, agent: Any) -> gym.Space[Any]:
        """Of an agent."""
        space: gym.Space[Any] = self._spaces[agent][0]
        return space

    def action_space(self, agent: Any) -> gym.Space[Any]:
        """Of an agent."""
        space: gym.Space[Any] = self._spaces[agent][1]
        return space

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        """An episode begins."""
        obs, self.agents = self._process.ask(RESET_FACTOR * self._timeout, "begin", seed)
        return obs, {}

    def step(self, actions: dict[Any, Any]) -> tuple[Any, ...]:
        """A step."""
        *given, self.agents = self._process.ask(self._timeout, "play", actions)
        return *given, {}

    def render(self) -> Any:
        """A picture."""
        return self._process.ask(SECONDS_TO_CLOSE, "draw")

    def close(self) -> None:
        """Close it, as far as it lets itself be closed, and end the process."""
        with contextlib.suppress(Exception):
            self._process.ask(RESET_FACTOR * self._timeout, "end")
        self._process.end()
