"""A parallel environment of PettingZoo in a process of its own, which is ended when it hangs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from graft.envs.adapters.spaces import metadata_of
from graft.envs.core.action_masks import MASK, any_mask
from graft.envs.supervision.interface import first_pair, step_error
from graft.envs.supervision.restarts import RESET_FACTOR
from graft.envs.supervision.subprocesses import SECONDS_TO_CLOSE, Subprocess


class _Served:
    """The parallel environment in its process."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def about(self) -> tuple[Any, ...]:
        env = self._env
        agents = list(getattr(env, "possible_agents", None) or [])
        spaces = {agent: (env.observation_space(agent), env.action_space(agent)) for agent in agents}
        return (
            metadata_of(env),
            getattr(env, "render_mode", None),
            agents,
            spaces,
            set(getattr(env, "masked", ())),
        )

    def reset(self, seed: int) -> Any:
        obs, infos = first_pair(self._env, {"seed": seed})
        return obs, {"any": {MASK: None}} if any_mask(infos) else {}, list(self._env.agents)

    def step(self, actions: dict[Any, Any]) -> Any:
        try:
            obs, rewards, terminated, truncated, _ = self._env.step(actions)
        except ValueError as error:
            raise step_error(error) from error.__cause__
        return obs, rewards, terminated, truncated, list(self._env.agents)

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()


class ProcessParallelEnv:
    """The part of PettingZoo's ``ParallelEnv`` that `PettingZooBatch` uses, of an environment in a process.

    A step may take ``timeout`` seconds; a reset, or making it, `RESET_FACTOR` times as long.
    """

    def __init__(self, make: Callable[[], Any], task: str, timeout: float) -> None:
        self._process = Subprocess(lambda _: _Served(make()), task)
        self._timeout = timeout
        self.agents: list[Any] = []
        about = self._process.ask(RESET_FACTOR * timeout, "about")
        self.metadata, self.render_mode, self.possible_agents, self._spaces, self.masked = about

    def observation_space(self, agent: Any) -> Any:
        return self._spaces[agent][0]

    def action_space(self, agent: Any) -> Any:
        return self._spaces[agent][1]

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        obs, infos, self.agents = self._process.ask(RESET_FACTOR * self._timeout, "reset", seed)
        return obs, infos

    def step(self, actions: dict[Any, Any]) -> tuple[Any, ...]:
        *given, self.agents = self._process.ask(self._timeout, "step", actions)
        return *given, {}

    def render(self) -> Any:
        return self._process.ask(SECONDS_TO_CLOSE, "render")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._process.ask(RESET_FACTOR * self._timeout, "close")
        self._process.end()
