"""The built-in games for two teams, ids such as ``Graft/Pursuit-v0``: the agents of a team are rows of a batch."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode

from graft.envs.adapters.packages import READY
from graft.envs.builtin.arena.batch import ArenaBatch
from graft.envs.builtin.arena.game import ARENAS, Arena
from graft.envs.builtin.engine.channels import KEYWORD, NAMES
from graft.envs.core.task import Adapter, BatchOptions, Task, TaskVectorEnv
from graft.envs.core.team_rows import TeamRows
from graft.envs.core.teams import ALL, TeamEnv, envs_needed
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError, unknown

OPTIONS = {"team": "the team that learns, or all", "opponents": "who plays the other team: random or still"}
"""Keyword arguments of all these games."""


class ArenaAdapter(Adapter):
    """The games for two teams: ``team`` (the first by default), ``opponents`` and the game's options."""

    renders = has_teams = own_planes = True

    def __init__(self) -> None:
        self._arenas = {arena.id: arena for _, arena in ARENAS.items()}

    @property
    def prefixes(self) -> tuple[str, ...]:
        return tuple(self._arenas)

    def states(self) -> dict[str, str]:
        return {"Built-in games for teams": READY}

    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        arena, given, _, _ = self._resolve(task)
        check_same_step(task, options.autoreset)
        settings, (first, second) = arena.resolve(given), (team.name for team in arena.teams)
        counts = {first: settings.high_first, second: settings.high_second}
        counts[ALL] = sum(counts.values())
        team, opponents = string_option(task, "team", first), string_option(task, "opponents", "random")
        if team not in counts:
            raise unknown(f"team of {task.id}", team, counts)
        games = self.make_teams(task, options._replace(num_envs=envs_needed(options.num_envs, counts[team])))
        return TeamRows(games, team, options.num_envs, opponents, options.seed)

    def make_teams(self, task: Task, options: BatchOptions) -> TeamEnv:
        arena, given, render_mode, planes = self._resolve(task)
        return ArenaBatch(arena.name, options.num_envs, options.seed, options.autoreset, render_mode, planes, **given)

    def _resolve(self, task: Task) -> tuple[Arena, dict[str, Any], str | None, Any]:
        """The game, its own keywords, the render mode, and `channels`."""
        if task.id not in self._arenas:
            raise unknown("task", task.id, self._arenas)
        arena = self._arenas[task.id]
        given = {name: value for name, value in task.kwargs.items() if name not in OPTIONS}
        render_mode = given.pop("render_mode", None)
        planes = given.pop(KEYWORD, NAMES)
        allowed = [*OPTIONS, KEYWORD, *arena.options]
        for name in given:
            if name not in allowed:
                raise unknown(f"keyword of {task.id}", name, allowed)
        return arena, given, render_mode, planes


def check_same_step(task: Task, autoreset: AutoresetMode) -> None:
    """Raises GraftError for next-step autoreset, where rows that wait for their game cannot be distinguished."""
    if autoreset is not AutoresetMode.SAME_STEP:
        raise GraftError(
            f"Task '{task.id}' is offered under same-step autoreset alone, not '{autoreset.value}': "
            f"its agents end in mid-episode, and wait for the others."
        )


def string_option(task: Task, name: str, default: str) -> str:
    """A keyword argument that is a string."""
    value: Any = task.kwargs.get(name, default)
    if not isinstance(value, str):
        raise GraftError(f"{task.id}: {name}={value!r} is not allowed; it is a word such as '{default}'.")
    return value


ADAPTERS.add("arena", ArenaAdapter())
