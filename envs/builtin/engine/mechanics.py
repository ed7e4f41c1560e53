"""The mechanics of the built-in games: name, range, meaning. A game says which of them it has."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graft.envs.core.keywords import unknown_keyword
from graft.errors import GraftError, nearest, unknown

Value = float | int | bool | str | tuple[str, ...]


@dataclass(frozen=True)
class Mechanic:
    """A rule that is a keyword argument.

    Attributes:
        name: the keyword. meaning: a phrase that says what it does.
        default: its value where nothing is said; its type (bool, int, float, str) is the type of all its values.
        low, high: the range of a number. choices: the values of a word; the rules see the index.
        everywhere: whether every game has it, because the engine itself applies it.
        several: whether it is a set of words, given as a list or as one word; the default ``all`` or ``none`` is a word
            besides. The rules see a number with the bit of each word set. At most 64 words.
    """

    name: str
    meaning: str
    default: Value
    low: float = 0.0
    high: float = 1.0
    choices: tuple[str, ...] = ()
    everywhere: bool = False
    several: bool = False

    @property
    def range(self) -> str:
        """As text: ``0 to 0.4``, ``true or false``, ``random, patrol or chase``."""
        if isinstance(self.default, bool):
            return "true or false"
        if self.several:
            shown = self.choices if len(self.choices) <= LISTED else (*self.choices[:3], "...", self.choices[-1])
            return f"{self.default}, or some of {', '.join(shown)}"
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        return f"{self.low:g} to {self.high:g}"

    @property
    def extremes(self) -> tuple[Value, Value]:
        """Its lowest and its highest value; of words the first and the last."""
        if self.choices:
            return self.choices[0], self.choices[-1]
        if isinstance(self.default, bool):
            return False, True
        return (int(self.low), int(self.high)) if isinstance(self.default, int) else (float(self.low), float(self.high))

    def check(self, game: str, value: Any) -> Value:
        """``value`` in the type of the default; raises GraftError for a wrong type or a value out of range."""
        if self.several:
            return self._words(game, value)
        kind = type(self.default)
        if kind is str:
            fits = value in self.choices
        elif kind is bool:
            fits = isinstance(value, bool)
        else:
            numbers = int | float if kind is float else int
            fits = isinstance(value, numbers) and not isinstance(value, bool) and self.low <= value <= self.high
        if not fits:
            whole = "a whole number from " if kind is int else "a number from " if kind is float else ""
            raise GraftError(
                f"{game}: {self.name}={value!r} is not allowed; it is {whole}{self.range} ({self.meaning})."
            )
        return kind(value)

    def _words(self, game: str, value: Any) -> tuple[str, ...] | str:
        """Those of a set, in the order of the choices, or the default; raises GraftError with the nearest word."""
        if value == self.default:
            return str(value)
        words = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        wrong = [word for word in words if word not in self.choices]
        if words and not wrong:
            return tuple(word for word in self.choices if word in words)
        near = nearest(str(wrong[0]), self.choices) if wrong else None
        hint = f" Did you mean '{near}'?" if near else ""
        raise GraftError(f"{game}: {self.name}={value!r} is not allowed; it is {self.range} ({self.meaning}).{hint}")

    def code(self, value: Value) -> float | int | bool:
        if self.several:
            words = {"all": self.choices, "none": ()}.get(str(value), value)
            bits = sum(1 << k for k, word in enumerate(self.choices) if isinstance(words, tuple) and word in words)
            return bits - (1 << 64) if bits >> 63 else bits  # the same bits as a signed number
        if isinstance(value, tuple):
            raise TypeError(f"{self.name} is one word, not {value}")
        return self.choices.index(value) if isinstance(value, str) else value


DIRECTIONS = ("down", "up", "left", "right")
BEHAVIOURS = ("mixed", "random", "patrol", "chase")
CONTROLS = ("four_ways", "sideways", "jumps", "heading")
MOVEMENTS = ("still", "falling", "rising", "sideways", "wandering", "patrolling", "chasing", "fleeing")
TOUCHES = ("deadly", "pickup", "solid", "pushable", "goal", "door", "target", "support")
COMBINATIONS = tuple(f"{movement}+{touch}" for touch in reversed(TOUCHES) for movement in MOVEMENTS)
"""Of a generated game: how its player moves, and what things do; movement m and touch t are number 8 (7 - t) + m."""

SAMPLINGS = ("uniform", "learnability")

LISTED = 12  # words of a set that a message lists

MECHANICS = {
    mechanic.name: mechanic
    for mechanic in (
        Mechanic("slip", "chance that the last move repeats instead of the chosen one", 0.0, everywhere=True),
        Mechanic("invert", "mirrored controls: up is down and left is right", False, everywhere=True),
        Mechanic("delay", "steps between choosing an action and its effect", 0, 0, 4, everywhere=True),
        Mechanic("reward_delay", "steps between earning a reward and getting it", 0, 0, 16, everywhere=True),
        Mechanic("mirror", "the board is shown with left and right exchanged", False, everywhere=True),
        Mechanic(
            "fog", "cells further than this from the player are not shown; 0 for no fog", 0, 0, 9, everywhere=True
        ),
        Mechanic(
            "noise", "chance of each cell of the planes but the player's to be wrong", 0.0, 0.0, 0.2, everywhere=True
        ),
        Mechanic("wrap", "no border: who leaves on one side comes back on the other", False),
        Mechanic("momentum", "a second step the same way covers two cells; in Race a slide lasts", False),
        Mechanic("gravity", "chance of each step that the player is pulled by one cell", 0.0),
        Mechanic("gravity_direction", "where gravity pulls", "down", choices=DIRECTIONS),
        Mechanic("enemy_speed", "share of the steps in which an enemy moves", 0.5),
        Mechanic("enemy_behaviour", "how enemies choose where to go", "mixed", choices=BEHAVIOURS),
        Mechanic("chase", "chance that a mixed enemy comes towards the player when it moves", 0.2),
        Mechanic("hazard_density", "share of the board that is deadly", 0.06, 0.0, 0.25),
        Mechanic("fall_rate", "chance that something enters a column (in Race a row) from above", 0.12, 0.0, 0.4),
        Mechanic("projectile_speed", "cells that a shot covers in a step", 1, 1, 4),
        Mechanic(
            "controls", "how the player may move, one of which each episode draws", "all", 0, 0, CONTROLS, several=True
        ),
        Mechanic("movements", "how things may move", "all", 0, 0, MOVEMENTS, several=True),
        Mechanic("touches", "what things may do to the player", "all", 0, 0, TOUCHES, several=True),
        Mechanic("ban", "combinations that no thing has", "none", 0, 0, COMBINATIONS, several=True),
        Mechanic("kinds", "most kinds of things in an episode", 4, 1, 4),
        Mechanic(
            "sampling",
            "how rules are drawn: all alike, or half of the episodes by how much is learned from them",
            "uniform",
            choices=SAMPLINGS,
        ),
    )
}
"""By name. Those of all games have no effect by default, also on random numbers."""

_named: Any = namedtuple  # whose fields a type checker wants to see; these are the registry's
Settings = _named("Settings", [*MECHANICS, "first_level", "levels", "table"])
"""All mechanics in force, as the rules receive them (``p``), the range of levels (0 levels: no end of them), and the
game's table, of no rows where it has none."""
NO_TABLE = np.zeros((0, 0), np.int64)


