"""What DQN and SAC have in common; what sets them apart is in their own tests."""

from __future__ import annotations

import pytest
import torch
from support.off_policy import UPDATES, moved, small_dqn, small_sac
from support.tiny_tasks import assert_same, weights

from graft.agents.training.backend import Evaluation
from graft.errors import GraftError

pytestmark = [
    pytest.mark.usefixtures("tiny_tasks"),
    pytest.mark.parametrize("small", [small_dqn, small_sac], ids=lambda small: small.name),
]


def test_the_identity_hook_is_no_hook_bit_for_bit(small):
    calls = []
    with_hook = small.learned(small.network(), lambda grads, *_: calls.append(1) or grads)
    assert_same(with_hook, small.learned(small.network()))
    assert len(calls) == UPDATES


@pytest.mark.parametrize("part", ["policy.", "encoder.blocks.1."])
def test_what_the_hook_leaves_out_moves_nothing(small, part):
    network = small.network()
    before = weights(network)
    after = small.learned(network, lambda grads, *_: {n: g for n, g in grads.items() if n.startswith(part)})
    assert moved(after, before) == {n for n in before if n.startswith(part)}


@pytest.mark.parametrize(("options", "message"), [({"gradient_steps": 0}, "-1"), ({"buffer": 3}, "4 environments")])
def test_options_that_make_no_sense(small, options, message):
    with pytest.raises(GraftError, match=message):
        small.algorithm(**options)


def test_same_seed_same_weights_bit_for_bit(small):
    first, again, other = (small.trained(100, seed=s) for s in (5, 5, 6))
    assert_same(weights(first.network), weights(again.network))
    assert first.result.final_returns == again.result.final_returns
    assert not torch.equal(first.network.policy.out.weight, other.network.policy.out.weight)


def test_how_often_it_is_evaluated_does_not_change_the_training(small):
    rare, often = (small.trained(100, evaluation=Evaluation(every=e, episodes=8, num_envs=8)) for e in (10_000, 1))
    assert_same(weights(rare.network), weights(often.network))
