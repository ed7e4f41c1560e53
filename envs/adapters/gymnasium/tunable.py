"""Gymnasium environments whose physical constants are keyword arguments: fixed, or randomised.

A provider declares the constants of an id (`TunableSpec`); ``noise``, ``delay`` and ``stuck`` are the same for all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from graft.envs.adapters.gymnasium.adapter import GymnasiumAdapter, GymnasiumVectorEnv, env_names
from graft.envs.adapters.gymnasium.privileged import KEYWORDS, PrivilegedObservation, split_parts
from graft.envs.adapters.gymnasium.randomisation import Randomisation, parse
from graft.envs.builtin.engine.mechanics import Mechanic
from graft.envs.core.keywords import unknown_keyword
from graft.envs.core.random_actions import no_op
from graft.envs.core.schema import ActionSchema
from graft.envs.core.task import BatchOptions, Task, TaskVectorEnv
from graft.envs.factory import ADAPTERS
from graft.envs.supervision.subprocesses import Bools
from graft.envs.supervision.supervised_batch import SingleEnv, SupervisedBatch
from graft.errors import GraftError

Values = Mapping[str, Any]

CHANNEL = (
    Mechanic("noise", "standard deviation of what is added to every feature, in its own unit", 0.0, 0.0, 1.0),
    Mechanic("delay", "steps between choosing an action and its effect", 0, 0, 10),
    Mechanic("stuck", "chance that the last action happens again instead of the chosen one", 0.0, 0.0, 1.0),
)
"""Mechanics of all of these environments: what lies between agent and environment."""


@dataclass(frozen=True)
class TunableSpec:
    """The mechanics of an id's environments.

    Attributes:
        mechanics: of the environment as a whole.
        connect: from an unwrapped environment, a function that sets values (name -> value) in it. That is called
            before each reset and whenever values change, and starts from the original each time.
        parts: from an unwrapped environment, mechanics of its parts, such as its bodies.
        stems: how keywords of parts begin -> what they are, for messages and lists.
        idle: the discrete action that does nothing, counted from 0.
        aliases: other names of mechanics -> their own: what the environment's class calls them, and what others do.
    """

    mechanics: tuple[Mechanic, ...]
    connect: Callable[[Any], Callable[[Values], None]]
    parts: Callable[[Any], tuple[Mechanic, ...]] = lambda env: ()
    stems: Mapping[str, str] = field(default_factory=dict)
    idle: int = 0
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Keywords that do not depend on the model."""
        return tuple(m.name for m in (*self.mechanics, *CHANNEL))

    def renamed(self, task: str, kwargs: Values) -> dict[str, Any]:
        """``kwargs`` with mechanics under their own names; raises GraftError for one that is given twice."""
        for name, own in self.aliases.items():
            if name in kwargs and own in kwargs:
                raise GraftError(f"{task}: '{name}' is another name of '{own}'; give one of them.")
        return {self.aliases.get(name, name): value for name, value in kwargs.items()}

    def split(self, kwargs: Values) -> tuple[dict[str, Any], dict[str, Any]]:
        """Keywords that are mechanics, and the others."""
        stems = tuple(self.stems)
        own = {k: v for k, v in kwargs.items() if k in self.names or (stems and k.startswith(stems))}
        return own, {k: v for k, v in kwargs.items() if k not in own}


class TunableWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """One environment under its mechanics.

    Attributes:
        mechanics: all of them, in the order of ``values`` (K,) float32, those in force.
        drawn: whether values are drawn at resets, and whether also within episodes.

    Raises GraftError for an unknown mechanic among ``given``, or a value that is not allowed.
    """

    def __init__(self, env: SingleEnv, spec: TunableSpec, given: Values, task: str) -> None:
        super().__init__(env)
        self.mechanics = (*spec.mechanics, *spec.parts(env.unwrapped), *CHANNEL)
        names = [m.name for m in self.mechanics]
        for name in given:
            if name not in names:
                raise unknown_keyword(f"mechanic of {task}", name, names, limit=len(names))
        self._randomisation = Randomisation(
            {m.name: parse(task, m, given.get(m.name, m.default)) for m in self.mechanics}
        )
        self.drawn = bool(self._randomisation.drawn), self._randomisation.recurring
        self._recurring = self._randomisation.recurring
        self._set = spec.connect(env.unwrapped)
        self._idle = _idle(env.action_space, spec.idle)
        space: Any = env.observation_space
        self._bounds = space if np.isfinite([space.low, space.high]).any() else None
        longest = next(int(m.high) for m in CHANNEL if m.name == "delay")
        self._chosen: deque[Any] = deque(maxlen=longest + 1)
        self._apply()
        if not (self._randomisation.drawn or self._between or self._noise):
            self.step = env.step  # type: ignore[method-assign]  # nothing to add: not even a call

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._randomisation.seed(seed)
        if self._randomisation.drawn:
            self._randomisation.reset()
            self._apply()
        self._chosen.extend([self._idle] * (self._chosen.maxlen or 0))
        self._last = self._idle
        obs, info = self.env.reset(seed=seed, options=options)
        return self._noisy(obs) if self._noise else obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; values that are due are drawn after it, so that ``values`` are always those of the step to come."""
        if self._between:
            action = self._effective(action)
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._noise:
            obs = self._noisy(obs)
        if self._recurring and not (terminated or truncated) and self._randomisation.advance():
            self._apply()
        return obs, reward, terminated, truncated, info

    def _apply(self) -> None:
        values = self._randomisation.values
        self._set(values)
        self._noise, self._delay, self._stuck = values["noise"], values["delay"], values["stuck"]
        # Where values change within an episode, actions are kept from its first step on.
        self._between = bool(self._delay or self._stuck or self._recurring)
        self.values = np.array([values[m.name] for m in self.mechanics], np.float32)

    def _effective(self, action: Any) -> Any:
        self._chosen.append(action)
        due = self._chosen[-1 - self._delay]
        if self._stuck and self._randomisation.stream("stuck happens").random() < self._stuck:
            due = self._last
        self._last = due
        return due

    def _noisy(self, obs: Any) -> Any:
        rng, space = self._randomisation.stream("noise happens"), self._bounds
        noisy = obs + self._noise * rng.standard_normal(obs.shape, dtype=obs.dtype)
        return noisy if space is None else np.minimum(np.maximum(noisy, space.low), space.high)


def _idle(space: gym.Space[Any], first: int) -> Any:
    if isinstance(space, gym.spaces.Discrete):
        return np.int64(int(space.start) + first)
    assert isinstance(space, gym.spaces.Box)
    names = tuple(map(str, range(space.shape[0])))
    box = ActionSchema("box", names, tuple(space.low.tolist()), tuple(space.high.tolist()))
    return no_op(box, ()).astype(space.dtype)


class TunableVectorEnv(GymnasiumVectorEnv):
    """A batch of `TunableWrapper` environments.

    ``infos["dynamics"]`` (N, K) float32 of every reset and step holds the values of ``mechanics`` for the step to come,
    ``infos["final_dynamics"]`` beside ``final_obs`` those of the episodes that ended.
    """

    def __init__(self, batch: SupervisedBatch, task: str, options: BatchOptions) -> None:
        super().__init__(batch, task, options)
        self.mechanics: tuple[Mechanic, ...] = batch.first.get_wrapper_attr("mechanics")
        self._at_resets, self._within = batch.first.get_wrapper_attr("drawn")
        self._gather()

    def _gather(self) -> None:
        self._dynamics: NDArray[np.float32] = np.stack(self._batch.attribute("values"))
        self._dynamics.flags.writeable = False  # handed out until the next change

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, infos = super().reset(seed=seed, options=options)
        self._gather()
        return obs, {**infos, "dynamics": self._dynamics}

    def step(self, actions: Any) -> tuple[Any, NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        before, beginning = self._dynamics, bool(self._waiting.any())
        obs, rewards, terminated, truncated, infos = super().step(actions)
        if "final_obs" in infos:
            infos["final_dynamics"] = before
        if self._within or (self._at_resets and (beginning or "final_obs" in infos)):
            self._gather()
        infos["dynamics"] = self._dynamics
        return obs, rewards, terminated, truncated, infos


class TunableAdapter(GymnasiumAdapter):
    """Gymnasium's ids in ``table``, with their mechanics as keywords."""

    def __init__(self, table: Mapping[str, TunableSpec]) -> None:
        self.table = dict(table)

    @property
    def prefixes(self) -> tuple[str, ...]:
        return tuple(self.table)

    def ids(self) -> Iterable[str]:
        return self.prefixes

    def states(self) -> dict[str, str]:
        """None: they are those of Gymnasium's adapter."""
        return {}

    def counts(self) -> dict[str, int]:
        return {}

    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        spec = self.table.get(task.id)
        if spec is None:  # an id that begins like one of the table
            return super().make(task, options)
        parts, steps, kwargs = split_parts(task.id, task.kwargs)
        given, rest = spec.split(spec.renamed(task.id, kwargs))

        def wrap(env: SingleEnv) -> SingleEnv:
            tunable = TunableWrapper(env, spec, given, task.id)
            if not parts:
                return tunable
            return PrivilegedObservation(tunable, parts, steps, *env_names(env, task.id))

        names = (*KEYWORDS, *spec.names, *(f"{stem}<{what}>" for stem, what in spec.stems.items()))
        batch = self.supervised(Task(task.id, rest), options, wrap, names)
        return TunableVectorEnv(batch, task.id, options)


def tunable_envs() -> dict[str, TunableSpec]:
    """Every id whose constants are mechanics."""
    adapters = [adapter for _, adapter in ADAPTERS.items() if isinstance(adapter, TunableAdapter)]
    return {name: spec for adapter in adapters for name, spec in adapter.table.items()}
