"""What a built-in game declares: its planes, mechanics, rules and reference scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from envs.engine import kernel
from envs.engine.compile import specialise
from envs.engine.state import SIZE
from envs.errors import GraftError, unknown
from envs.registry import Registry
from envs.schema import ActionSchema, ObservationSchema
from envs.task import Bounds

ACTIONS = ActionSchema("discrete", ("noop", "up", "down", "left", "right", "act"))
"""The action vocabulary of every built-in game; a game without a use for ``act`` treats it as ``noop``."""


@dataclass(frozen=True)
class Mechanic:
    """A rule that is a keyword argument: its default, its range, and a phrase that says what it does."""

    name: str
    default: float | bool
    low: float
    high: float
    meaning: str

    def check(self, game: str, value: Any) -> float | bool:
        """``value`` in the type of the default; raises GraftError for a wrong type or a value out of range."""
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise GraftError(f"{game}: {self.name}={value!r} is not allowed; it is true or false ({self.meaning}).")
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise GraftError(
                f"{game}: {self.name}={value!r} is not allowed; "
                f"it is a number from {self.low:g} to {self.high:g} ({self.meaning})."
            )
        return float(value)


COMMON_MECHANICS = (
    Mechanic("slip", 0.0, 0.0, 1.0, "chance that the last move repeats instead of the chosen one"),
    Mechanic("invert", False, 0, 1, "mirrored controls: up is down and left is right"),
    Mechanic("wrap", False, 0, 1, "no border: who leaves on one side comes back on the other"),
)


@dataclass(frozen=True)
class Game:
    """One built-in game.

    Attributes:
        id: its Gymnasium id.
        goal: one sentence on what a player must learn.
        planes: name -> attributes of each observation plane, in order.
        own_mechanics: what it adds to the common mechanics.
        settings: named tuple of all mechanics, in order; what the rules receive as ``p``.
        begin: ``(s, i, p)`` lays out a fresh episode of environment i; its cells are cleared already.
        advance: ``(s, i, action, p) -> (reward, dead)`` plays one step.
        paint: ``(s, i, planes)`` writes the observation into zeroed ``planes`` (C, SIZE, SIZE).
        bounds: mean return of the random policy and of the expert, and how they were obtained; None until measured.
        movers: how many moving things it needs. max_steps: steps until an episode is truncated.
    """

    id: str
    goal: str
    planes: Mapping[str, tuple[str, ...]]
    own_mechanics: tuple[Mechanic, ...]
    settings: Callable[..., Any]
    begin: Any
    advance: Any
    paint: Any
    bounds: Bounds | None = None
    movers: int = 0
    max_steps: int = 200

    @property
    def mechanics(self) -> tuple[Mechanic, ...]:
        """Common mechanics, then its own."""
        return COMMON_MECHANICS + self.own_mechanics

    @property
    def observation_schema(self) -> ObservationSchema:
        """Planes of zeros and ones, (C, SIZE, SIZE)."""
        count = len(self.planes)
        return ObservationSchema(
            kind="planes",
            names=tuple(self.planes),
            attributes=tuple(tuple(sorted(a)) for a in self.planes.values()),
            shape=(count, SIZE, SIZE),
            dtype="uint8",
            low=(0.0,) * count,
            high=(1.0,) * count,
        )

    def resolve(self, kwargs: Mapping[str, Any]) -> Any:
        """The settings for these keyword arguments; raises GraftError for an unknown mechanic or a bad value."""
        by_name = {m.name: m for m in self.mechanics}
        for name in kwargs:
            if name not in by_name:
                raise unknown(f"mechanic of {self.id}", name, by_name)
        return self.settings(**{name: m.check(self.id, kwargs.get(name, m.default)) for name, m in by_name.items()})

    @cached_property
    def reset_batch(self) -> Callable[..., None]:
        """The compiled reset of a batch (`envs.engine.kernel.reset_batch`)."""
        return specialise(kernel.reset_batch, {"begin": self.begin, "paint": self.paint})

    @cached_property
    def step_batch(self) -> Callable[..., int]:
        """The compiled step of a batch (`envs.engine.kernel.step_batch`)."""
        rules = {"begin": self.begin, "advance": self.advance, "paint": self.paint}
        return specialise(kernel.step_batch, rules)


GAMES: Registry[Game] = Registry("game", "envs.games")
