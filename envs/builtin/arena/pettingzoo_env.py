"""The built-in games for two teams as a PettingZoo environment.

>>> from envs import graft_arena
>>> env = graft_arena.parallel_env("pursuit", hunters=3, prey=[1, 4])
>>> env.possible_agents[:4]
['hunter_0', 'hunter_1', 'hunter_2', 'prey_0']
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from graft.envs.builtin.arena.batch import ArenaBatch
from graft.envs.builtin.arena.game import ARENAS
from graft.envs.builtin.engine.render import FPS, MODES
from graft.errors import GraftError

Obs = NDArray[np.uint8]


class GraftArena(ParallelEnv[str, Obs, int]):  # type: ignore[misc]  # PettingZoo has no types
    """One arena; agents leave ``agents`` as they die.

    Where sizes change, every slot is among ``agents`` after a reset, as PettingZoo requires: a slot that is not in
    play has zeros as observation and ``{"alive": False}`` as info, and ends in the first step. ``infos`` of the
    step that decides the game hold the ``winner``: the name of a team, or ``draw``.

    Args:
        game: its short name. render_mode: None, ``"rgb_array"`` or ``"ansi"``.
        **options: sizes of the teams, mechanics, and ``channels``.
    Raises:
        GraftError: an unknown game or option, or a value that is not allowed.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "graft_arena_v0",
        "render_modes": list(MODES),
        "render_fps": FPS,
        "is_parallelizable": True,
    }

    def __init__(self, game: str = "pursuit", render_mode: str | None = None, **options: Any) -> None:
        first = int(np.random.default_rng().integers(2**31))  # unseeded environments must differ
        self._batch = ArenaBatch(game, 1, first, AutoresetMode.NEXT_STEP, render_mode, **options)
        self.render_mode = render_mode
        self._places = {
            agent: (team, its.index(a))
            for team, its in self._batch.teams.items()
            for a, agent in enumerate(self._batch.agents)
            if a in its
        }
        self.possible_agents = list(self._batch.agents)
        self.agents: list[str] = []
        self.schemas = {agent: self._batch.schemas_of(team) for agent, (team, _) in self._places.items()}
        self.observation_spaces = {agent: own.observation.space() for agent, own in self.schemas.items()}
        self.action_spaces = {agent: own.action.space() for agent, own in self.schemas.items()}
        self.state_space = gym.spaces.Box(0, 1, self._batch.board().shape[1:], np.uint8)

    def observation_space(self, agent: str) -> gym.Space[Obs]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[int]:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Obs], dict[str, dict[str, Any]]]:
        obs, alive, _ = self._batch.reset(seed)
        self.agents = list(self.possible_agents)
        infos: dict[str, dict[str, Any]] = {
            agent: {} if alive[0, a] else {"alive": False} for a, agent in enumerate(self.possible_agents)
        }
        return self._of(obs), infos

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, Obs], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One step: every agent in ``agents`` acts; those that die, or whose game is decided, end."""
        chosen = {team: np.zeros((1, len(its)), np.int64) for team, its in self._batch.teams.items()}
        for agent in self.agents:
            team, k = self._places[agent]
            chosen[team][0, k] = actions.get(agent, 0)
        if not self.agents:
            raise GraftError("The game is over; call reset before the next step.")
        obs, rewards, _, _, alive, infos = self._batch.step(chosen)
        winner = int(infos["winner"][0])
        name = "draw" if winner < 0 else list(self._batch.teams)[winner]
        report: dict[str, Any] = {"winner": name} if winner != -1 else {}
        acted, slots = self.agents, {agent: a for a, agent in enumerate(self.possible_agents)}
        shown = self._of(obs)
        ended = {agent: not bool(alive[0, slots[agent]]) for agent in acted}
        self.agents = [agent for agent in acted if not ended[agent]]
        return (
            shown,
            {agent: float(rewards[0, slots[agent]]) for agent in acted},
            ended,
            dict.fromkeys(acted, False),
            {agent: dict(report) for agent in acted},
        )

    def _of(self, obs: dict[str, NDArray[Any]]) -> dict[str, Obs]:
        return {agent: obs[team][0, k] for agent, (team, k) in self._places.items() if agent in self.agents}

    def state(self) -> Obs:
        """The whole board as planes of zeros and ones, (4, 10, 10): both teams, walls and coins."""
        board: Obs = self._batch.board()[0]
        return board

    def render(self) -> Any:
        """The board as a picture (H, W, 3) uint8 or a text, the first team blue; None without a render mode."""
        shown = self._batch.render()
        return None if shown is None else shown[0]


def parallel_env(game: str = "pursuit", render_mode: str | None = None, **options: Any) -> GraftArena:
    """The environment; ``game`` is one of `GAMES`."""
    return GraftArena(game, render_mode, **options)


GAMES = tuple(ARENAS)
"""Short names of the games."""
