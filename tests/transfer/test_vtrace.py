"""V-trace against the equations of its paper, one sum at a time; log-probabilities against torch's distributions."""

from __future__ import annotations

import math

import pytest
import torch
from support.tiny_tasks import box, discrete, multi
from torch.distributions import Categorical, Independent, Normal

from graft.agents.networks.policy_network import Outputs
from graft.transfer.vtrace import log_probability, taken_actions, vtrace

N, T = 3, 6


def unrolls(seed: int = 0) -> list[torch.Tensor]:
    """Log ratios, discounts with ends of episodes, rewards, values and the values after the last step."""
    generator = torch.Generator().manual_seed(seed)
    ratios, rewards, values = (torch.randn(N, T, generator=generator, dtype=torch.float64) for _ in range(3))
    discounts = torch.where(torch.rand(N, T, generator=generator) < 0.2, 0.0, 0.9).double()
    ratios[1, 2] = -torch.inf
    return [ratios, discounts, rewards, values, torch.randn(N, generator=generator, dtype=torch.float64)]


def by_sums(ratios, discounts, rewards, values, bootstrap):
    """v_s and the advantages as in eq. 1 and section 4.2 of the paper, for one unroll."""
    rho = [min(1.0, math.exp(x)) for x in ratios.tolist()]
    g, r, v = discounts.tolist(), rewards.tolist(), [*values.tolist(), bootstrap.item()]
    targets = []
    for s in range(T):
        total = v[s]
        for t in range(s, T):
            trace = math.prod(g[i] * rho[i] for i in range(s, t))
            total += trace * rho[t] * (r[t] + g[t] * v[t + 1] - v[t])
        targets.append(total)
    after = [*targets[1:], v[T]]
    return targets, [rho[s] * (r[s] + g[s] * after[s] - v[s]) for s in range(T)]


def test_the_equations_of_the_paper():
    given = unrolls()
    found = vtrace(*given)
    for i in range(N):
        targets, advantages = by_sums(*(t[i] for t in given))
        assert found.targets[i].tolist() == pytest.approx(targets, rel=1e-9)
        assert found.advantages[i].tolist() == pytest.approx(advantages, rel=1e-9)


def test_on_the_policys_own_steps_targets_are_returns():
    """Of n steps, with the value after the last, as section 4.1 says."""
    _, discounts, rewards, values, bootstrap = unrolls(1)
    found = vtrace(torch.zeros(N, T).double(), discounts, rewards, values, bootstrap).targets
    total = bootstrap
    for t in reversed(range(T)):
        total = rewards[:, t] + discounts[:, t] * total
        torch.testing.assert_close(found[:, t], total)


@pytest.mark.slow
def test_as_rllibs():
    rllibs = pytest.importorskip("ray.rllib.algorithms.impala.torch.vtrace_torch_v2").vtrace_torch
    ratios, discounts, rewards, values, bootstrap = unrolls(2)
    targets, advantages = rllibs(
        target_action_log_probs=ratios.T,
        behaviour_action_log_probs=torch.zeros(T, N).double(),
        discounts=discounts.T,
        rewards=rewards.T,
        values=values.T,
        bootstrap_values=bootstrap,
    )
    found = vtrace(ratios, discounts, rewards, values, bootstrap)
    torch.testing.assert_close(found.targets, targets.T)
    torch.testing.assert_close(found.advantages, advantages.T)


def test_log_probabilities_of_a_discrete_action():
    schema, logits = discrete("a", "b", "c"), torch.randn(5, 3)
    actions = torch.tensor([0, 2, 1, 1, 0])
    taken = taken_actions(actions, schema)
    found, told = log_probability(Outputs(logits, None, torch.zeros(5)), taken)
    torch.testing.assert_close(found, Categorical(logits=logits).log_prob(actions))
    assert told.all()
    found, told = log_probability(Outputs(logits, None, torch.zeros(5)), taken & torch.tensor([True, False, True]))
    assert told.tolist() == [True, True, False, False, True]  # an action that is not there any more
    assert found[2:4].tolist() == [0, 0]


def test_log_probabilities_of_several_choices():
    schema, logits = multi(move=3, fire=2), torch.randn(4, 5)
    actions = torch.tensor([[0, 1], [2, 0], [1, 1], [0, 0]])
    taken, outputs = taken_actions(actions, schema), Outputs(logits, None, torch.zeros(4))
    each = [Categorical(logits=part).log_prob(actions[:, i]) for i, part in enumerate(logits.split([3, 2], 1))]
    torch.testing.assert_close(log_probability(outputs, taken, None, schema.sizes)[0], each[0] + each[1])
    new = torch.tensor([True, True, True, False, False])  # the second choice is new: it has no say
    found, told = log_probability(outputs, taken & new, new, schema.sizes)
    torch.testing.assert_close(found, each[0])
    assert told.all()


@pytest.mark.parametrize("per_state", [False, True])
def test_log_probabilities_of_a_box(per_state):
    means, spread = torch.randn(4, 2), torch.randn(4, 2) if per_state else torch.randn(2)
    actions = taken_actions(torch.randn(4, 2), box(["x", "y"]))
    found, _ = log_probability(Outputs(means, spread, torch.zeros(4)), actions)
    torch.testing.assert_close(found, Independent(Normal(means, spread.exp().expand(4, 2)), 1).log_prob(actions))
    found, _ = log_probability(Outputs(means, spread, torch.zeros(4)), actions, torch.tensor([False, True]))
    torch.testing.assert_close(found, Normal(means, spread.exp().expand(4, 2)).log_prob(actions)[:, 1])
