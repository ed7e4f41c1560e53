"""Episodes of a batch whose environments have episodes of different lengths, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_tasks import ClockEnv, small_network
from torch import nn

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.evaluate import evaluate
from graft.errors import GraftError


def play(lengths, episodes, **options):
    env = ClockEnv(lengths)
    network = options.pop("network", None) or small_network(env.schemas)
    return evaluate(network, env, episodes, torch.Generator().manual_seed(0), **options), env


def test_returns_and_lengths_by_hand():
    # Environment 0 pays 10, 11, 12; environment 1 pays 20, 21.
    outcome, _ = play([3, 2], 2)
    assert sorted(zip(outcome.returns, outcome.lengths, strict=True)) == [(33.0, 3.0), (41.0, 2.0)]
    assert outcome.returns.dtype == outcome.lengths.dtype == np.float64


def test_short_episodes_are_not_favoured():
    # While environment 1 plays 3 episodes of 10 steps, environment 0 ends 30 of 1 step; the first 3 of each count.
    outcome, env = play([1, 10], 6)
    assert sorted(outcome.lengths) == [1, 1, 1, 10, 10, 10]
    assert sorted(outcome.returns) == [10, 10, 10, 245, 245, 245]  # 10 * 20 + (0 + ... + 9)
    assert len(env.played) == 30


def test_an_episode_may_take_max_steps_and_no_more():
    assert sorted(play([3, 7], 2, max_steps=7)[0].lengths) == [3, 7]
    with pytest.raises(GraftError, match=r"did not end within 6 steps; .* evaluation: \{max_steps: 12\}\."):
        play([3, 7], 2, max_steps=6)


@pytest.mark.parametrize(("episodes", "each"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_each_environment_contributes_equally(episodes, each):
    outcome, _ = play([2, 3, 5], episodes)
    assert np.bincount(outcome.lengths.astype(int), minlength=6).tolist() == [0, 0, each, each, 0, each]


def test_a_second_evaluation_starts_from_fresh_episodes():
    env = ClockEnv([4, 7])
    network, generator = small_network(env.schemas), torch.Generator().manual_seed(0)
    first = evaluate(network, env, 2, generator)  # leaves environment 0 in the middle of its second episode
    again = evaluate(network, env, 2, generator)
    assert sorted(again.returns) == sorted(first.returns)
    assert sorted(again.lengths) == [4, 7]


@pytest.mark.parametrize("training", [True, False])
def test_the_training_flag_is_left_as_it_was_and_off_meanwhile(training):
    env = ClockEnv([2])
    network = small_network(env.schemas).train(training)
    seen = []
    network.encoder.blocks[0].register_forward_hook(lambda module, *_: seen.append(module.training))
    evaluate(network, env, 1, torch.Generator().manual_seed(0))
    assert seen == [False, False]
    assert {m.training for m in network.modules()} == {training}


def test_frozen_blocks_stay_in_eval_mode():
    env = ClockEnv([2])
    network = small_network(env.schemas)
    network.encoder.freeze(1)
    network.train()
    evaluate(network, env, 1, torch.Generator().manual_seed(0))
    assert [block.training for block in network.encoder.blocks] == [False, True]


def test_deterministic_play_is_the_most_likely_action():
    env = ClockEnv([3, 4])
    network = small_network(env.schemas)
    nn.init.zeros_(network.policy.out.weight)
    network.policy.out.bias.data = torch.tensor([0.0, 0.1])
    _, env = play([3, 4], 2, network=network, deterministic=True)
    assert all(actions.tolist() == [1, 1] for actions in env.played)
    _, env = play([50, 50], 2, network=network)
    assert 20 < np.concatenate(env.played).sum() < 80  # of 100 actions; about 52 are expected


def test_the_generator_decides_the_actions():
    def actions(seed: int) -> list[list[int]]:
        env = ClockEnv([30, 30])
        evaluate(small_network(env.schemas), env, 2, torch.Generator().manual_seed(seed))
        return [a.tolist() for a in env.played]

    assert actions(1) == actions(1)
    assert actions(1) != actions(2)


def test_the_network_sees_the_observations_of_the_environment():
    seen: list[list[list[float]]] = []

    class Watched(PolicyNetwork):
        def act(self, obs, generator, deterministic=False):
            seen.append(obs.tolist())
            return super().act(obs, generator, deterministic)

    env = ClockEnv([2, 3])
    small = small_network(env.schemas)
    evaluate(Watched(env.schemas, small.config, 0), env, 2, torch.Generator().manual_seed(0))
    assert seen == [[[0, 0], [1, 0]], [[0, 1], [1, 1]], [[0, 0], [1, 2]]]
