"""Masks of several agents, and turn-based games as PettingZoo converts them."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import support.masked_envs as nim
from pettingzoo import ParallelEnv
from support.masked_envs import Nim, Seen

from graft import envs
from graft.envs import Task
from graft.envs.core.random_actions import sample
from graft.envs.core.team_rows import TeamRows
from graft.envs.factory import make_teams
from graft.errors import GraftError

NIM = "pettingzoo:support.masked_envs"


class Signals(ParallelEnv[str, Any, Any]):
    """Two agents act at once; infos hold their masks, or those of only some."""

    metadata = {"name": "signals", "render_modes": ()}  # noqa: RUF012 - as in PettingZoo
    render_mode = None
    possible_agents = ["a_0", "a_1"]  # noqa: RUF012
    masks: Any = staticmethod(lambda t: {agent: {"action_mask": [t % 2, 1, 0]} for agent in ("a_0", "a_1")})

    def observation_space(self, agent: str) -> Any:
        return gym.spaces.Box(0, 10, (1,))

    def action_space(self, agent: str) -> Any:
        return gym.spaces.Discrete(3)

    def _shown(self) -> dict[str, Any]:
        return {agent: np.array([self.t], np.float32) for agent in self.possible_agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.t = list(self.possible_agents), 0
        return self._shown(), self.masks(0)

    def step(self, actions: dict[str, Any]) -> Any:
        for action in actions.values():
            Seen.played += 1
            Seen.forbidden += action == 2 or (action == 0 and self.t % 2 == 0)
        self.t += 1
        ended = dict.fromkeys(self.possible_agents, self.t == 5)
        self.agents = [] if self.t == 5 else self.agents
        none = dict.fromkeys(self.possible_agents, False)
        return self._shown(), dict.fromkeys(self.possible_agents, 1.0), ended, none, self.masks(self.t)


def test_a_turn_based_game_is_what_a_plain_loop_plays() -> None:
    """One move in each step; observations, masks, rewards and ends are those of PettingZoo's own loop."""
    Seen.reset()
    squad, plain, dice = make_teams(Task(NIM), 3), Nim(), np.random.default_rng(0)
    with closing(squad):
        obs, alive, _ = squad.reset(3)
        plain.reset(3)
        for _ in range(200):
            assert alive.all()
            shown = {agent: plain.observe(agent) for agent in plain.agents}
            turn = plain.agent_selection
            for agent, team in (("left_0", "left"), ("right_0", "right")):
                forbidden = 1 - shown[agent]["action_mask"] if agent == turn else np.zeros(3)
                np.testing.assert_array_equal(obs[team][0, 0], [*shown[agent]["observation"], *forbidden])
            move = int(dice.choice(np.flatnonzero(shown[turn]["action_mask"])))
            chosen = {team: np.full((1, 1), move) for team in squad.teams}
            obs, rewards, terminated, truncated, alive, _ = squad.step(chosen)
            plain.step(move)
            assert rewards[0].tolist() == [plain.rewards[agent] for agent in plain.possible_agents]
            assert terminated[0].tolist() == [plain.terminations[agent] for agent in plain.possible_agents]
            assert not truncated.any()
            if terminated.any():
                break
        assert terminated.all()
    assert Seen.forbidden == 0


@pytest.mark.parametrize("opponents", ["random", "still"])
def test_no_team_plays_what_is_forbidden(opponents: str) -> None:
    Seen.reset()
    task = Task(NIM, {"team": "left", "opponents": opponents, "stones": 5})
    with closing(envs.make(task, 4, 0)) as env:
        obs, _ = env.reset()
        env.action_space.seed(0)
        won = set()
        for _ in range(300):
            obs, rewards, *_ = env.step(sample(env, obs))
            won |= set(rewards.tolist())
    assert won == {-1.0, 0.0, 1.0}
    assert Seen.played == 4 * 300
    assert Seen.forbidden == 0


def test_surplus_agents_play_what_is_allowed() -> None:
    """Of three rows in two environments, the fourth agent acts at random."""
    Seen.reset()
    with closing(envs.make(Task(NIM), 3, 0)) as env:
        assert isinstance(env, TeamRows)
        obs, _ = env.reset()
        env.action_space.seed(0)
        for _ in range(200):
            obs, *_ = env.step(sample(env, obs))
    assert (Seen.played, Seen.forbidden) == (400, 0)


def test_pettingzoos_own_board_game() -> None:
    pytest.importorskip("pygame")
    with closing(envs.make(Task("pettingzoo:pettingzoo.classic.tictactoe_v3"), 6, 0)) as env:
        assert env.observation_schema.plain.shape == (2, 3, 3)
        obs, _ = env.reset()
        env.action_space.seed(0)
        games: list[list[float]] = []
        for _ in range(40):
            obs, rewards, terminated, *_ = env.step(sample(env, obs))
            games += rewards.reshape(3, 2)[terminated.reshape(3, 2).all(1)].tolist()
    assert len(games) > 10
    assert set(map(tuple, games)) <= {(1.0, -1.0), (-1.0, 1.0), (0.0, 0.0)}  # an illegal move costs only who makes it


def test_masks_in_infos_are_used_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nim, "parallel_env", Signals, raising=False)
    with closing(envs.make(Task(NIM), 2, 0)) as env, pytest.raises(GraftError, match="say action_masks: true to play"):
        env.reset()
    with closing(envs.make(Task(NIM, {"action_masks": False}), 2, 0)) as env:
        assert env.reset()[0].shape == (2, 1)
    Seen.reset()
    with closing(envs.make(Task(NIM, {"action_masks": True}), 4, 0)) as env:
        obs, _ = env.reset()
        env.action_space.seed(0)
        for t in range(100):
            assert obs.tolist() == [[t % 5, 1 - t % 5 % 2, 0, 1]] * 4
            obs, *_ = env.step(sample(env, obs))
        assert env.faults.total == 0
    assert (Seen.played, Seen.forbidden) == (400, 0)
    monkeypatch.setattr(Signals, "masks", staticmethod(lambda t: {"a_0": {"action_mask": [0, 0, 0]}}))
    empty = pytest.raises(GraftError, match="agent 'a_0': its action mask allows no action")
    with closing(envs.make(Task(NIM, {"action_masks": True}), 2, 0)) as env, empty:
        env.reset()


def test_what_is_no_environment_of_pettingzoo_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nim, "env", lambda: object())
    with pytest.raises(GraftError, match="gives a object, which is no environment of PettingZoo"):
        envs.make(Task(NIM), 1, 0)
