"""Gymnasium environments whose mechanics are keyword arguments, as those of built-in games are: fixed, or drawn.

A provider declares what can be changed of an id (`TunableSpec`); the same three mechanics lie between agent and environment
everywhere: ``noise``, ``delay`` and ``stuck``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from graft.envs.adapters.gymnasium.adapter import GymnasiumAdapter, GymnasiumVectorEnv, env_names
from graft.envs.adapters.gymnasium.flatten import FlattenObservation
from graft.envs.adapters.gymnasium.privileged import KEYWORDS, PrivilegedObservation, split
from graft.envs.adapters.gymnasium.randomisation import Randomisation, parse
from graft.envs.builtin.engine.mechanics import Mechanic
from graft.envs.core.random_actions import no_op
from graft.envs.core.schema import ActionSchema
from graft.envs.core.task import Task, TaskVectorEnv
from graft.envs.factory import ADAPTERS
from graft.envs.supervision.supervised_batch import Bools, SingleEnv, SupervisedBatch
from graft.errors import unknown

Values = Mapping[str, Any]

CHANNEL = (
    Mechanic("noise", "standard deviation of what is added to every feature, in its own unit", 0.0, 0.0, 1.0),
    Mechanic("delay", "steps between choosing an action and its effect", 0, 0, 10),
    Mechanic("stuck", "chance that the last action happens again instead of the chosen one", 0.0, 0.0, 1.0),
)
"""What every one of these environments has, because it lies between the agent and the environment."""


@dataclass(frozen=True)
class TunableSpec:
    """What can be changed about the environments of an id.

    Attributes:
        mechanics: of the environment as a whole.
        connect: given an unwrapped environment, what puts values (name -> value) into it. It is called before each
            reset and whenever values change, and starts from the original each time.
        parts: given an unwrapped environment, mechanics of its parts, such as its bodies.
        stems: how keywords of parts begin -> what they are, for messages and lists.
        idle: the action that does least, of discrete ones, counted from 0.
    """

    mechanics: tuple[Mechanic, ...]
    connect: Callable[[Any], Callable[[Values], None]]
    parts: Callable[[Any], tuple[Mechanic, ...]] = lambda env: ()
    stems: Mapping[str, str] = field(default_factory=dict)
    idle: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Keywords that do not depend on the model."""
        return tuple(m.name for m in (*self.mechanics, *CHANNEL))

    def split(self, kwargs: Values) -> tuple[dict[str, Any], dict[str, Any]]:
        """Keywords that are mechanics, and the others."""
        stems = tuple(self.stems)
        own = {k: v for k, v in kwargs.items() if k in self.names or (stems and k.startswith(stems))}
        return own, {k: v for k, v in kwargs.items() if k not in own}


class TunableWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """One environment under its mechanics.

    Attributes:
        mechanics: all that it has, in the order of ``values``.
        values: those in force, (K,) float32; replaced by another array when one changes.

    Args:
        given: keyword arguments that are mechanics.
        task: id, for messages.
    Raises:
        GraftError: an unknown part, or a value that is not allowed.
    """

    def __init__(self, env: SingleEnv, knobs: TunableSpec, given: Values, task: str) -> None:
        super().__init__(env)
        self.mechanics = (*knobs.mechanics, *knobs.parts(env.unwrapped), *CHANNEL)
        names = [m.name for m in self.mechanics]
        stranger = next((name for name in given if name not in names), None)
        if stranger is not None:
            raise unknown(f"mechanic of {task}", stranger, names, limit=len(names))
        self._draws = Randomisation({m.name: parse(task, m, given.get(m.name, m.default)) for m in self.mechanics})
        self._recurring = self._draws.recurring
        self._put = knobs.connect(env.unwrapped)
        self._idle = _idle(env.action_space, knobs.idle)
        space: Any = env.observation_space
        self._sight = space if np.isfinite([space.low, space.high]).any() else None
        longest = next(int(m.high) for m in CHANNEL if m.name == "delay")
        self._chosen: deque[Any] = deque(maxlen=longest + 1)
        self._apply()
        if not (self._draws.drawn or self._between or self._noise):
            self.step = env.step  # type: ignore[method-assign]  # nothing to add: not even a call

    @property
    def drawn(self) -> tuple[bool, bool]:
        """Whether values are drawn at resets, and whether also within episodes."""
        return self._draws.drawn, self._recurring

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw, then begin an episode; a seed also starts the random numbers of the mechanics."""
        if seed is not None:
            self._draws.seed(seed)
        if self._draws.drawn:
            self._draws.reset()
            self._apply()
        self._chosen.extend([self._idle] * (self._chosen.maxlen or 0))
        self._last = self._idle
        obs, info = self.env.reset(seed=seed, options=options)
        return self._seen(obs) if self._noise else obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; values that are due are drawn after it, so that ``values`` are always those of the step to come."""
        if self._between:
            action = self._happening(action)
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._noise:
            obs = self._seen(obs)
        if self._recurring and not (terminated or truncated) and self._draws.advance():
            self._apply()
        return obs, reward, terminated, truncated, info

    def _apply(self) -> None:
        """Put the values into the environment."""
        values = self._draws.values
        self._put(values)
        self._noise, self._delay, self._stuck = values["noise"], values["delay"], values["stuck"]
        # Where values change within an episode, actions are kept from its first step on.
        self._between = bool(self._delay or self._stuck or self._recurring)
        self.values = np.array([values[m.name] for m in self.mechanics], np.float32)

    def _happening(self, action: Any) -> Any:
        """The action that takes effect when ``action`` is chosen."""
        self._chosen.append(action)
        due = self._chosen[-1 - self._delay]
        if self._stuck and self._draws.stream("stuck happens").random() < self._stuck:
            due = self._last
        self._last = due
        return due

    def _seen(self, obs: Any) -> Any:
        """``obs`` (n,) with noise, within its space."""
        rng, space = self._draws.stream("noise happens"), self._sight
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

    ``infos["dynamics"]`` (N, K) float32 of every reset and step holds the values of `mechanics` that are in force for
    the step to come, for a teacher that sees them. ``infos["final_dynamics"]`` stands beside ``final_obs``, with those
    of the episodes that ended.
    """

    def __init__(self, guarded: SupervisedBatch, task: str, seed: int, autoreset: AutoresetMode) -> None:
        super().__init__(guarded, task, seed, autoreset)
        first = guarded.first
        self.mechanics: tuple[Mechanic, ...] = first.get_wrapper_attr("mechanics")
        self._at_resets, self._within = first.get_wrapper_attr("drawn")
        self._gather()

    def _gather(self) -> None:
        self._dynamics: NDArray[np.float32] = np.stack(self._batch.attribute("values"))
        self._dynamics.flags.writeable = False  # handed out until the next change

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Fresh episodes, under fresh values where they are drawn."""
        obs, infos = super().reset(seed=seed, options=options)
        self._gather()
        return obs, {**infos, "dynamics": self._dynamics}

    def step(self, actions: Any) -> tuple[Any, NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """One step of all environments."""
        before, beginning = self._dynamics, bool(self._waiting.any())
        obs, rewards, terminated, truncated, infos = super().step(actions)
        if "final_obs" in infos:
            infos["final_dynamics"] = before
        if self._within or (self._at_resets and (beginning or "final_obs" in infos)):
            self._gather()
        infos["dynamics"] = self._dynamics
        return obs, rewards, terminated, truncated, infos


class TunableAdapter(GymnasiumAdapter):
    """Gymnasium's ids in ``table``, whose mechanics are keywords beside those of their constructors.

    Args:
        table: id -> what can be changed about it.
    """

    def __init__(self, table: Mapping[str, TunableSpec]) -> None:
        self.table = dict(table)
        self.prefixes = tuple(table)
        self.prefix = self.prefixes[0]

    def ids(self) -> Iterable[str]:
        """Of the table."""
        return self.prefixes

    def states(self) -> dict[str, str]:
        """None of its own: the plain environments' are those of Gymnasium's adapter."""
        return {}

    def counts(self) -> dict[str, int]:
        """None of its own."""
        return {}

    def make(
        self,
        task: Task,
        num_envs: int,
        seed: int,
        autoreset: AutoresetMode,
        max_threads: int,
        workers: int = 1,
    ) -> TaskVectorEnv:
        """The batch; it runs in the calling thread, or in so many ``workers``."""
        knobs = self.table.get(task.id)
        if knobs is None:  # an id that begins like one of the table
            return super().make(task, num_envs, seed, autoreset, max_threads, workers)
        sight, kwargs = split(task.id, task.kwargs)
        given, rest = knobs.split(kwargs)

        def around(env: SingleEnv) -> SingleEnv:
            tuned = TunableWrapper(env, knobs, given, task.id)
            if not sight.parts:
                return tuned
            informed = PrivilegedObservation(tuned, sight)
            return FlattenObservation(informed, task.id, informed.names(*env_names(env, task.id)))

        names = (*KEYWORDS, *knobs.names, *(f"{stem}<{what}>" for stem, what in knobs.stems.items()))
        guarded = self.guarded(Task(task.id, rest), num_envs, seed, workers, around, names)
        return TunableVectorEnv(guarded, task.id, seed, autoreset)


def tunable_envs() -> dict[str, TunableSpec]:
    """Every id whose constants are mechanics, with what can be changed about it."""
    adapters = [adapter for _, adapter in ADAPTERS.items() if isinstance(adapter, TunableAdapter)]
    return {name: knobs for adapter in adapters for name, knobs in adapter.table.items()}