def of_game(own: Mapping[str, Value]) -> dict[str, Mechanic]:
    """The mechanics of a game: those of all games, and its own (name -> default)."""
    for name in own:
        if name not in MECHANICS:
            raise unknown("mechanic", name, MECHANICS)
    found = {name: mechanic for name, mechanic in MECHANICS.items() if mechanic.everywhere}
    return found | {name: replace(MECHANICS[name], default=default) for name, default in own.items()}


def settings(game: str, own: Mapping[str, Mechanic], kwargs: Mapping[str, Any], levels: tuple[int, int]) -> Any:
    """The settings of a game whose mechanics are ``own`` under keyword arguments, on ``levels`` (first, how many).

    Raises GraftError for a mechanic that is unknown or not one of this game, or a value that is not allowed.
    """
    for name in kwargs:
        if name not in own:
            if name in MECHANICS:
                raise GraftError(f"{game} has no mechanic '{name}'; allowed: {', '.join(own)}.")
            raise unknown_keyword(f"mechanic of {game}", name, own)
    rest = {name: m.default for name, m in MECHANICS.items()}
    chosen = {name: m.check(game, kwargs.get(name, m.default)) for name, m in own.items()}
    codes = {name: MECHANICS[name].code(value) for name, value in {**rest, **chosen}.items()}
    return Settings(**codes, first_level=levels[0], levels=levels[1], table=NO_TABLE)
