"""The declaration of a built-in game: things, mechanics, rules and reference scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.envs.builtin.engine import kernel
from graft.envs.builtin.engine.channels import KEYWORD, Channels
from graft.envs.builtin.engine.compile import specialise
from graft.envs.builtin.engine.entities import ENTITIES, PALETTES
from graft.envs.builtin.engine.mechanics import Mechanic, Value, of_game, settings
from graft.envs.builtin.engine.view import VIEWS, Show, planes_schema
from graft.envs.core.registry import Registry
from graft.envs.core.schema import ActionSchema, ObservationSchema
from graft.envs.core.task import Bounds
from graft.errors import GraftError, unknown

ACTIONS = ActionSchema("discrete", ("noop", "up", "down", "left", "right", "act"))
"""The action vocabulary of every built-in game; a game without a use for one treats it as ``noop``."""

NOOP, UP, DOWN, LEFT, RIGHT, ACT = range(6)


VIEW = "ego"  # where a task does not say


class Played(NamedTuple):
    """A game as keyword arguments make it.

    ``settings``: mechanics in force. ``palette``: name of its colours. ``options``: of the view. ``seen``: schema of
    the view, which ``show`` writes (None: the planes that the rules paint). ``channels``: how the view's planes are
    shown; its schema is that of the observations.
    """

    settings: Any
    palette: str
    options: Mapping[str, Value]
    seen: ObservationSchema
    show: Show | None
    channels: Channels


@dataclass(frozen=True)
class Game:
    """One built-in game.

    Attributes:
        id: its Gymnasium id.
        goal: one sentence on what a player must learn.
        things: names of its observation planes (`entities`), in order; the first is the player's.
        own: the mechanics that it has in addition to those of every game, and their defaults.
        meanings: attributes of things that mean something else here than in `entities`.
        begin: ``(s, i, p)`` lays out a fresh episode of environment i, which is cleared already.
        advance: ``(s, i, action, p) -> (reward, dead)`` plays one step.
        paint: ``(s, i, planes)`` writes the observation into zeroed ``planes`` (C, SIZE, SIZE).
        bounds: mean return of the random policy and of the expert, and how they were obtained; None until measured.
        limit: a mean return that no player can exceed; None where none is known.
        table: ``(p) -> numbers``: what its rules find in ``p.table``; raises GraftError where there is no
            game under them.
        movers, memo: how many moving things, and how many numbers, its rules remember.
        max_steps: steps until an episode is truncated.
    """

    id: str
    goal: str
    things: tuple[str, ...]
    begin: Any
    advance: Any
    paint: Any
    own: Mapping[str, Value] = field(default_factory=dict)
    meanings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bounds: Bounds | None = None
    limit: float | None = None
    table: Callable[[Any], NDArray[np.int64]] | None = None
    movers: int = 0
    memo: int = 0
    max_steps: int = 200

    @cached_property
    def mechanics(self) -> dict[str, Mechanic]:
        return of_game(self.own)

    @property
    def planes(self) -> ObservationSchema:
        """What its rules paint, (C, SIZE, SIZE)."""
        return planes_schema(self.things)

    def resolve(self, kwargs: Mapping[str, Any]) -> Played:
        """The game under keyword arguments: mechanics, and `OPTIONS`; raises GraftError."""
        name, palette = str(kwargs.get("view", VIEW)), kwargs.get("palette", "day")
        view = VIEWS[name]  # raises GraftError where there is none
        if palette not in PALETTES:
            raise unknown("palette", str(palette), PALETTES)
        options = {
            option.name: option.check(self.id, kwargs.get(option.name, option.default)) for option in view.options
        }
        mechanics = {name: value for name, value in kwargs.items() if name not in (*OPTIONS, *options)}
        for given in mechanics.keys() - self.mechanics.keys():
            having = [other for other, its in VIEWS.items() if given in [option.name for option in its.options]]
            if having:
                raise GraftError(f"{self.id}: {given} is an option of the view {', '.join(having)}, not of {name}.")
        rules = settings(self.id, self.mechanics, mechanics, _levels(self.id, kwargs.get("levels")))
        if self.table is not None:
            rules = rules._replace(table=self.table(rules))
        seen = self._meant(view.schema(self.things, **options))
        show = None if view.show is None else view.show(self.things, palette, **options)
        channels = Channels(seen, kwargs.get(KEYWORD, view.channels), f"{self.id} in the view {name}")
        return Played(rules, palette, options, seen, show, channels)

    def attributes(self, thing: str) -> tuple[str, ...]:
        """What a thing means in this game, sorted."""
        return tuple(sorted(self.meanings.get(thing, ENTITIES[thing].attributes)))

    def _meant(self, schema: ObservationSchema) -> ObservationSchema:
        """``schema`` with the meanings of this game, for channels and for features (``wall.row``)."""
        words = []
        for name, own in zip(schema.names, schema.attributes, strict=True):
            thing = name.partition(".")[0]
            usual = set(ENTITIES[thing].attributes) if thing in self.meanings else set()
            changed = usual and usual <= set(own)
            words.append(tuple(sorted(set(own) - usual | set(self.meanings[thing]))) if changed else own)
        return replace(schema, attributes=tuple(words))

    @cached_property
    def reset_batch(self) -> Callable[..., None]:
        return specialise(kernel.reset_batch, {"begin": self.begin, "paint": self.paint})

    @cached_property
    def step_batch(self) -> Callable[..., int]:
        rules = {"begin": self.begin, "advance": self.advance, "paint": self.paint}
        return specialise(kernel.step_batch, rules)


PLANES = "PPO on whole boards (view planes) for 2M env steps"
"""How an expert was trained before agents saw the cells around the player: it is weak."""

EGO = "PPO in the view ego for 5M env steps, with an annealed learning rate, one training"
EGO_MLP = f"{EGO} (--network '{{encoder: mlp, options: {{widths: [128, 64]}}}}')"


def measured(
    random: float, expert: float, episodes: str, random_error: str, expert_error: str, task: str, by: str = PLANES
) -> Bounds:
    """Bounds as ``graft reference`` measures them: the random policy in ``episodes`` episodes, and the expert."""
    how = (
        f"random: mean of {episodes} episodes (± {random_error}); expert: {by}, mean of 1,024 episodes "
        f"(± {expert_error}); graft reference {task}"
    )
    return Bounds(random, expert, how)


OPTIONS = {
    "view": f"how the board is shown; {VIEW} where nothing is said",
    KEYWORD: "what planes are of: names of things, their attributes, or both",
    "palette": "colours of the pixel view",
    "levels": "the range [first, end) of levels that episodes are drawn from; without it there is no end of them",
}
"""Keyword arguments that are no mechanics."""


def _levels(game: str, levels: Any) -> tuple[int, int]:
    """(first, how many) of a range of levels; (0, 0) where there is none."""
    if levels is None:
        return 0, 0
    whole = isinstance(levels, list | tuple) and len(levels) == 2 and all(type(n) is int for n in levels)
    if not whole or not 0 <= levels[0] < levels[1]:
        raise GraftError(f"{game}: levels={levels!r} is not allowed; it is a range of level numbers, as in [0, 200].")
    return levels[0], levels[1] - levels[0]


GAMES: Registry[Game] = Registry("game", "graft.envs.builtin.games", Game, "graft.games", instances=True)
