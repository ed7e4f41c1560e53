"""Action masks of PettingZoo's parallel environments, also of turn-based ones that were converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pettingzoo.utils.conversions import turn_based_aec_to_parallel_wrapper

from graft.envs.adapters.masks import (
    Source,
    check_size,
    check_wanted,
    has_mask,
    in_info,
    rest_of,
    split_mask,
    takes_masks,
)
from graft.envs.core.action_masks import Shown
from graft.envs.supervision.restarts import EnvFailure


class MaskedParallelEnv:
    """The part of a ``ParallelEnv`` that a batch uses; agents whose actions can be masked are given `Shown`.

    Of a turn-based environment, agents whose turn it is not are idle: whatever they choose does nothing.

    Attributes:
        masked: these agents.
    """

    def __init__(self, env: Any, source: Source) -> None:
        self._env, self._source = env, source
        self.possible_agents = env.possible_agents
        self.metadata, self.render_mode = getattr(env, "metadata", None), getattr(env, "render_mode", None)
        self._spaces = {agent: env.observation_space(agent) for agent in env.possible_agents}
        self.masked = {agent for agent in env.possible_agents if takes_masks(env.action_space(agent))}

    @property
    def agents(self) -> Any:
        return self._env.agents

    def observation_space(self, agent: Any) -> Any:
        space = self._spaces[agent]
        return rest_of(space) if self._in_parts(agent) else space

    def action_space(self, agent: Any) -> Any:
        return self._env.action_space(agent)

    def reset(self, seed: int) -> Any:
        found = self._env.reset(seed=seed)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            return found  # of the old form, which is reported by who resets
        obs, infos = found
        return self._shown(obs, infos, {}, {}), infos

    def step(self, actions: dict[Any, Any]) -> Any:
        obs, rewards, terminated, truncated, infos = self._env.step(actions)
        return self._shown(obs, infos, terminated, truncated), rewards, terminated, truncated, infos

    def _in_parts(self, agent: Any) -> bool:
        return self._source == "observation" and agent in self.masked and has_mask(self._spaces[agent])

    def _shown(self, obs: Any, infos: Any, terminated: Any, truncated: Any) -> dict[Any, Any]:
        turn_based = isinstance(self._env, turn_based_aec_to_parallel_wrapper)
        turn = self._env.aec_env.agent_selection if turn_based and self._env.agents else None
        shown = {}
        for agent, seen in obs.items():
            idle = bool(terminated.get(agent) or truncated.get(agent) or (turn_based and agent != turn))
            if self._in_parts(agent):
                try:
                    shown[agent] = split_mask(seen, self._spaces[agent], idle)
                except EnvFailure as failure:
                    shown[agent] = Shown(None, failure, idle)
            elif agent in self.masked:
                info = infos.get(agent) if isinstance(infos, Mapping) else None
                shown[agent] = Shown(seen, in_info(info, idle) if self._source == "info" else None, idle)
            else:
                shown[agent] = seen
        return shown

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()


def with_masks(env: Any, task: str, wanted: bool | None) -> Any:
    """A parallel environment whose masks are shown, where it has some; others as they are.

    Args:
        wanted: whether masks are to be used, which are in infos where they are no part of observations. None: those
            that are.
    Raises:
        GraftError: a mask of another size than the actions, or wanted ones of actions that can't be masked.
    """
    if wanted is False or getattr(env, "schemas", None):  # a built-in game's
        return env
    agents = [agent for agent in getattr(env, "possible_agents", None) or () if takes_masks(env.action_space(agent))]
    in_parts = [agent for agent in agents if has_mask(env.observation_space(agent))]
    for agent in in_parts:
        check_size(task, env.observation_space(agent), env.action_space(agent))
    check_wanted(task, wanted, "info" if agents else None)
    if not in_parts and not wanted:
        return env
    return MaskedParallelEnv(env, "observation" if in_parts else "info")
