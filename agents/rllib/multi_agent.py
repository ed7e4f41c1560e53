"""Squads for RLlib: one game of a task for squads as a `MultiAgentEnv`.

>>> env = SquadGame({"task": {"id": "Graft/Pursuit-v0", "kwargs": {"hunters": 2, "prey": 1}}, "seed": 5})
>>> env.possible_agents
['hunter_0', 'hunter_1', 'prey_0']

RLlib's recorder of episodes (``MultiAgentEpisode``, Ray 2.60) sets the rules that this keeps:

- An agent whose end was recorded must not be heard of again in that episode, and one that acted and is truncated needs
  a last observation. So a step shows those that act next and those that end in it, and nobody else.
- It takes an episode for ended once everybody it has met has ended, whatever ``__all__`` says. So ``__all__`` says the
  same: where newcomers go on alone, RLlib's next episode begins with them, in the same game.
- Where all whom it knows have a flag of their own, it marks the episode, and everybody in it, as terminated: nothing
  would be bootstrapped from what a time limit cut off. So agents that are truncated in an episode's last step are
  truncated by ``__all__`` alone, without flags of their own.
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
MOST_IDLE_STEPS = 10_000
"""Steps of the others, at most, until somebody who learns comes into play."""

# By agent, whose names are any Hashable to RLlib.
Obs = dict[Any, Array]
Rewards = dict[Any, float]
Flags = dict[Any, bool]
Infos = dict[Any, dict[str, Any]]


class SquadGame(MultiAgentEnv):
    """One game, whose agents see and do what the rows of ``envs.make`` of the same task do.

    All teams learn, unless the task has a ``team``: then its agents alone are shown, and its ``opponents`` (random or
    still) play the others. Episodes follow each other as in ``envs.make``: ``reset()`` without a seed goes on in the
    same stream, and after ``reset(seed=s)`` all that follows depends on ``s`` and the actions. RLlib gives copy i of
    worker w the seed ``s + w + i``, and so the same to several; in workers other than 0 the seed that counts is
    therefore derived from the one that was given and the worker's index.

    Infos of the last step of a game that a team has won say which: ``{"winner": "prey"}``.

    Attributes:
        task: what is played. teams: name -> its agents, of the teams that are shown.
        possible_agents: in the task's order. agents: whom the last reset or step has shown something, in the same
            order: those that act next, and those that ended in it, since RLlib's check of environments wants both.

    Args:
        config: ``task``, a `Task` or its JSON, and the optional ``seed`` of the first reset without one (0),
            ``render_mode``, and ``worker_index``, which is an attribute of RLlib's ``EnvContext``.
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
            self._divide(string_option(self.task, "team", ALL), string_option(self.task, "opponents", RULES[0]))
        except GraftError:
            self._squad.close()
            raise
        self.render_mode = getattr(self._squad, "render_mode", None)
        self.metadata = dict(getattr(self._squad, "metadata", {}))  # a copy: RLlib writes into it
        self._dice = RandomActions(1)
        self._seen: dict[str, Array] = {}
        self._alive = np.zeros((1, len(self._squad.agents)), np.bool_)
        self._met: set[str] = set()  # by RLlib, in its episode
        self._over = True
        self._frame: Any = None

    def _divide(self, team: str, opponents: str) -> None:
        """Set who is shown, what those see and do, and who plays the others."""
        slots = team_slots(self._squad, team)
        if opponents not in RULES:
            raise unknown("rule for opponents", opponents, RULES)
        names, everybody = self._squad.agents, self._squad.teams
        self._opponents = opponents
        self._others = [name for name in everybody if team not in (ALL, name)]
        self._slots = {names[a]: a for a in slots}
        self._places = {names[a]: (name, k) for name, its in everybody.items() for k, a in enumerate(its) if a in slots}
        self.teams = {name: tuple(names[a] for a in its) for name, its in everybody.items() if name not in self._others}
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
        """What every agent of a team sees and does; raises GraftError for a team that is not shown."""
        if team not in self._schemas:
            raise unknown(f"team of {self.task}", str(team), self._schemas)
        return self._schemas[team]

    @property
    def faults(self) -> Faults:
        """Of the environment, where somebody else wrote it; each has truncated the agents that were in play."""
        return self._squad.faults

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, Infos]:
        """The next episode, or the first one of a seed; ``options`` are ignored, as there are none.

        Raises:
            GraftError: a negative seed, or nobody who learns comes into play.
            TooManyFaults: more than the task's rules bear.
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
                self._met = set(self.agents)
                return self._of(self._seen, self.agents), {agent: {} for agent in self.agents}
            self._seen, _, _, _, self._alive, _ = self._squad.step(self._actions({}))
        raise GraftError(
            f"Task {self.task}: none of {', '.join(self._slots)} came into play in {MOST_IDLE_STEPS:,} steps."
        )

    def step(  # type: ignore[override]  # as MultiAgentEnv's own, of gym.Env's
        self, action_dict: dict[Any, Any]
    ) -> tuple[Obs, Rewards, Flags, Flags, Infos]:
        """One step, with an action of everybody that is in play; rewards and flags belong to those.

        Raises:
            GraftError: other actions, an episode that is over, or an agent that comes back after its end.
            TooManyFaults: more than the task's rules bear.
        """
        acted = [] if self._over else self._in_play()
        if self._over or set(acted) != set(action_dict):
            raise self._refusal(acted, action_dict)
        found = self._squad.step(self._actions(action_dict))
        self._seen, rewards, terminated, truncated, self._alive, infos = found
        died = {agent: bool(terminated[0, self._slots[agent]]) for agent in acted}
        cut = {agent: bool(truncated[0, self._slots[agent]]) and not died[agent] for agent in acted}
        ended = [agent for agent in acted if died[agent] or cut[agent]]
        self._over = len(ended) == len(acted)  # all others that RLlib has met ended before
        following = [] if self._over else self._in_play()
        self._meet(following, set(acted) - set(ended))
        self.agents = [agent for agent in self._slots if agent in {*following, *ended}]
        obs = self._of(self._seen, following)
        if ended:
            obs |= self._of(infos["final_obs"], ended)
        self._frame = infos.get("final_frame", (None,))[0]
        winner = int(infos["winner"][0])
        said = {"winner": list(self._squad.teams)[winner]} if winner >= 0 else {}
        cut_off = self._over and any(cut.values())
        return (
            {agent: obs[agent] for agent in self.agents},
            {agent: float(rewards[0, self._slots[agent]]) for agent in acted},
            died | {"__all__": self._over and not cut_off},
            {agent: cut[agent] for agent in acted if not (cut_off and cut[agent])} | {"__all__": cut_off},
            {agent: dict(said) for agent in self.agents},
        )

    def _meet(self, following: list[str], going_on: set[str]) -> None:
        """Note newcomers among those that act next; raises GraftError for one that is none."""
        new = set(following) - going_on
        back = [agent for agent in following if agent in new & self._met]
        if back:
            raise GraftError(
                f"Task {self.task} brings back {', '.join(back)} after an end, which RLlib cannot record; "
                f"PettingZoo wants a new name for such an agent."
            )
        self._met |= new

    def _refusal(self, acted: list[str], given: Mapping[str, Any]) -> GraftError:
        """The error for actions that are not those of the agents in play."""
        if self._over:
            return GraftError("No episode is going on; call reset before the next step.")
        listed = ", ".join(map(str, given)) or "nobody"
        return GraftError(f"A step takes one action of each of {', '.join(acted)}; these acted: {listed}.")

    def _in_play(self) -> list[str]:
        """Who acts next, of those that are shown."""
        return [agent for agent, a in self._slots.items() if self._alive[0, a]]

    def _of(self, obs: dict[str, Array], agents: list[str]) -> Obs:
        """Observations of ``agents``, of those by team, (1, size, *shape)."""
        places = {agent: self._places[agent] for agent in agents}
        return {agent: obs[team][0, k] for agent, (team, k) in places.items()}

    def _actions(self, given: Mapping[str, Any]) -> dict[str, Array]:
        """Actions of all teams, (1, size) or (1, size, n); those that nobody gives are the opponents', or still."""
        chosen = {}
        for team, its in self._squad.teams.items():
            schema = self._squad.schemas_of(team).action
            drawn = team in self._others and self._opponents == "random"
            chosen[team] = self._dice.actions(schema, len(its)) if drawn else no_op(schema, (1, len(its)))
        for agent, action in given.items():
            team, k = self._places[agent]
            chosen[team][0, k] = action
        return chosen

    def render(self) -> Any:
        """A picture or text of the game, at its end the last one of it; None without a ``render_mode``."""
        if self.render_mode is None or self._frame is not None:
            return self._frame
        return (self._squad.render() or [None])[0]

    def close(self) -> None:
        """Let go of the environment."""
        self._squad.close()


def _settings(config: Mapping[str, Any]) -> tuple[Task, int, int]:
    """The task, the first seed and the worker's index."""
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
    """``seed`` as a number; raises GraftError for one that is not allowed."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise GraftError(f"Seed {seed!r} is not allowed; seeds are whole numbers from 0.")
    return int(seed)
