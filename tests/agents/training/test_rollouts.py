"""States that a policy meets, and what it did in them."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.tiny_tasks import (
    MATCH,
    REACH,
    TASK,
    ClockEnv,
    NormEncoder,
    ReachEnv,
    box,
    small_config,
    small_network,
    vector,
    weights,
)

from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training import rollouts
from graft.agents.training.rollouts import collect, collect_random
from graft.envs.core.schema import Schemas
from graft.envs.factory import make
from graft.errors import GraftError

pytestmark = pytest.mark.usefixtures("tiny_tasks")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def played(network: PolicyNetwork, states: int = 40, seed: int = 0):
    return collect(network, make(TASK, 4, 0), states, seeded(seed))


def places(observations: torch.Tensor) -> list[tuple[int, int]]:
    """Environment and time of the states of a `ClockEnv`."""
    return [(int(i), int(t)) for i, t in observations.tolist()]


def met(lengths: list[int], states: int, seed: int = 0) -> list[tuple[int, int]]:
    return places(collect_random(ClockEnv(lengths), states, seed))


@pytest.mark.parametrize("states", [1, 3, 6, 31, 100])
def test_as_many_states_as_asked_for_and_the_steps_played_for_them(states):
    env = ClockEnv([2, 3, 5])
    rollouts = collect(small_network(env.schemas), env, states, seeded(0))
    assert rollouts.observations.shape == (states, 2)
    assert [len(field) for field in rollouts[:4]] == [states] * 4
    # A share of n steps each, and on to the end of the longest episode then, of 5 steps.
    assert len(env.played) == max(math.ceil(math.ceil(states / 3) / length) * length for length in (2, 3, 5))
    assert rollouts.env_steps == 3 * len(env.played)


def test_every_step_of_whole_episodes_is_as_likely():
    """When 6 states are asked for, environments play an episode of 2, 5 or 13 steps: 20, of which 6 are kept.

    Each is in 30 % of 120 choices, give or take 3.8 standard deviations of 4.2 %; no step is twice as likely or absent.
    """
    env = ClockEnv([2, 5, 13])
    count = Counter(place for seed in range(120) for place in places(collect_random(env, 6, seed)))
    assert len(count) == 20
    for place, times in count.items():
        assert times / 120 == pytest.approx(6 / 20, abs=0.16), place


def test_states_are_even_over_time():
    """In order of environments and of time; no part of an episode has twice as many as another of its length."""
    found = met([60, 300], 72)
    assert found == sorted(found)
    times = [t for i, t in found if i == 1]
    assert 58 <= len(times) <= 62  # 300 of 360
    assert max(b - a for a, b in pairwise([-1, *times, 300])) <= 2 * 300 / len(times)


class UnevenEnv(ClockEnv):
    """Episodes of 2 steps or of 50, as a coin falls; observes which of them, and the time."""

    def __init__(self, num_envs: int, seed: int) -> None:
        super().__init__([0] * num_envs)
        self._rng = np.random.default_rng(seed)

    def _begin(self, which):
        self.lengths[which] = self._rng.choice([2, 50], len(which))

    def _observe(self):
        return np.stack([self.lengths, self.time], axis=1).astype(np.float32)


def test_episodes_count_by_their_length():
    """50 of 52 steps of the policy are in long episodes, and 1 in 52 is the first of one: so it is in the states.

    Stopping all environments together, or keeping what has ended by then, would show more of the short ones.
    """
    found = torch.cat([collect_random(UnevenEnv(64, seed), 512, seed) for seed in range(8)])
    share = float((found[:, 0] == 50).float().mean())
    assert share == pytest.approx(50 / 52, abs=0.012)
    first = float(((found[:, 0] == 50) & (found[:, 1] < 5)).float().mean())
    assert first == pytest.approx(5 / 52, abs=0.02)


def test_an_episode_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(rollouts, "SPARE_STEPS", 20)
    env = ClockEnv([10**6, 3])
    network = small_network(env.schemas)
    found = collect(network, env, 10, seeded(0), unroll=5, gamma=0.5)
    assert len(env.played) == 25
    endless = [k for k, (i, _) in enumerate(places(found.observations)) if i == 0]
    assert max(places(found.observations)[k][1] for k in endless) < 25
    cut = [k for k in endless if found.discounts[k] == 0]
    for k in cut:  # what would have come is in the last reward
        value = float(network(torch.tensor([[0.0, 25.0]])).value.detach())
        assert float(found.rewards[k]) == pytest.approx(10 + 24 + 0.5 * value, rel=1e-5)


@pytest.mark.parametrize("unroll", [1, 4, 7])
def test_unrolls_are_steps_in_a_row(unroll):
    """With what the algorithm sees of them: odd environments are truncated, and even ones terminate."""
    seen = set()
    for seed in range(5):
        env = ClockEnv([3, 5, 26])
        network = small_network(env.schemas)
        found = collect(network, env, 42, seeded(seed), unroll, gamma=0.5, reward_scale=2.0)
        assert found.unroll == unroll
        assert len(found.actions) == 42 // unroll * unroll
        where = places(found.observations)
        for k, (i, t) in enumerate(where):
            last = t + 1 == env.lengths[i]
            final = float(network(torch.tensor([[i, t + 1.0]])).value.detach()) if last and i % 2 else 0.0
            assert float(found.rewards[k]) == pytest.approx(2 * (10 * (i + 1) + t) + 0.5 * final, rel=1e-5)
            assert float(found.discounts[k]) == (0.0 if last else 0.5)
            if (k + 1) % unroll:
                assert last or where[k + 1] == (i, t + 1)
        seen |= set(where)
    assert {(2, 25), (1, 4), (0, 2)} <= seen  # the ends


def test_unrolls_with_the_actions_taken_in_them():
    env = ClockEnv([9])
    env.reset()
    env.step([0])  # it is reset first
    env.played.clear()
    found = collect(small_network(env.schemas), env, 9, seeded(0), unroll=9)
    assert places(found.observations) == [(0, t) for t in range(9)]
    assert found.observations.dtype == torch.float32
    assert found.actions.tolist() == [int(step[0]) for step in env.played]


def test_fewer_of_them_evenly():
    env = ClockEnv([24])
    whole = collect(small_network(env.schemas), env, 24, seeded(0), unroll=4)
    assert [int(t) for t in whole.evenly(8).observations[:, 1]] == list(range(0, 24, 3))
    assert whole.evenly(8).unroll == 1
    together = whole.evenly(8, 4)
    assert together.observations[:, 1].tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert (together.unroll, len(together.rewards)) == (4, 8)
    assert whole.evenly(20).observations[:, 1].tolist() == list(range(24))
    assert whole.evenly(0).observations.shape == (1, 2)


def test_no_row_in_play(monkeypatch):
    class Empty(ClockEnv):
        """Whose rows wait."""

        def reset(self, *, seed=None, options=None):
            return super().reset()[0], {"alive": np.zeros(2, np.bool_)}

        def step(self, actions):
            return *super().step(actions)[:4], {"alive": np.zeros(2, np.bool_), "over": np.zeros(2, np.bool_)}

    monkeypatch.setattr(rollouts, "SPARE_STEPS", 5)
    with pytest.raises(GraftError, match="The 2 rows were in play for 0 of 7 steps; 1 or more are needed"):
        collect_random(Empty([10**6, 10**6]), 4, 0)


def test_the_actions_are_samples():
    """Of a policy that plays one of four actions with probability 3/4: 900 of 1200, give or take 5 deviations of 15."""
    network = small_network(MATCH)
    with torch.no_grad():
        network.policy.out.weight.zero_()
        network.policy.out.bias.copy_(torch.tensor([9.0, 1.0, 1.0, 1.0]).log())
    assert abs(int((played(network, 1200).actions == 0).sum()) - 900) < 75


def test_the_same_generator_gives_the_same_states_and_leaves_the_process_alone():
    network = small_network(MATCH)
    before = torch.get_rng_state()
    one, again, other = played(network), played(network), played(network, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one[:4], again[:4], strict=True))
    assert not torch.equal(one.actions, other.actions)


def test_states_are_raw_and_kept_apart_from_the_environments_own_arrays():
    class Reused(ClockEnv):
        """Writes every observation into the same array."""

        buffer = torch.zeros(2, 2).numpy()

        def _observe(self):
            self.buffer[:] = super()._observe()
            return self.buffer

    env = Reused([4, 4])
    found = collect(small_network(env.schemas), env, 6, seeded(0)).observations
    assert len(set(map(tuple, found.tolist()))) == 6


def test_box_actions_are_as_drawn_and_played_within_their_bounds():
    network = small_network(Schemas(vector(["x", "y"]), box(["move_x", "move_y"], -0.5, 0.5)))
    env = make(REACH, 4, 0)
    actions = collect(network, env, 100, seeded(0)).actions
    assert actions.shape == (100, 2)
    assert float(actions.abs().max()) > 0.5
    assert env.largest_action == 0.5


def test_greedy_networks_play_their_best_action():
    schemas = MATCH
    network = PolicyNetwork(schemas, NetworkConfig(**(vars(small_config("vector")) | {"distribution": "greedy"})), 0)
    found = played(network)
    assert torch.equal(found.actions, network(found.observations).action.argmax(-1))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_was(training, monkeypatch):
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = PolicyNetwork(MATCH, NetworkConfig("norm"), 0).train(training)
    network.encoder.freeze(1)
    network.train(training)
    before, modes = weights(network), [m.training for m in network.modules()]
    played(network)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_the_network_is_put_back_when_the_environment_fails():
    class Broken(ReachEnv):
        def _outcome(self, actions):
            raise RuntimeError("broken")

    env = Broken(2, 0)
    network = small_network(env.schemas).train()
    with pytest.raises(RuntimeError, match="broken"):
        collect(network, env, 4, seeded(0))
    assert network.training
