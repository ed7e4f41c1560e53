"""The built-in games for two teams: ids such as ``Graft/Pursuit-v0``, the agents of a team as rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gymnasium.vector import AutoresetMode

from graft.envs.adapters.packages import READY
from graft.envs.builtin.arena.batch import ArenaBatch
from graft.envs.builtin.arena.game import ARENAS, Arena
from graft.envs.core.task import Bounds, Task, TaskVectorEnv
from graft.envs.core.team_rows import TeamRows
from graft.envs.core.teams import ALL, TeamEnv, envs_needed
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError, unknown

OPTIONS = {"team": "the team that learns, or all", "opponents": "who plays the other team: random or still"}
"""Keyword arguments beside the game's own."""

PART = "Built-in games for teams"


class ArenaAdapter:
    """One game: ``team`` (its first by default), ``opponents`` and the game's options."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.prefix = arena.id
        self.renders = True

    def ids(self) -> Iterable[str]:
        """Its one id."""
        return [self.prefix]

    def states(self) -> dict[str, str]:
        """It is always there."""
        return {PART: READY}

    def counts(self) -> dict[str, int]:
        """One game; there is an adapter for each."""
        return {PART: 1}

    def make(self, task: Task, num_envs: int, seed: int, autoreset: AutoresetMode, max_threads: int) -> TaskVectorEnv:
        """A batch of ``num_envs`` rows; it runs in the calling thread."""
        if task.id != self.prefix:
            raise unknown("task", task.id, [self.prefix])
        check_same_step(task, autoreset)
        options, render_mode = self._options(task)
        settings = self._arena.resolve(options)
        first, second = (team.name for team in self._arena.teams)
        counts = {first: settings.high_first, second: settings.high_second}
        counts[ALL] = sum(counts.values())
        team, opponents = string_option(task, "team", first), string_option(task, "opponents", "random")
        if team not in counts:
            raise unknown(f"team of {task.id}", team, counts)
        count = envs_needed(num_envs, counts[team])
        batch = ArenaBatch(self._arena.name, count, seed, autoreset, render_mode, **options)
        return TeamRows(batch, team, num_envs, opponents, seed)

    def make_teams(self, task: Task, seed: int, num_envs: int) -> TeamEnv:
        """Games with all their agents."""
        if task.id != self.prefix:
            raise unknown("task", task.id, [self.prefix])
        options, render_mode = self._options(task)
        return ArenaBatch(self._arena.name, num_envs, seed, render_mode=render_mode, **options)

    def _options(self, task: Task) -> tuple[dict[str, Any], str | None]:
        """The game's own keywords, and the render mode."""
        options = {name: value for name, value in task.kwargs.items() if name not in OPTIONS}
        render_mode = options.pop("render_mode", None)
        allowed = [*OPTIONS, *self._arena.options]
        for name in options:
            if name not in allowed:
                raise unknown(f"keyword of {task.id}", name, allowed)
        return options, render_mode

    def bounds(self, task: Task) -> Bounds | None:
        """None: what a return is worth depends on the opponents."""
        return None


def check_same_step(task: Task, autoreset: AutoresetMode) -> None:
    """Raises GraftError for the other convention, under which a row that waits for its environment can't be told."""
    if autoreset is not AutoresetMode.SAME_STEP:
        raise GraftError(
            f"Task '{task.id}' is offered under same-step autoreset alone, not '{autoreset.value}': "
            f"its agents end in mid-episode, and wait for the others."
        )


def string_option(task: Task, name: str, default: str) -> str:
    """A keyword argument that is a word."""
    value: Any = task.kwargs.get(name, default)
    if not isinstance(value, str):
        raise GraftError(f"{task.id}: {name}={value!r} is not allowed; it is a word such as '{default}'.")
    return value


for name in ARENAS:
    ADAPTERS.add(f"arena.{name}", ArenaAdapter(ARENAS[name]))
