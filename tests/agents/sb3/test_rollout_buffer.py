"""The rollout buffer; and rows out of play: their steps change nothing about training, evaluation or consolidation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from support.tiny_tasks import MatchEnv, assert_same, small_network, small_ppo, weights

from graft.agents.sb3 import ALGORITHMS
from graft.agents.sb3.rollout_buffer import TensorRolloutBuffer
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.evaluate import evaluate
from graft.agents.training.rollouts import collect
from graft.errors import GraftError

LIVES = (8, 3, 5, 1)
"""Steps of an episode of eight that each row is in play."""


class DyingEnv(MatchEnv):
    """`MatchEnv` in which row i leaves play, with its episode, after ``LIVES[i]`` of eight steps.

    What a row shows and earns afterwards is ``garbage``.
    """

    dead_rows = True

    def __init__(self, garbage: float = 0.0) -> None:
        super().__init__(len(LIVES), 0, ["a", "b", "c", "d"], "vector", None)
        self.garbage = garbage
        self._shared = 0

    def _alive(self):
        return self._shared < np.array(LIVES)

    def reset(self, *, seed=None, options=None):
        self._shared = 0
        obs, _ = super().reset()
        return obs, {"alive": self._alive()}

    def step(self, actions):
        acted = self._alive()
        rewards = np.where(acted, actions == self._states, self.garbage).astype(np.float64)
        self._begin(range(self.num_envs))
        self._shared += 1
        ended = acted & ~self._alive()
        final = self._observe()
        if self._shared == 8:
            self._shared = 0
            ended |= acted & (np.array(LIVES) == 8)
        infos = {"alive": self._alive()}
        if ended.any():
            infos |= {"final_obs": final, "_final_obs": ended}
        return self._observe(), rewards, ended, np.zeros_like(ended), infos

    def _observe(self):
        obs = super()._observe()
        obs[~self._alive()] = self.garbage
        return obs


def trained(garbage: float) -> dict[str, torch.Tensor]:
    env = BatchVecEnv(DyingEnv(garbage))
    network = small_network(env.env.schemas)
    small_ppo(num_envs=4).learner(network, env, 0, None, "cpu").learn(256)
    return weights(network)


def test_what_dead_rows_show_and_earn_trains_nothing():
    assert_same(trained(0.0), trained(0.75))


def test_live_rows_do_train():
    untrained = weights(small_network(DyingEnv().schemas))
    changed = trained(0.0)
    assert all(not torch.equal(untrained[name], changed[name]) for name in untrained)


def filled(steps: int = 24) -> tuple[TensorRolloutBuffer, np.ndarray, np.ndarray, np.ndarray]:
    """Random steps of `DyingEnv`'s rows, a million in those out of play; and rewards, values, who acted."""
    rng = np.random.default_rng(0)
    acted = np.array([[t % 8 < life for life in LIVES] for t in range(steps)])
    rewards, values = (np.where(acted, rng.normal(size=acted.shape), 1e6) for _ in range(2))
    buffer = TensorRolloutBuffer(
        steps,
        spaces.Box(-1, 1, (2,)),
        spaces.Discrete(4),
        "cpu",
        acted=lambda: acted[buffer.pos],
        gae_lambda=0.9,
        gamma=0.8,
        n_envs=4,
    )
    starts = np.array([[t % 8 in (0, life) for life in LIVES] for t in range(steps)], np.float32)
    for t in range(steps):
        buffer.begin_step(np.stack([np.full(4, t), np.arange(4)], 1), starts[t])
        value, log_prob = (torch.as_tensor(array[t], dtype=torch.float32) for array in (values, rewards))
        buffer.end_step(torch.arange(4), rewards[t].astype(np.float32), value, log_prob)
    buffer.compute_returns_and_advantage(torch.full((4,), 1e6), np.ones(4, np.bool_))
    return buffer, rewards, values, acted


def test_rows_are_each_step_in_play_once_and_all_of_a_row_together():
    buffer, _, _, acted = filled()
    seen = buffer.tensor("observations", torch.device("cpu"))[torch.from_numpy(buffer.rows())]
    assert [(i, t) for t, i in seen.int().tolist()] == [(i, t) for i, t in np.argwhere(acted.T)]


