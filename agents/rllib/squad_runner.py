"""An EnvRunner for squads: several policies act in the same games, and each has its own rollouts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.rllib.algorithm import ALGORITHMS, Algorithm
from graft.agents.rllib.module import NetworkModule
from graft.agents.rllib.rollout_collector import Array, RolloutCollector, StepResult
from graft.agents.rllib.runner import BatchRunner
from graft.envs.core.faults import Faults
from graft.envs.core.naming import rename, shared_names, split_names
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.core.teams import TeamEnv, envs_needed, schema_difference
from graft.envs.factory import make_teams
from graft.errors import GraftError


class SquadVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """N games of a task for squads; the agents of a policy's teams are a batch of rows, game by game.

    Attributes:
        teams: policy -> its teams. rows: policy -> number of rows.

    Args:
        task: its ``team`` and ``opponents`` are ignored. games: N; game i is seeded with ``seed + i``.
        plays: team -> policy, for every team.
    """

    def __init__(self, task: Task, games: int, seed: int, plays: Mapping[str, str]) -> None:
        self.squad: TeamEnv = make_teams(task, seed, games)
        self.num_envs, self._seed, self._task = games, seed, task
        self.teams: dict[str, list[str]] = {}
        for team in self.squad.teams:
            self.teams.setdefault(plays[team], []).append(team)
        slots = {policy: [a for team in teams for a in self.squad.teams[team]] for policy, teams in self.teams.items()}
        self.rows = {policy: games * len(its) for policy, its in slots.items()}
        self._slots = {policy: np.array(its) for policy, its in slots.items()}
        mine = self.schemas_of(DEFAULT_MODULE_ID)  # what RLlib asks a runner's environments for
        self.single_observation_space, self.single_action_space = mine.observation.space(), mine.action.space()
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, games)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, games)

    def schemas_of(self, policy: str) -> Schemas:
        """Schemas of a policy's rows, with the names that the task sets."""
        plain, given = split_names(self._task)
        mine, theirs = (self.squad.schemas_of(self.teams[name][0]) for name in (DEFAULT_MODULE_ID, policy))
        return rename(theirs, shared_names(given, mine, theirs), plain.id)

    @property
    def faults(self) -> Faults:
        return self.squad.faults

    def reset_policies(self, seed: int | None = None) -> dict[str, tuple[Array, Array]]:
        """First observations, and who is in play, by policy; game i is seeded with ``seed + i``."""
        obs, alive, _ = self.squad.reset(self._seed if seed is None else seed)
        return {policy: (self._obs(policy, obs), self._of(policy, alive)) for policy in self.teams}

    def step_policies(self, actions: Mapping[str, Array]) -> dict[str, StepResult]:
        chosen: dict[str, Array] = {}
        for policy, given in actions.items():
            by_game, first = given.reshape(self.num_envs, -1, *given.shape[1:]), 0
            for team in self.teams[policy]:
                size = len(self.squad.teams[team])
                chosen[team] = by_game[:, first : first + size]
                first += size
        obs, rewards, terminated, truncated, alive, infos = self.squad.step(chosen)
        last = infos.get("final_obs")
        return {
            policy: StepResult(
                self._obs(policy, obs),
                self._of(policy, rewards),
                self._of(policy, terminated),
                self._of(policy, truncated),
                self._of(policy, alive),
                None if last is None else self._obs(policy, last),
            )
            for policy in self.teams
        }

    def _of(self, policy: str, values: Array) -> Array:
        return cast(Array, values[:, self._slots[policy]].reshape(-1))

    def _obs(self, policy: str, by_team: Mapping[str, Array]) -> Array:
        parts = [by_team[team] for team in self.teams[policy]]
        joined = np.concatenate(parts, 1)
        return joined.reshape(-1, *joined.shape[2:])

    @property
    def savable(self) -> bool:
        return self.squad.savable

    def save_state(self) -> dict[str, Array]:
        return self.squad.save_state()

    def restore_state(self, saved: dict[str, Array]) -> None:
        self.squad.restore_state(saved)

    def close_extras(self, **kwargs: Any) -> None:
        self.squad.close()


class SquadRunner(BatchRunner):
    """A runner of `SquadVectorEnv`: its `Fragment` is the trained policy's, with those of the partners in ``others``.

    Its share of ``num_envs`` are rows of the trained policy, in as many games as hold them.
    """

    env: SquadVectorEnv

    def make_env(self) -> None:
        config = self.env_config
        assert config.plays is not None
        self.index = max((self.worker_index or 0) - 1, 0)
        self.num_envs = envs_needed(self.config.num_envs_per_env_runner, team_size(config.task, config.plays))
        self.env = SquadVectorEnv(config.task, self.num_envs, config.seed + self.index * self.num_envs, config.plays)

    def get_spaces(self) -> dict[str, Any]:
        spaces: dict[str, Any] = {
            INPUT_ENV_SPACES: (self.env.observation_space, self.env.action_space),
            INPUT_ENV_SINGLE_SPACES: (self.env.single_observation_space, self.env.single_action_space),
        }
        for policy in self.env.teams:
            schemas = self.env.schemas_of(policy)
            spaces[policy] = (schemas.observation.space(), schemas.action.space())
        return spaces

    def make_module(self) -> None:
        made: Any = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True).build()
        modules: dict[str, NetworkModule] = dict(made.items())
        self.module = modules[DEFAULT_MODULE_ID]
        self.collectors = {}
        config, count = self.env_config, len(self.env.teams)
        for i, policy in enumerate(sorted(self.env.teams, key=lambda name: (name != DEFAULT_MODULE_ID, name))):
            module, seed = modules[policy].to(self._device), (config.seed * 1009 + self.index) * count + i
            rows = self.env.rows[policy]
            self.collectors[policy] = RolloutCollector(module, rows, seed, config.reward_scale, self._device)

    def reset_env(self, seed: int | None = None) -> dict[str, tuple[Array, Array]]:
        return self.env.reset_policies(seed)

    def step_env(self, actions: dict[str, Array]) -> dict[str, StepResult]:
        return self.env.step_policies(actions)

    def state_prefix(self, policy: str) -> str:
        return f"player {policy}."


def team_size(task: Task, plays: Mapping[str, str]) -> int:
    """Agents of the trained policy in each game."""
    with contextlib.closing(make_teams(task, 0)) as game:
        return sum(len(its) for team, its in game.teams.items() if plays[team] == DEFAULT_MODULE_ID)


def check_algorithm(algorithm: Algorithm) -> None:
    """Raise GraftError where ``algorithm`` cannot train several policies."""
    if not algorithm.squads:
        able = ", ".join(name for name, kind in ALGORITHMS.items() if kind.squads)
        raise GraftError(f"{type(algorithm).__name__} trains one policy at a time; for squads, use {able}.")


def check(task: Task, plays: Mapping[str, str], networks: Mapping[str, PolicyNetwork]) -> None:
    """Raise GraftError where a policy's network does not fit its teams' schemas."""
    with contextlib.closing(SquadVectorEnv(task, 1, 0, plays)) as games:
        for policy, teams in games.teams.items():
            theirs, mine = games.schemas_of(policy), networks[policy].schemas
            if mine != theirs:
                raise GraftError(
                    f"The network that plays {teams[0]} of {task} {schema_difference(mine, theirs, teams[0])}; "
                    f"make it from that team's schemas."
                )
