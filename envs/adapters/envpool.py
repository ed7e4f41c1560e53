"""EnvPool's C++ environments, by ids such as ``envpool/MiniGrid-DoorKey-6x6-v0``.

EnvPool's own autoreset is next-step. It takes seeds only when a pool is built, so a reset with a seed builds a new
pool (about a millisecond for 64 MiniGrid environments).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.adapters.minigrid import MINIGRID, minigrid_bounds, minigrid_codecs
from envs.adapters.names import names_of
from envs.adapters.spaces import (
    ActionCodec,
    AdaptedVectorEnv,
    Array,
    ObservationCodec,
    action_codec,
    first_line,
    observation_codec,
)
from envs.errors import GraftError, unknown
from envs.factory import ADAPTERS
from envs.task import Bounds, Task, TaskVectorEnv

PREFIX = "envpool/"
INSTALL = "pip install 'graft-rl[games]'"
MAX_SEED = 2**31 - 1

Bools = NDArray[np.bool_]

_POOL_KEYWORDS = {
    *("num_envs", "batch_size", "num_threads", "max_num_players", "thread_affinity_offset"),
    *("base_path", "seed", "env_seed", "gym_reset_return_info", "env_name", "mission_bytes", "debug"),
}
"""Keywords of the pool, not of the game: Graft sets them, or they would change which game it is."""


class EnvPoolVectorEnv(AdaptedVectorEnv):
    """One EnvPool in synchronous mode.

    Args:
        build: seeds (num_envs,) -> a new pool with these seeds.
        num_envs, seed, autoreset: as for `envs.make`.
        codecs: of observations and actions.
        image_key: key of the observation in a dictionary observation; None where it is an array.
        success_ends: whether every reward ends the episode, as in MiniGrid: see `step`.
    """

    def __init__(
        self,
        build: Callable[[list[int]], Any],
        num_envs: int,
        seed: int,
        autoreset: AutoresetMode,
        codecs: tuple[ObservationCodec, ActionCodec],
        image_key: str | None = None,
        success_ends: bool = False,
    ) -> None:
        super().__init__(num_envs, seed, autoreset, *codecs)
        self._build = build
        self._image_key = image_key
        self._success_ends = success_ends
        self._pool: Any = None
        self._obs = np.zeros((num_envs, *self.observation_schema.shape), self.observation_schema.dtype)

    def _show(self, raw: Any) -> Array:
        return self._encode(raw if self._image_key is None else raw[self._image_key])

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Fresh episodes; ``options={"reset_mask": (N,) bool}`` resets only those environments.

        A seed resets all of them, whatever the mask, because it builds a new pool.

        Raises:
            GraftError: seeds of only some environments, or a seed that EnvPool cannot hold.
        """
        seeds = [s for s in self._seeds(seed) if s is not None]
        if seeds:
            if len(seeds) != self.num_envs or max(seeds) > MAX_SEED or min(seeds) < 0:
                raise GraftError(
                    f"Seeds {seeds} do not fit; EnvPool takes one seed from 0 to {MAX_SEED} "
                    f"for each of its {self.num_envs} environments."
                )
            self._pool = self._build(seeds)
            self._obs[...] = self._show(self._pool.reset()[0])
        chosen = np.flatnonzero(self._chosen(options)).astype(np.int32)
        if not seeds and len(chosen):
            self._obs[chosen] = self._show(self._pool.reset(chosen)[0])
        return self._obs.copy(), {}

    def step(self, actions: Any) -> tuple[Array, NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """One step of all environments; the arrays returned are the caller's to keep.

        EnvPool reports an episode that succeeds in its very last step as truncated only. Where a reward always ends
        the episode this is put right, so that nobody bootstraps from the state behind the goal.
        """
        raw, rewards, terminated, truncated, _ = self._pool.step(self._decode(np.asarray(actions)))
        if self._success_ends:
            terminated = terminated | (truncated & (rewards != 0))
            truncated = truncated & ~terminated
        obs = self._show(raw)
        infos: dict[str, Any] = {}
        ended = np.flatnonzero(terminated | truncated).astype(np.int32)
        if self._same_step and len(ended):
            infos = {"final_obs": obs.copy(), "_final_obs": terminated | truncated}
            obs[ended] = self._show(self._pool.reset(ended)[0])
        self._obs[...] = obs
        return obs, rewards.astype(np.float64), terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Let the pool go; its threads end with it."""
        self._pool = None


class EnvPoolAdapter:
    """MiniGrid with its real names, and every other EnvPool task whose observation is one box or number.

    Of MiniGrid's observation the view is shown, not the mission: a task that asks for another thing in each episode
    (Fetch, GoToDoor, GoToObject, PutNear) can be played but not mastered.
    """

    prefix = PREFIX

    def ids(self) -> Iterable[str]:
        """Ids of the installed EnvPool; none where it is not installed."""
        try:
            return [PREFIX + name for name in _library().list_all_envs()]
        except GraftError:
            return []

    def make(self, task: Task, num_envs: int, seed: int, autoreset: AutoresetMode, max_threads: int) -> TaskVectorEnv:
        """The pool, with at most ``max_threads`` threads of its own."""
        library = _library()
        name = task.id.removeprefix(PREFIX)
        if name not in library.list_all_envs():
            raise unknown("task", task.id, self.ids())
        spec = _spec(library, name, task)
        is_minigrid = name.startswith(MINIGRID)

        def build(seeds: list[int]) -> Any:
            threads = max(1, min(max_threads, num_envs))
            sizes = {"num_envs": num_envs, "num_threads": threads}
            pool = library.make(name, env_type="gymnasium", env_seed=seeds, **sizes, **task.kwargs)
            _spaces(pool)  # a pool builds its spaces when first asked, and keeps them
            return pool

        codecs = _codecs(task.id, name, spec)
        image_key = "image" if is_minigrid else None
        return EnvPoolVectorEnv(build, num_envs, seed, autoreset, codecs, image_key, success_ends=is_minigrid)

    def bounds(self, task: Task) -> Bounds | None:
        """The scale of MiniGrid's rewards for its tasks, under any keywords; None for the rest."""
        name = task.id.removeprefix(PREFIX)
        return minigrid_bounds(name) if name.startswith(MINIGRID) else None


def _library() -> Any:
    """EnvPool, imported when the first of its tasks is asked for."""
    try:
        import envpool
    except ImportError as error:
        raise GraftError(f"EnvPool is not installed; install it with `{INSTALL}`.") from error
    return envpool


def _spec(library: Any, name: str, task: Task) -> Any:
    """EnvPool's specification of one environment of ``task``; checks the task's keywords."""
    try:
        defaults = library.make_spec(name).config._asdict()
    except ImportError as error:
        raise GraftError(f"EnvPool cannot load '{task.id}': {error}") from error
    allowed = sorted(defaults.keys() - _POOL_KEYWORDS)
    for keyword in task.kwargs:
        if keyword not in allowed:
            raise unknown(f"keyword of {task.id}", keyword, allowed)
    if defaults["max_num_players"] != 1:
        raise GraftError(f"'{task.id}' has {defaults['max_num_players']} players; allowed: EnvPool tasks with 1.")
    try:
        return library.make_spec(name, **task.kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in task.kwargs.items())
        raise GraftError(f"Task '{task.id}' does not accept {given}: {first_line(error)}.") from error


def _spaces(spec_or_pool: Any) -> tuple[Any, Any]:
    """Observation and action space. EnvPool writes bounds in double precision into float32 boxes, hence the filter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        return spec_or_pool.observation_space, spec_or_pool.action_space


def _codecs(task_id: str, name: str, spec: Any) -> tuple[ObservationCodec, ActionCodec]:
    space, action = _spaces(spec)
    if name.startswith(MINIGRID):
        return minigrid_codecs(task_id, space["image"], action)
    if isinstance(space, gym.spaces.Dict):
        raise GraftError(
            f"'{task_id}' shows a dictionary of {', '.join(space)}; allowed so far: EnvPool's MiniGrid tasks and "
            f"tasks whose observation is a single Box or Discrete."
        )
    names = names_of(name)
    return (
        observation_codec(task_id, _unbounded(space), names.observation),
        action_codec(task_id, action, names.action),
    )


def _unbounded(space: gym.Space[Any]) -> gym.Space[Any]:
    """EnvPool writes the smallest positive float32 where it means no lower bound (LunarLander); say so instead."""
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.float32:
        return space
    low = np.where(space.low == np.finfo(np.float32).tiny, np.float32(-np.inf), space.low)
    return gym.spaces.Box(low, space.high, space.shape, np.float32)


ADAPTERS.add("envpool", EnvPoolAdapter())
