"""KL divergences against `torch.distributions` and closed forms, and what a penalty made of them needs."""

from __future__ import annotations

import math

import pytest
import torch
from support.tiny_tasks import MATCH, NormEncoder, assert_same, small_network, weights
from torch.distributions import Categorical, Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, Outputs, PolicyNetwork
from graft.transfer.divergence import added, evaluating, gradient, kl


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(action: torch.Tensor, log_std: torch.Tensor | None = None) -> Outputs:
    return Outputs(action, log_std, torch.zeros(len(action)))


def gaussian(found: Outputs) -> Independent:
    return Independent(Normal(found.action, found.log_std.exp().expand_as(found.action)), 1)


def test_categorical_by_hand():
    half, quarter = outputs(torch.zeros(1, 2)), outputs(torch.tensor([[0.0, math.log(3.0)]]))
    wanted = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl(half, quarter).item() == pytest.approx(wanted, abs=1e-6)


def test_categorical_as_torch_has_it():
    p, q = outputs(numbers(7, 5)), outputs(numbers(7, 5, seed=1))
    wanted = kl_divergence(Categorical(logits=p.action), Categorical(logits=q.action))
    torch.testing.assert_close(kl(p, q), wanted)


def test_categorical_of_what_p_does_not_know_by_hand():
    """Known to p: the first two of three, 1/4 and 3/4; q has 1/3 each."""
    p = outputs(torch.tensor([[0.0, math.log(3.0), 50.0]]))
    found = kl(p, outputs(torch.zeros(1, 3)), shared=torch.tensor([True, True, False]))
    wanted = 0.25 * math.log(0.25 * 3) + 0.75 * math.log(0.75 * 3)
    assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_divergences_of_several_choices_add_up():
    p, q, sizes = outputs(numbers(7, 5)), outputs(numbers(7, 5, seed=1)), (3, 2)
    parts = [(outputs(p.action[:, part]), outputs(q.action[:, part])) for part in (slice(0, 3), slice(3, 5))]
    torch.testing.assert_close(kl(p, q, sizes=sizes), kl(*parts[0]) + kl(*parts[1]))
    unknown = torch.tensor([True, True, True, False, False])
    torch.testing.assert_close(kl(p, q, shared=unknown, sizes=sizes), kl(*parts[0]))


@pytest.mark.parametrize("shape", [(3,), (7, 3)], ids=["one spread", "a spread per state"])
@pytest.mark.parametrize("distribution", [None, "squashed"])
def test_gaussian_as_torch_has_it(shape, distribution):
    p = outputs(numbers(7, 3), numbers(*shape, seed=1))
    q = outputs(numbers(7, 3, seed=2), numbers(*shape, seed=3))
    torch.testing.assert_close(kl(p, q, distribution), kl_divergence(gaussian(p), gaussian(q)))


def test_squashing_leaves_the_divergence_as_it_is():
    """By Monte Carlo: mean over p of log p - log q of the squashed actions."""
    p = outputs(torch.tensor([[0.3]]), torch.tensor([-0.5]))
    q = outputs(torch.tensor([[-0.2]]), torch.tensor([0.1]))
    tanh = TanhTransform(cache_size=1)
    squashed_p, squashed_q = (TransformedDistribution(Normal(o.action[0], o.log_std.exp()), tanh) for o in (p, q))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = squashed_p.sample((200_000,))
    estimate = (squashed_p.log_prob(drawn) - squashed_q.log_prob(drawn)).mean()
    assert kl(p, q, "squashed").item() == pytest.approx(estimate.item(), abs=0.01)


def test_gaussian_counts_only_shared_dimensions():
    p = outputs(numbers(7, 3), numbers(3, seed=1))
    q = outputs(numbers(7, 3, seed=2), numbers(3, seed=3))
    first = [Outputs(o.action[:, :2], o.log_std[:2], o.value) for o in (p, q)]
    torch.testing.assert_close(kl(p, q, shared=torch.tensor([True, True, False])), kl(*first))


def test_q_values_are_half_the_squared_distance():
    p, q = outputs(torch.tensor([[1.0, 2.0]])), outputs(torch.tensor([[4.0, 6.0]]))
    assert kl(p, q, "greedy").tolist() == [12.5]
    assert kl(p, q, "greedy", torch.tensor([True, False])).tolist() == [4.5]
    ones = torch.zeros(2)
    torch.testing.assert_close(kl(p, q, "greedy"), kl(p._replace(log_std=ones), q._replace(log_std=ones)))


@pytest.mark.parametrize("kind", ["categorical", "gaussian", "greedy"])
@pytest.mark.parametrize("shared", [None, torch.tensor([True, False, True])])
def test_gradients_of_both_sides(kind, shared):
    spread = numbers(3, seed=2) if kind == "gaussian" else None
    distribution = "greedy" if kind == "greedy" else None

    def of(p, q):
        return kl(outputs(p, spread), outputs(q, spread), distribution, shared)

    p, q = numbers(4, 3).requires_grad_(), numbers(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(of, (p, q))


def test_it_is_zero_and_flat_where_the_policies_agree():
    action = numbers(4, 3).requires_grad_()
    found = kl(outputs(action.detach()), outputs(action)).sum()
    assert found.item() == pytest.approx(0, abs=1e-12)
    (slope,) = torch.autograd.grad(found, action)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)


def test_evaluating_leaves_modes_and_statistics_alone(monkeypatch):
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = PolicyNetwork(MATCH, NetworkConfig("norm", {}, (4,)), 0).train()
    network.encoder.freeze(1)
    modes, before = [m.training for m in network.modules()], weights(network)
    with evaluating(network):
        assert not any(m.training for m in network.modules())
        network(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    assert [m.training for m in network.modules()] == modes
    assert_same(weights(network), before)


def test_gradient_only_of_what_trains_and_counts():
    network = small_network(MATCH)
    network.encoder.freeze(1)
    found = gradient(network(torch.ones(2, 4)).action.sum(), network)
    wanted = {n for n, p in network.named_parameters() if p.requires_grad and not n.startswith("value.")}
    assert set(found) == wanted
    assert all(p.grad is None for p in network.parameters())
    assert gradient(torch.zeros(()), network) == {}


def test_added_by_hand():
    found = added({"a": torch.ones(1), "b": torch.ones(1)}, {"b": torch.ones(1), "c": torch.ones(1)})
    assert {name: g.item() for name, g in found.items()} == {"a": 1, "b": 2, "c": 1}
