"""One game of a task for squads as RLlib's `MultiAgentEnv`.

>>> env = SquadGame({"task": {"id": "Graft/Pursuit-v0", "kwargs": {"hunters": 2, "prey": 1}}, "seed": 5})
>>> env.possible_agents
['hunter_0', 'hunter_1', 'prey_0']

Rules of RLlib's ``MultiAgentEpisode`` (Ray 2.60) that this follows:

- An agent that ended must not appear again in its episode, and one that is truncated needs a last observation. So a
  step shows the agents that act next and those that end in it.
- An episode has ended once all of its agents have ended, whatever ``__all__`` says. So ``__all__`` says the same: where
  newcomers go on alone, RLlib's next episode begins with them, in the same game.
- Where all agents have flags of their own, RLlib marks the episode as terminated, and bootstraps nothing after a time
  limit. So agents truncated in an episode's last step are truncated by ``__all__`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from graft.envs.adapters.builtin.teams import string_option
from graft.envs.core.faults import Faults
from graft.envs.core.naming import rename, split_names
from graft.envs.core.random_actions import RandomActions, no_op
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.core.teams import ALL, RULES, Array, team_slots
from graft.envs.factory import make_teams
from graft.envs.supervision.restarts import derived_seed
from graft.errors import GraftError, unknown

SETTINGS = ("task", "seed", "render_mode", "worker_index")
MOST_IDLE_STEPS = 10_000  # most steps of the opponents until a learning agent is in play

Obs = dict[Any, Array]
Rewards = dict[Any, float]
Flags = dict[Any, bool]
Infos = dict[Any, dict[str, Any]]


class SquadGame(MultiAgentEnv):
    """One game, with observations and actions of the rows of ``envs.make`` of the same task.

    All teams learn, unless the task has a ``team``: then only its agents are shown, and its ``opponents`` (random or
    still) play the others. ``reset()`` without a seed goes on in the same random stream. RLlib gives copy i of worker w
    the seed ``s + w + i``, and so the same to several copies; in workers other than 0 it is therefore mixed with the
    worker's index. Infos of a game's last step name a team that has won: ``{"winner": "prey"}``.

    Attributes:
        task: what is played. teams: name -> agents, of the teams that are shown.
        possible_agents: in the task's order. agents: those in the latest observations, in the same order: agents that
            act next, and those that have just ended, since RLlib's check of environments wants both.

    Args:
        config: ``task`` (a `Task` or its JSON), optionally ``seed`` of the first reset (0), ``render_mode`` and
            ``worker_index`` (an attribute of RLlib's ``EnvContext``).
    Raises:
        GraftError: an unknown setting, a task that cannot be made or is not for squads, or an unknown team or rule.
    """

    agents: list[Any]
    possible_agents: list[Any]

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's
        self._first_seed: int | None
        self.task, self._first_seed, self._worker = _settings(config)
        drawn = {} if config.get("render_mode") is None else {"render_mode": config["render_mode"]}
        self._squad = make_teams(Task(self.task.id, {**self.task.kwargs, **drawn}), 0)
        try:
            self._set_teams(string_option(self.task, "team", ALL), string_option(self.task, "opponents", RULES[0]))
        except GraftError:
            self._squad.close()
            raise
        self.render_mode = getattr(self._squad, "render_mode", None)
        self.metadata = dict(getattr(self._squad, "metadata", {}))  # a copy: RLlib writes into it
        self._dice = RandomActions(1)
        self._seen: dict[str, Array] = {}
        self._alive = np.zeros((1, len(self._squad.agents)), np.bool_)
        self._episode_agents: set[str] = set()
        self._over = True
        self._frame: Any = None

    def _set_teams(self, team: str, opponents: str) -> None:
        slots = team_slots(self._squad, team)
        if opponents not in RULES:
            raise unknown("rule for opponents", opponents, RULES)
        names, all_teams = self._squad.agents, self._squad.teams
        self._opponents = opponents
        self._others = [name for name in all_teams if team not in (ALL, name)]
        self._slots = {names[a]: a for a in slots}
        self._places = {names[a]: (name, k) for name, its in all_teams.items() for k, a in enumerate(its) if a in slots}
        self.teams = {name: tuple(names[a] for a in its) for name, its in all_teams.items() if name not in self._others}
        given = split_names(self.task)[1]
        self._schemas = {name: rename(self._squad.schemas_of(name), given, self.task.id) for name in self.teams}
        self.possible_agents, self.agents = list(self._slots), []
        schemas = {agent: self.schemas_of(self.team_of(agent)) for agent in self.possible_agents}
        self.observation_spaces = {agent: own.observation.space() for agent, own in schemas.items()}
        self.action_spaces = {agent: own.action.space() for agent, own in schemas.items()}

    def team_of(self, agent: str) -> str:
        """The team of an agent; raises GraftError for one that is not shown."""
        if agent not in self._places:
            raise unknown(f"agent of {self.task}", str(agent), self._places)
        return self._places[agent][0]

    def schemas_of(self, team: str) -> Schemas:
        """Schemas of a team's agents; raises GraftError for a team that is not shown."""
        if team not in self._schemas:
            raise unknown(f"team of {self.task}", str(team), self._schemas)
        return self._schemas[team]

    @property
    def faults(self) -> Faults:
        """Faults of a third-party environment; each has truncated the agents that were in play."""
        return self._squad.faults

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, Infos]:
        """The next episode, or the first one of a seed; ``options`` are ignored.

        Raises:
            GraftError: a negative seed, or no learning agent comes into play.
            TooManyFaults: more than the task allows.
        """
        seed = self._first_seed if seed is None else _seed(seed)
        super().reset(seed=seed)
        if seed is not None:
            seed = derived_seed(seed, self._worker) if self._worker else seed
            self._dice.seed(seed)
        if seed is not None or not self._over:  # else the next game has begun already
            self._seen, self._alive, _ = self._squad.reset(seed)
        self._first_seed, self._over, self._frame = None, False, None
        for _ in range(MOST_IDLE_STEPS):
            self.agents = self._in_play()
            if self.agents:
                self._episode_agents = set(self.agents)
                return self._of(self._seen, self.agents), {agent: {} for agent in self.agents}
            self._seen, _, _, _, self._alive, _ = self._squad.step(self._actions({}))
        raise GraftError(
            f"Task {self.task}: none of {', '.join(self._slots)} came into play in {MOST_IDLE_STEPS:,} steps."
        )

    def step(  # type: ignore[override]  # as MultiAgentEnv's own, of gym.Env's
        self, action_dict: dict[Any, Any]
    ) -> tuple[Obs, Rewards, Flags, Flags, Infos]:
        """One step with an action of each agent in play, which get rewards and flags.

        Raises:
            GraftError: other actions, an episode that is over, or an agent that comes back after its end.
            TooManyFaults: more than the task allows.
        """
        if self._over:
            raise GraftError("No episode is going on; call reset before the next step.")
        acted = self._in_play()
        if set(acted) != set(action_dict):
            listed = ", ".join(map(str, action_dict)) or "none"
            raise GraftError(f"A step takes one action of each of {', '.join(acted)}; these acted: {listed}.")
        found = self._squad.step(self._actions(action_dict))
        self._seen, rewards, terminated, truncated, self._alive, infos = found
        died = {agent: bool(terminated[0, self._slots[agent]]) for agent in acted}
        cut = {agent: bool(truncated[0, self._slots[agent]]) and not died[agent] for agent in acted}
        ended = [agent for agent in acted if died[agent] or cut[agent]]
        self._over = len(ended) == len(acted)  # all earlier agents of the episode have ended
        following = [] if self._over else self._in_play()
        self._add_newcomers(following, set(acted) - set(ended))
        self.agents = [agent for agent in self._slots if agent in {*following, *ended}]
        obs = self._of(self._seen, following)
        if ended:
            obs |= self._of(infos["final_obs"], ended)
        self._frame = infos.get("final_frame", (None,))[0]
        winner = int(infos["winner"][0])
        info = {"winner": list(self._squad.teams)[winner]} if winner >= 0 else {}
        cut_off = self._over and any(cut.values())
        return (
            {agent: obs[agent] for agent in self.agents},
            {agent: float(rewards[0, self._slots[agent]]) for agent in acted},
            died | {"__all__": self._over and not cut_off},
            {agent: cut[agent] for agent in acted if not (cut_off and cut[agent])} | {"__all__": cut_off},
            {agent: dict(info) for agent in self.agents},
        )

    def _add_newcomers(self, following: list[str], going_on: set[str]) -> None:
        new = set(following) - going_on
        back = [agent for agent in following if agent in new & self._episode_agents]
        if back:
            raise GraftError(
                f"Task {self.task} brings back {', '.join(back)} after an end, which RLlib cannot record; "
                f"PettingZoo wants a new name for such an agent."
            )
        self._episode_agents |= new

    def _in_play(self) -> list[str]:
        return [agent for agent, a in self._slots.items() if self._alive[0, a]]

    def _of(self, obs: dict[str, Array], agents: list[str]) -> Obs:
        places = {agent: self._places[agent] for agent in agents}
        return {agent: obs[team][0, k] for agent, (team, k) in places.items()}

    def _actions(self, given: Mapping[str, Any]) -> dict[str, Array]:
        chosen = {}
        for team, its in self._squad.teams.items():
            schemas = self._squad.schemas_of(team)
            schema, forbidden = schemas.action, schemas.forbidden(self._seen[team])
            drawn = team in self._others and self._opponents == "random"
            size = len(its)
            chosen[team] = self._dice.actions(schema, size, forbidden) if drawn else no_op(schema, (1, size), forbidden)
        for agent, action in given.items():
            team, k = self._places[agent]
            chosen[team][0, k] = action
        return chosen

    def render(self) -> Any:
        """Image or text of the game, at its end the last one; None without a ``render_mode``."""
        if self.render_mode is None or self._frame is not None:
            return self._frame
        return (self._squad.render() or [None])[0]

    def close(self) -> None:
        self._squad.close()


def _settings(config: Mapping[str, Any]) -> tuple[Task, int, int]:
    for name in config:
        if name not in SETTINGS:
            raise unknown("setting of a squad's game", str(name), SETTINGS)
    task = config.get("task")
    if not isinstance(task, Task):
        if not isinstance(task, Mapping) or "id" not in task:
            raise GraftError(f"task={task!r} is not allowed; give a task such as {{id: Graft/Pursuit-v0}}.")
        task = Task.from_json(task)
    worker = getattr(config, "worker_index", config.get("worker_index")) or 0  # RLlib's local worker may have None
    return task, _seed(config.get("seed", 0)), int(worker)


def _seed(seed: Any) -> int:
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise GraftError(f"Seed {seed!r} is not allowed; seeds are whole numbers from 0.")
    return int(seed)