def test_advantages_are_those_of_each_row_by_itself():
    # Schulman et al. 2016, eq. 16, over one life of one row: sum of (gamma lambda)^k delta_{t+k}.
    buffer, rewards, values, _ = filled()
    advantages = buffer.tensor("advantages", torch.device("cpu"))
    for number in buffer.rows():
        t, i = divmod(int(number), 4)
        end = t - t % 8 + LIVES[i]
        expected = 0.0
        for k in range(t, end):
            after = values[k + 1, i] if k + 1 < end else 0.0
            expected += (0.8 * 0.9) ** (k - t) * (rewards[k, i] + 0.8 * after - values[k, i])
        assert float(advantages[number]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_buffer_keeps_its_memory_and_gives_it_as_tensors():
    buffer, *_ = filled()
    stored = buffer.tensor("values", torch.device("cpu"))
    buffer.reset()
    assert buffer.begin_step(np.full((4, 2), 9.0), np.zeros(4)).tolist() == [[9.0, 9.0]] * 4
    buffer.end_step(torch.zeros(4), np.zeros(4, np.float32), torch.full((4,), 7.0), torch.zeros(4))
    assert stored[:4].tolist() == [7.0] * 4


def test_channels_last_is_a_layout_alone():
    buffer = TensorRolloutBuffer(2, spaces.Box(0, 9, (3, 4, 5), np.uint8), spaces.Discrete(2), "cpu", n_envs=2)
    buffer.arrange(channels_last=True)
    obs = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 5)).astype(np.uint8)
    seen = buffer.begin_step(obs, np.zeros(2))
    assert np.array_equal(seen.numpy(), obs)
    found = buffer.tensor("observations", torch.device("cpu"))[torch.tensor([1, 0])]
    assert np.array_equal(found.numpy(), obs[::-1])
    assert seen.is_contiguous(memory_format=torch.channels_last)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_the_library_can_use_the_buffer_again():
    buffer, *_ = filled()
    list(buffer.get(5))
    buffer.reset()
    assert buffer.observations.shape == (24, 4, 2)


def test_evaluation_counts_steps_in_play():
    env = DyingEnv()
    played = evaluate(small_network(env.schemas), env, 8, torch.Generator().manual_seed(0))
    assert {int(i): length for i, length in zip(played.rows, played.lengths, strict=True)} == dict(enumerate(LIVES))
    assert (played.returns <= played.lengths).all()


class RareEnv(DyingEnv):
    """`DyingEnv` whose rows share games: the last is in play in every other one alone, as in teams that change."""

    games = 0

    def _alive(self):
        alive = super()._alive()
        alive[3] &= self.games % 2 == 1
        return alive

    def step(self, actions):
        before = self._shared
        obs, rewards, ended, cut, infos = super().step(actions)
        if over := before == 7:
            self.games += 1
            obs, infos = self._observe(), {**infos, "alive": self._alive()}
        return obs, rewards, ended, cut, {**infos, "over": np.full(4, over)}


def test_evaluation_counts_games_where_rows_share_them():
    env = RareEnv()
    played = evaluate(small_network(env.schemas), env, 16, torch.Generator().manual_seed(0))
    assert env.games == 4
    assert np.bincount(played.rows.astype(int)).tolist() == [4, 4, 4, 2]


def test_a_rollout_without_rows_in_play_trains_nothing(monkeypatch):
    env = BatchVecEnv(DyingEnv())
    monkeypatch.setattr(DyingEnv, "_alive", lambda self: np.zeros(4, np.bool_))
    network = small_network(env.env.schemas)
    before = weights(network)
    small_ppo(num_envs=4).learner(network, env, 0, None, "cpu").learn(64)
    assert_same(weights(network), before)


def test_states_are_collected_of_rows_in_play():
    env = DyingEnv(garbage=0.5)
    found = collect(small_network(env.schemas), env, 20, torch.Generator().manual_seed(0))
    assert 20 <= len(found.observations) < 24
    assert len(found.actions) == len(found.observations)
    assert (found.observations.sum(1) == 1).all()


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_replay_learners_refuse_rows_out_of_play(name):
    algorithm = ALGORITHMS[name](num_envs=4)
    with pytest.raises(GraftError, match="use the algorithm 'ppo'"):
        algorithm.check_rows(BatchVecEnv(DyingEnv()))
