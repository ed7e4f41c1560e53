"""A batch of games for two teams: the native multi-agent environment, without per-environment Python."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from graft.envs.builtin.arena.game import ARENAS
from graft.envs.builtin.arena.state import new_state
from graft.envs.builtin.arena.view import BOARD, SCHEMA
from graft.envs.builtin.engine.channels import NAMES, Channels
from graft.envs.builtin.engine.game import ACTIONS
from graft.envs.builtin.engine.render import FPS, MODES, check_mode, frames
from graft.envs.builtin.engine.state import COIN, SIZE, WALL, copies, restore_arrays, seed_state
from graft.envs.core.schema import Schemas
from graft.envs.core.task import check_autoreset
from graft.envs.core.teams import Bools, TeamEnv
from graft.errors import GraftError

Shown = dict[str, NDArray[np.uint8]]


class ArenaBatch(TeamEnv):
    """``num_envs`` copies of a game for two teams in one compiled loop.

    Args:
        game: its short name, ``"pursuit"``. num_envs, seed, autoreset_mode, render_mode: see `GameVectorEnv`.
        channels: what agents see, see `Channels`.
        **options: sizes of the teams and mechanics.
    Raises:
        GraftError: an unknown game or option, or a value that is not allowed.
    """

    def __init__(
        self,
        game: str,
        num_envs: int = 1,
        seed: int = 0,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        channels: str = NAMES,
        **options: Any,
    ) -> None:
        mode = check_autoreset(autoreset_mode)
        self.game = ARENAS[game]
        self.settings = self.game.resolve(options)
        self._channels = Channels(SCHEMA, channels, self.game.id)
        self.metadata = {"autoreset_mode": mode, "render_modes": list(MODES), "render_fps": FPS}
        self.render_mode = check_mode(self.game.id, render_mode)
        self.num_envs = num_envs
        split, slots = self.settings.high_first, self.settings.high_first + self.settings.high_second
        places = (range(split), range(split, slots))
        self.teams = {team.name: tuple(its) for team, its in zip(self.game.teams, places, strict=True)}
        self.agents = tuple(
            f"{team.member}_{k}" for team, its in zip(self.game.teams, places, strict=True) for k in range(len(its))
        )
        self._same_step = mode is AutoresetMode.SAME_STEP
        self._first_seed: int | None = seed
        self._state = new_state(num_envs, slots)
        self._waiting = np.zeros(num_envs, np.bool_)
        self._final = self._zeros()

    def schemas_of(self, team: str) -> Schemas:
        return Schemas(self._channels.schema, ACTIONS)

    def _zeros(self) -> NDArray[np.uint8]:
        return np.zeros((self.num_envs, len(self.agents), *SCHEMA.shape), np.uint8)

    def _by_team(self, obs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What the agents of each team see, of the planes (N, A, C, ...) of all."""
        if not self._channels.plain:
            shape = self._channels.schema.shape
            planes, obs = obs, np.empty((*obs.shape[:2], *shape), np.uint8)
            self._channels.show(planes.reshape(-1, *SCHEMA.shape), obs.reshape(-1, *shape))
        return {team: obs[:, its[0] : its[-1] + 1] for team, its in self.teams.items()}

    def reset(self, seed: int | None = None) -> tuple[Shown, Bools, dict[str, Any]]:
        """Fresh episodes; without a seed the random numbers go on, or start from the batch's own seed."""
        seed = self._first_seed if seed is None else seed
        self._first_seed = None
        if seed is not None:
            if seed < 0:
                raise GraftError(f"Seed {seed} is not allowed; seeds are whole numbers from 0.")
            seed_state(self._state, np.arange(seed, seed + self.num_envs, dtype=np.uint64))  # type: ignore[arg-type]
        self._waiting[:] = False
        obs = self._zeros()
        self.game.reset_batch(self._state, self.settings, np.ones(self.num_envs, np.bool_), obs)
        return self._by_team(obs), self._state.alive.copy(), {}

    def step(self, actions: dict[str, Any]) -> tuple[Shown, NDArray[np.float64], Bools, Bools, Bools, dict[str, Any]]:
        """One step of all environments; a game that its last step decides terminates for all agents."""
        shape = (self.num_envs, len(self.agents))
        chosen, obs = np.empty(shape, np.int64), np.empty((*shape, *SCHEMA.shape), np.uint8)
        for team, its in self.teams.items():
            chosen[:, its[0] : its[-1] + 1] = actions[team]
        rewards, terminated = np.empty(shape, np.float64), np.empty(shape, np.bool_)
        winner = np.empty(self.num_envs, np.int8)
        at_once = self._same_step and self.render_mode is None
        ended = self.game.step_batch(
            self._state, self.settings, chosen, self._waiting, at_once, obs, self._final, rewards, terminated, winner
        )
        infos: dict[str, Any] = {"winner": winner}
        if ended and self._same_step and not at_once:
            infos |= self._restart(obs)
        if ended and self._same_step:
            last = self._zeros()
            last[terminated] = self._final[terminated]
            infos |= {"final_obs": self._by_team(last), "_final_obs": terminated.copy()}
        alive = self._state.alive & ~terminated if not self._same_step else self._state.alive.copy()
        return self._by_team(obs), rewards, terminated, np.zeros(shape, np.bool_), alive, infos

    def _restart(self, obs: NDArray[np.uint8]) -> dict[str, Any]:
        """Same-step autoreset after taking pictures of the games that are over; writes ``obs``, returns infos."""
        over = self._waiting.copy()
        self._waiting[:] = False
        self._final[:] = obs
        pictures = (self.render() if over.any() else None) or ()
        self.game.reset_batch(self._state, self.settings, over, obs)
        shown = tuple(picture if ends else None for picture, ends in zip(pictures, over, strict=False))
        return {"final_frame": shown} if shown else {}

    def observe(self) -> tuple[Shown, Bools]:
        obs = self._zeros()
        self.game.reset_batch(self._state, self.settings, np.zeros(self.num_envs, np.bool_), obs)
        return self._by_team(obs), self._state.alive & ~self._waiting[:, None]

    def board(self) -> NDArray[np.uint8]:
        """The boards, (N, 4, SIZE, SIZE): planes of zeros and ones named as in `BOARD`."""
        planes = np.zeros((self.num_envs, len(BOARD), SIZE, SIZE), np.uint8)
        env, slot = np.nonzero(self._state.alive)
        side = slot >= self.settings.high_first
        planes[env, side.astype(np.int64), self._state.place[env, slot, 0], self._state.place[env, slot, 1]] = 1
        planes[:, 2] = self._state.cells == WALL
        planes[:, 3] = self._state.cells == COIN
        return planes

    def render(self) -> tuple[Any, ...] | None:
        """Pictures or texts of the boards, the first team blue; see `GameVectorEnv.render`."""
        if self.render_mode is None:
            return None
        if self._first_seed is not None:
            raise GraftError("There is nothing to render before the first reset.")
        return frames(self.render_mode, self.board(), BOARD, "day")

    savable = True

    def save_state(self) -> dict[str, NDArray[Any]]:
        return copies(self._arrays())

    def restore_state(self, saved: dict[str, NDArray[Any]]) -> None:
        restore_arrays(self._arrays(), saved)
        self._first_seed = None

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return self._state._asdict() | {"waiting": self._waiting}
