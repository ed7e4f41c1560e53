"""Privileged observations of tunable environments: their dynamics, and a history of the last steps.

``show: [state, dynamics, history]`` makes observations of parts. A teacher sees the dynamics, a student the history
(Kumar et al. 2021, "RMA: Rapid Motor Adaptation for Legged Robots").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from graft.envs.builtin.engine.mechanics import Mechanic
from graft.errors import GraftError, unknown

STATE, DYNAMICS, HISTORY = "state", "dynamics", "history"
PARTS = (STATE, DYNAMICS, HISTORY)
SHOW = "show"
KEYWORDS = (SHOW, HISTORY)
STEPS = 10  # of the history, by default


def split_parts(task: str, kwargs: Mapping[str, Any]) -> tuple[tuple[str, ...], int, dict[str, Any]]:
    """The parts to show, the steps of the history, and the other keywords; raises GraftError for an unknown part."""
    shown = kwargs.get(SHOW, [])
    shown = [shown] if isinstance(shown, str) else shown
    if not isinstance(shown, list | tuple):
        raise GraftError(f"{SHOW}={shown!r} of {task} is not allowed; give parts: [{', '.join(PARTS)}].")
    for part in shown:
        if part not in PARTS:
            raise unknown(f"part of {SHOW} of {task}", str(part), PARTS)
    steps = kwargs.get(HISTORY, STEPS)
    whole = isinstance(steps, int) and not isinstance(steps, bool)
    if not whole or steps < 1 or (HISTORY in kwargs and HISTORY not in shown):
        raise GraftError(
            f"{HISTORY}={steps!r} of {task} is not allowed; it is a whole number of steps from 1, and stands "
            f"beside {SHOW}: [{STATE}, {HISTORY}]."
        )
    rest = {key: value for key, value in kwargs.items() if key not in KEYWORDS}
    return tuple(part for part in PARTS if part in shown), steps, rest


class PrivilegedObservation(gym.Wrapper[Any, Any, Any, Any]):
    """Observations that are dictionaries of parts.

    ``state`` is the environment's own, ``dynamics`` the values of all its mechanics for the step to come, ``history``
    the observations and the actions chosen in the last steps, the latest first, and zeros before the episode began.
    ``observation_names``: of the features of each part, from those of the state and the actions, where these have some.
    """

    def __init__(
        self,
        env: Any,
        parts: tuple[str, ...],
        steps: int,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(env)
        self._tunable, self._parts, self._steps = env, parts, steps
        state: Any = env.observation_space
        mechanics: tuple[Mechanic, ...] = env.mechanics
        low, high = (np.array([getattr(m, end) for m in mechanics], np.float32) for end in ("low", "high"))
        self._width = state.shape[0] + _width(env.action_space)
        reach = np.full(steps * self._width, np.inf, np.float32)
        spaces = {STATE: state, DYNAMICS: gym.spaces.Box(low, high), HISTORY: gym.spaces.Box(-reach, reach)}
        self.observation_space = gym.spaces.Dict({part: spaces[part] for part in parts})
        self.observation_names = self._feature_names(state_names, action_names)

    def _feature_names(self, state: Sequence[str] | None, actions: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
        state = state or [f"state_{i}" for i in range(self._width - _width(self.env.action_space))]
        actions = actions or [f"action_{i}" for i in range(_width(self.env.action_space))]
        lately = [f"{name}@-{back}" for back in range(1, self._steps + 1) for name in (*state, *actions)]
        mechanics = tuple(m.name for m in self._tunable.mechanics)
        return {STATE: tuple(state), DYNAMICS: mechanics, HISTORY: tuple(lately)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._history = np.zeros((self._steps, self._width), np.float32)
        self._last = obs
        return self._shown(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._history[1:] = self._history[:-1]
        self._history[0] = np.concatenate([np.ravel(self._last), _flat(self.env.action_space, action)])
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._last = obs
        return self._shown(obs), reward, terminated, truncated, info

    def _shown(self, obs: Any) -> dict[str, NDArray[Any]]:
        found = {STATE: obs, DYNAMICS: self._tunable.values, HISTORY: self._history.ravel()}
        return {part: found[part] for part in self._parts}


def _width(space: gym.Space[Any]) -> int:
    return int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape or ()))


def _flat(space: gym.Space[Any], action: Any) -> NDArray[np.float32]:
    """A box's action as it is, and a discrete one as its one-hot vector."""
    if not isinstance(space, gym.spaces.Discrete):
        return np.asarray(action, np.float32).ravel()
    chosen = np.zeros(int(space.n), np.float32)
    chosen[int(action) - int(space.start)] = 1.0
    return chosen
