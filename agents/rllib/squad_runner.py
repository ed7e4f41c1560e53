"""An EnvRunner whose environments are games of squads: several policies act, and each has what it saw recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.rllib.algorithm import ALGORITHMS, Algorithm
from graft.agents.rllib.module import NetworkModule
from graft.agents.rllib.rollout_collector import Array, Player, Seen
from graft.agents.rllib.runner import BatchRunner, Fragment, RunnerEnvConfig, fragment_of
from graft.envs.core.faults import Faults
from graft.envs.core.naming import rename, shared_names, split_names
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.core.teams import TeamEnv, envs_needed, schema_difference
from graft.envs.factory import make_teams
from graft.errors import GraftError


class Games(gym.vector.VectorEnv[Any, Any, Any]):
    """N games of a task for squads; the agents of each policy's teams are a batch of rows, game by game.

    Attributes:
        teams: policy -> its teams. rows: policy -> how many rows it has.

    Args:
        task: whose ``team`` and ``opponents`` do not count here. games: N; game i is seeded with ``seed + i``.
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
        """What each of its rows sees and does, under the names that the task gives to what its team sees and does."""
        plain, given = split_names(self._task)
        mine, theirs = (self.squad.schemas_of(self.teams[name][0]) for name in (DEFAULT_MODULE_ID, policy))
        return rename(theirs, shared_names(given, mine, theirs), plain.id)

    @property
    def faults(self) -> Faults:
        """Of the environments, where somebody else wrote them."""
        return self.squad.faults

    def begin(self) -> dict[str, tuple[Array, Array]]:
        """Fresh games: observations (rows, ...), and who is in play (rows,), by policy."""
        obs, alive, _ = self.squad.reset(self._seed)
        return {policy: (self._obs(policy, obs), self._of(policy, alive)) for policy in self.teams}

    def play(self, actions: Mapping[str, Array]) -> dict[str, Seen]:
        """One step of all games, with the actions of each policy's rows."""
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
            policy: Seen(
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
        """(games, agents) -> (rows,)."""
        found: Array = values[:, self._slots[policy]].reshape(-1)
        return found

    def _obs(self, policy: str, by_team: Mapping[str, Array]) -> Array:
        """Observations of a policy's rows, a copy of its own."""
        parts = [by_team[team] for team in self.teams[policy]]
        found = np.concatenate(parts, 1)
        return found.reshape(-1, *found.shape[2:])

    def save_state(self) -> dict[str, Array]:
        """All that the future of the games depends on."""
        return self.squad.save_state()

    def restore_state(self, saved: dict[str, Array]) -> None:
        """Inverse of `save_state`."""
        self.squad.restore_state(saved)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the games."""
        self.squad.close()


class SquadRunner(BatchRunner):
    """A runner of `Games`: its `Fragment` is of the policy that training is about, with its partners' beside it.

    Its share of ``num_envs`` are rows of that policy, in as many games as hold them.
    """

    env: Games  # type: ignore[assignment]

    def make_env(self) -> None:
        """The runner's share of the games."""
        world: RunnerEnvConfig = self.config.env_config["world"]
        assert world.plays is not None
        self.index = max((self.worker_index or 0) - 1, 0)
        own = size(world.task, world.plays)
        self.num_envs = envs_needed(self.config.num_envs_per_env_runner, own)
        self.env = Games(world.task, self.num_envs, world.seed + self.index * self.num_envs, world.plays)
        self._world = world

    def get_spaces(self) -> dict[str, Any]:
        """Those of each policy."""
        spaces: dict[str, Any] = {
            INPUT_ENV_SPACES: (self.env.observation_space, self.env.action_space),
            INPUT_ENV_SINGLE_SPACES: (self.env.single_observation_space, self.env.single_action_space),
        }
        for policy in self.env.teams:
            found = self.env.schemas_of(policy)
            spaces[policy] = (found.observation.space(), found.action.space())
        return spaces

    def make_module(self) -> None:
        """All policies, each with a player."""
        spec = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        made: Any = spec.build()
        self.modules: dict[str, NetworkModule] = dict(made.items())
        self.module = self.modules[DEFAULT_MODULE_ID]
        self.players: dict[str, Player] = {}
        world, count = self._world, len(self.env.teams)
        for i, policy in enumerate(sorted(self.env.teams, key=lambda name: (name != DEFAULT_MODULE_ID, name))):
            module, seed = self.modules[policy].to(self._device), (world.seed * 1009 + self.index) * count + i
            self.players[policy] = Player(module, self.env.rows[policy], seed, world.reward_scale, self._device)

    def sample(self, **_: Any) -> Fragment:  # type: ignore[override]  # arrays, not episodes
        """``rollout_fragment_length`` steps of every game."""
        length = self.config.rollout_fragment_length
        if not self.players[DEFAULT_MODULE_ID].started:
            for policy, (obs, alive) in self.env.begin().items():
                self.players[policy].start(obs, alive)
        for player in self.players.values():
            player.begin(length)
        for _step in range(length):
            seen = self.env.play({policy: player.act() for policy, player in self.players.items()})
            for policy, player in self.players.items():
                player.see(seen[policy])
        found = {policy: fragment_of(player, self.config) for policy, player in self.players.items()}
        return found.pop(DEFAULT_MODULE_ID)._replace(others=found)

    def load_weights(self, weights: Mapping[str, Mapping[str, Array]]) -> None:
        """Of all policies' networks, by name."""
        for policy, found in weights.items():
            network: PolicyNetwork = self.modules[policy].network
            network.load_exactly({name: torch.as_tensor(array) for name, array in found.items()})

    def save(self) -> dict[str, Array]:
        """What its next samples depend on, beside the weights."""
        found = {f"batch.{name}": array.copy() for name, array in self.env.save_state().items()}
        for policy, player in self.players.items():
            found |= {f"player {policy}.{name}": array for name, array in player.save().items()}
        return found

    def restore(self, saved: Mapping[str, Array]) -> None:
        """Inverse of `save`."""
        self.env.restore_state(_under("batch.", saved))
        for policy, player in self.players.items():
            player.restore(_under(f"player {policy}.", saved))


def _under(start: str, saved: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(start): array for name, array in saved.items() if name.startswith(start)}


def size(task: Task, plays: Mapping[str, str]) -> int:
    """Agents of the policy that training is about in each game."""
    game = make_teams(task, 0)
    try:
        return sum(len(its) for team, its in game.teams.items() if plays[team] == DEFAULT_MODULE_ID)
    finally:
        game.close()


def check_algorithm(algorithm: Algorithm) -> None:
    """Raise GraftError where it cannot train the policies of several teams at once."""
    if not algorithm.squads:
        able = ", ".join(name for name, kind in ALGORITHMS.items() if kind.squads)
        raise GraftError(f"{type(algorithm).__name__} trains one policy at a time; for squads, use {able}.")


def check(task: Task, plays: Mapping[str, str], networks: Mapping[str, PolicyNetwork]) -> None:
    """Raise GraftError where a policy's network was not made for what its teams see and do."""
    games = Games(task, 1, 0, plays)
    try:
        for policy, teams in games.teams.items():
            theirs, mine = games.schemas_of(policy), networks[policy].schemas
            if mine != theirs:
                raise GraftError(
                    f"The network that plays {teams[0]} of {task} {schema_difference(mine, theirs, teams[0])}; "
                    f"make it from that team's schemas."
                )
    finally:
        games.close()
