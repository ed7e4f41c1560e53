"""The declaration of a game for two teams: teams, mechanics and rules; and its settings under keyword arguments."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from graft.envs.builtin.arena import kernel
from graft.envs.builtin.arena.view import RADIUS, paint
from graft.envs.builtin.engine.compile import specialise
from graft.envs.builtin.engine.mechanics import Mechanic, Value
from graft.envs.core.registry import Registry
from graft.errors import GraftError, unknown

LARGEST = 8  # agents of a team, at most
Size = int | tuple[int, int]  # of a team: a number, or a range from which it is drawn at each reset

MECHANICS = {
    mechanic.name: mechanic
    for mechanic in (
        Mechanic("walls", "share of the board that is walled", 0.08, 0.0, 0.15, everywhere=True),
        Mechanic("sight", "cells that an agent sees on each side", RADIUS, 1, RADIUS, everywhere=True),
        Mechanic("max_steps", "steps after which a game is decided", 80, 10, 500, everywhere=True),
        Mechanic("catchers", "hunters that it takes to catch a prey", 1, 1, 3),
        Mechanic("reach", "cells within which hunters catch, diagonals included; 0 for the prey's own cell", 0, 0, 2),
        Mechanic("prey_speed", "share of the steps in which a prey moves", 1.0),
        Mechanic("coins", "coins on the board at the start", 12, 1, 30),
        Mechanic("fights", "whether an agent that is outnumbered dies", True),
    )
}
"""By name: all keyword arguments but the sizes of the teams."""

_named: Any = namedtuple  # whose fields a type checker wants to see; these are the registry's
Settings = _named("Settings", ["low_first", "high_first", "low_second", "high_second", "hunts", *MECHANICS])
"""What the rules receive (``p``): the range of sizes of both teams, whether the first hunts, and the mechanics.

The slots of the first team are those before ``high_first``.
"""


class Team(NamedTuple):
    """A team: its ``name``, what one ``member`` is called, and its ``size`` where nothing is said."""

    name: str
    member: str
    size: Size


@dataclass(frozen=True)
class Arena:
    """One game for two teams.

    Attributes:
        name: short name, as `parallel_env` takes it. id: of its task.
        goal: one sentence on what the teams are after.
        teams: the two teams.
        begin: ``(s, i, p)`` lays out a fresh episode in the cleared environment i, whose agents in play are alive.
        advance: ``(s, i, actions, p, rewards) -> winner`` plays a step: writes ``rewards`` (A,), which are zero, and
            returns -1 while the game goes on, -2 for a draw, else the index of the team that has won.
        own: the mechanics that it has in addition to those of every arena, and their defaults.
        hunts: whether the first team hunts the second.
    """

    name: str
    id: str
    goal: str
    teams: tuple[Team, Team]
    begin: Any
    advance: Any
    own: Mapping[str, Value] = field(default_factory=dict)
    hunts: bool = False

    @cached_property
    def mechanics(self) -> dict[str, Mechanic]:
        found = {name: mechanic for name, mechanic in MECHANICS.items() if mechanic.everywhere}
        return found | {name: replace(MECHANICS[name], default=default) for name, default in self.own.items()}

    @property
    def options(self) -> list[str]:
        return [*(team.name for team in self.teams), *self.mechanics]

    def resolve(self, kwargs: Mapping[str, Any]) -> Any:
        """The settings under keyword arguments. Raises GraftError: an unknown name, or a value that is not allowed."""
        for name in kwargs:
            if name not in self.options:
                raise unknown(f"keyword of {self.id}", name, self.options)
        (low, high), (least, most) = (_range(self.id, t.name, kwargs.get(t.name, t.size)) for t in self.teams)
        rest = {name: mechanic.default for name, mechanic in MECHANICS.items()}
        chosen = {name: m.check(self.id, kwargs.get(name, m.default)) for name, m in self.mechanics.items()}
        settings = Settings(low, high, least, most, self.hunts, **{**rest, **chosen})
        if self.hunts and settings.catchers > low:
            raise GraftError(
                f"{self.id}: catchers={settings.catchers} is not allowed with {low} {self.teams[0].name} in play; "
                f"it is at most the smallest size of that team."
            )
        return settings

    @cached_property
    def reset_batch(self) -> Callable[..., None]:
        return specialise(kernel.reset_batch, {"begin": self.begin, "paint": paint})

    @cached_property
    def step_batch(self) -> Callable[..., int]:
        return specialise(kernel.step_batch, {"begin": self.begin, "advance": self.advance, "paint": paint})


def _range(game: str, team: str, size: Any) -> tuple[int, int]:
    ends = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(ends) != 2 or not all(type(n) is int for n in ends) or not 1 <= ends[0] <= ends[1] <= LARGEST:
        raise GraftError(
            f"{game}: {team}={size!r} is not allowed; it is a number of agents from 1 to {LARGEST}, or a range "
            f"such as [1, 4] from which it is drawn in each episode."
        )
    return ends[0], ends[1]


ARENAS: Registry[Arena] = Registry("arena", "graft.envs.builtin.arena.rules", Arena, "graft.arenas", instances=True)
