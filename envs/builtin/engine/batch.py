"""A built-in game as a Gymnasium vector environment (the native batch) and as a single environment."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from graft.envs.builtin.engine.game import ACTIONS, GAMES
from graft.envs.builtin.engine.kernel import distort
from graft.envs.builtin.engine.render import FPS, MODES, check_mode, frames
from graft.envs.builtin.engine.state import copies, new_state, restore_arrays, seed_state
from graft.envs.core.task import TaskVectorEnv, check_autoreset
from graft.errors import GraftError

Bools = NDArray[np.bool_]

LARGE = 1 << 19
"""Numbers in observations from which on their memory is reused: fresh memory costs page faults in every step."""

POOLED = 4  # arrays whose memory is kept


class _PooledMemory:
    """Memory of one array, which is returned to ``pool`` when no reference to it is left."""

    def __init__(self, pool: list[NDArray[Any]], shape: tuple[int, ...], dtype: str) -> None:
        self._pool, self._array = pool, pool.pop() if pool else np.empty(shape, dtype)
        self.__array_interface__ = self._array.__array_interface__

    def __del__(self) -> None:
        if len(self._pool) < POOLED:
            self._pool.append(self._array)


class GameVectorEnv(TaskVectorEnv):
    """``num_envs`` copies of a built-in game in one compiled loop, without per-environment Python.

    Args:
        game: its id, ``"Graft/Gather-v0"``. num_envs: batch size.
        seed: of the first reset without a seed; environment i uses ``seed + i``.
        autoreset_mode: same-step or next-step; disabled autoreset is not offered.
        render_mode: what `render` gives: ``rgb_array`` or ``ansi``.
        **options: the game's mechanics, and `OPTIONS` (``view``, ``channels`` ...).
    """

    def __init__(
        self,
        game: str,
        num_envs: int = 1,
        seed: int = 0,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        mode = check_autoreset(autoreset_mode)
        self._game = GAMES[game]
        self._settings, self._palette, _, self._view, self._show, self._channels = self._game.resolve(options)
        self._disturbed = bool(self._settings.mirror or self._settings.fog or self._settings.noise)
        self._same_step = mode is AutoresetMode.SAME_STEP
        self.metadata = {"autoreset_mode": mode, "render_modes": list(MODES), "render_fps": FPS}
        self.render_mode = check_mode(game, render_mode)
        self._set_schemas(num_envs, self._channels.schema, ACTIONS)
        self._pool: list[NDArray[Any]] = []
        self._large = num_envs * math.prod(self.observation_schema.shape) >= LARGE
        self._first_seed = seed
        self._seeded = False
        scores = len(self._settings.table) if self._settings.sampling else 0
        self._state = new_state(num_envs, self._game.movers, self._game.memo, scores)
        self._waiting = np.zeros(num_envs, np.bool_)
        self._final = self._planes()
        self._everyone = np.arange(num_envs)
        two_steps = self._show is not None and not self._channels.plain
        through = self._show is not None or not self._channels.plain  # planes are no observation
        self._painted = self._planes() if through else None
        self._between = np.empty((num_envs if two_steps else 0, *self._view.shape), self._view.dtype)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        if seed is None and not self._seeded:
            seed = self._first_seed
        if seed is not None:
            self._seed(seed)
        mask = (options or {}).get("reset_mask")
        chosen = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        self._waiting &= ~chosen
        planes = self._planes()
        self._game.reset_batch(self._state, self._settings, chosen, planes)
        return self._shown(planes, self._everyone), {}

    def _planes(self) -> NDArray[np.uint8]:
        return np.zeros((self.num_envs, *self._game.planes.shape), np.uint8)

    def _shown(self, planes: NDArray[np.uint8], of: NDArray[np.int64], last: int = 0) -> NDArray[Any]:
        """The observation of environments ``of`` from their painted planes, which may be overwritten."""
        if self._disturbed:
            distort(self._state, self._settings, planes, of, last)
        if self._show is None and self._channels.plain:
            return planes
        shape, dtype = (len(of), *self.observation_schema.shape), self.observation_schema.dtype
        reused = len(of) == self.num_envs and self._large
        seen = np.asarray(_PooledMemory(self._pool, shape, dtype)) if reused else np.empty(shape, dtype)
        if self._channels.plain and self._show is not None:
            self._show(planes, seen)
        else:
            self._channels.show(self._viewed(planes), seen)
        return seen

    def _viewed(self, planes: NDArray[np.uint8]) -> NDArray[Any]:
        """The view of ``planes`` (n, C, H, W) before its channels are put together; valid until the next call."""
        if self._show is None:
            return planes
        viewed = self._between[: len(planes)]
        self._show(planes, viewed)
        return viewed

    def _last_seen(self, ended: NDArray[np.bool_]) -> NDArray[Any]:
        """Last observations of the episodes that ended; other rows are not set."""
        shape, of = (self.num_envs, *self.observation_schema.shape), np.flatnonzero(ended)
        seen = np.empty(shape, self.observation_schema.dtype)
        seen[of] = self._shown(self._final[of], of, 1)
        return seen

    def _seed(self, seed: int | list[int | None]) -> None:
        seeds = [int(seed) + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        if len(seeds) != self.num_envs or any(s is not None and s < 0 for s in seeds):
            raise GraftError(
                f"Seeds {seeds} are not allowed; give one number from 0 for each of {self.num_envs} games."
            )
        self._state.scores[:] = 0  # the games of a seed do not depend on what was played before
        before = self._state.rng.copy()
        seed_state(self._state, np.array([s or 0 for s in seeds], np.uint64))
        for i, given in enumerate(seeds):
            if given is None and self._seeded:
                self._state.rng[i] = before[i]
        self._seeded = True

    def step(self, actions: Any) -> tuple[NDArray[Any], NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        count = self.num_envs
        chosen = np.asarray(actions, np.int64)
        if chosen.shape != (count,):
            raise GraftError(f"Actions have shape {chosen.shape}; give one for each of {count} games.")
        planes = np.empty((count, *self._game.planes.shape), np.uint8) if self._painted is None else self._painted
        rewards = np.empty(count, np.float64)
        terminated, truncated = np.empty(count, np.bool_), np.empty(count, np.bool_)
        rules, ends = (self._state, self._settings), (self._waiting, self._same_step, self._game.max_steps)
        ended = self._game.step_batch(*rules, chosen, *ends, planes, self._final, rewards, terminated, truncated)
        infos: dict[str, Any] = {}
        if ended and self._same_step:
            over = terminated | truncated
            infos = {"final_obs": self._last_seen(over), "_final_obs": over}
        return self._shown(planes, self._everyone), rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """Each board without view, mirror, fog or noise; after a same-step autoreset, of the next episode.

        Returns:
            N pictures (H, W, 3) uint8 under ``rgb_array``, N texts of a line a row under ``ansi``; None without a mode.
        Raises:
            GraftError: before the first reset.
        """
        if self.render_mode is None:
            gym.logger.warn("render gives nothing without a render_mode, such as render_mode='rgb_array'.")
            return None
        if not self._seeded:
            raise GraftError("There is nothing to render before the first reset.")
        planes = self._planes()
        # A reset of no environment paints them all, and writes nothing into the state that was not there.
        self._game.reset_batch(self._state, self._settings, np.zeros(self.num_envs, np.bool_), planes)
        return frames(self.render_mode, planes, self._game.things, self._palette)

    savable = True

    def save_state(self) -> dict[str, NDArray[Any]]:
        return copies(self._arrays())

    def restore_state(self, saved: dict[str, NDArray[Any]]) -> None:
        restore_arrays(self._arrays(), saved)
        self._seeded = True

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = self._state._asdict() | {"waiting": self._waiting}
        return {name: array for name, array in arrays.items() if name != "scores" or len(array)}


class GameEnv(gym.Env[NDArray[Any], np.int64]):
    """One environment of a built-in game: the batch engine with a batch of one, without autoreset."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(MODES), "render_fps": FPS}  # type: ignore[misc]

    def __init__(self, game: str, render_mode: str | None = None, **options: Any) -> None:
        GAMES[game].resolve(options)
        self._batch = GameVectorEnv(game, autoreset_mode=AutoresetMode.NEXT_STEP, render_mode=render_mode, **options)
        self.render_mode = self._batch.render_mode
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space
        self.schemas = self._batch.schemas  # what stays of it in somebody's wrappers
        shown, self.action_names = self.schemas.observation, self.schemas.action.names
        self.observation_names = shown.names
        self.observation_attributes = dict(zip(shown.names, shown.attributes, strict=True))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None and not self._batch._seeded:
            seed = int(self.np_random.integers(2**31))
        obs, infos = self._batch.reset(seed=seed)
        return obs[0], infos

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        obs, rewards, terminated, truncated, infos = self._batch.step(np.array([action]))
        return obs[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), infos

    def render(self) -> Any:
        """The board as `GameVectorEnv.render` shows it: a picture (H, W, 3) uint8, or a text."""
        shown = self._batch.render()
        return None if shown is None else shown[0]
