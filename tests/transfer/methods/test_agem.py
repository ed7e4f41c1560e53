"""A-GEM: the projection by hand, and that it does what it says inside training."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import MATCH, assert_same, observations, small_network

from graft.agents.training.backend import Batch
from graft.transfer.method import METHODS, TaskPosition
from graft.transfer.methods.agem import projected


def grads_of(network):
    """Of some loss on some states."""
    outputs = network(observations(MATCH.observation, 9, seed=4))
    (outputs.action[:, 0].sum() + outputs.value.square().sum()).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def remembering(method, drifted=True):
    """A network and the memory of its task, from which the network may have drifted."""
    network = small_network(MATCH)
    rollouts = Batch(observations(MATCH.observation, 50), torch.zeros(50))
    state = method.consolidate(network, {}, rollouts, TaskPosition(0, 2)).state
    return (small_network(MATCH, seed=1) if drifted else network), state


def dot(a, b):
    return sum((a[name].double() * b[name].double()).sum().item() for name in a if name in b)


def test_projection_in_two_dimensions_by_hand():
    """g = (1, -2) against (0, 1) loses its second part; against (3, 4), dot -5 and square 25, it gains (3, 4) / 5."""
    g = {"w": torch.tensor([1.0, -2.0])}
    assert projected(g, {"w": torch.tensor([0.0, 1.0])})["w"].tolist() == [1.0, 0.0]
    assert projected(g, {"w": torch.tensor([3.0, 4.0])})["w"].tolist() == pytest.approx([1.6, -1.2])


@pytest.mark.parametrize("reference", [[1.0, 0.0], [2.0, 1.0], [0.0, 0.0]])
def test_what_agrees_is_left_alone(reference):
    g = {"w": torch.tensor([1.0, -2.0])}
    assert projected(g, {"w": torch.tensor(reference)}) is g


def test_parameters_count_jointly_and_absent_ones_as_zero():
    g = {"a": torch.tensor([1.0]), "b": torch.tensor([-3.0]), "free": torch.tensor([7.0])}
    reference = {"a": torch.tensor([1.0]), "b": torch.tensor([1.0]), "frozen": torch.tensor([9.0])}
    found = projected(g, reference)
    assert {name: t.item() for name, t in found.items()} == {"a": 2.0, "b": -2.0, "free": 7.0}
    assert projected({"free": torch.ones(1)}, reference) == {"free": torch.ones(1)}


def test_a_gradient_that_has_hardly_begun_to_grow():
    """Its square, 1e-60, is no number of single precision."""
    found = projected({"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([0.0, 1e-30])})
    assert found["w"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("heads", ["fresh", "shared"])
def test_after_projection_the_dot_product_is_zero(sign, heads):
    method = METHODS["agem"](heads=heads, batch=32)
    network, state = remembering(method)
    loss, _ = method.divergence(network, state)
    trained = {n: p for n, p in network.named_parameters() if n.startswith(("encoder.", "policy."))}
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    reference = {n: g for n, g in zip(trained, found, strict=True) if g is not None}
    given = grads_of(network)
    turn = sign * (1 if dot(given, reference) > 0 else -1)
    given = {name: turn * g for name, g in given.items()}
    before = {name: g.clone() for name, g in given.items()}
    grads, after, penalty = method.gradients(given, network, state, None)
    assert_same(given, before)
    assert penalty is None
    assert after["draws"] == 1
    if sign > 0:
        assert grads is given
    else:
        scale = (dot(given, given) * dot(reference, reference)) ** 0.5
        assert abs(dot(grads, reference)) < 1e-6 * scale
        assert dot(grads, grads) < dot(given, given)
        assert_same(
            {n: g for n, g in grads.items() if n.startswith("value.")},
            {n: g for n, g in given.items() if n.startswith("value.")},
        )


def test_frozen_parameters_stay_without_gradient():
    method = METHODS["agem"](batch=32)
    network, state = remembering(method)
    network.encoder.freeze(1)
    given = grads_of(network)
    for turn in (1, -1):
        grads = method.gradients({n: turn * g for n, g in given.items()}, network, state, None).grads
        assert grads.keys() == given.keys()


def test_before_the_first_task_has_ended_it_is_fine_tuning():
    network = small_network(MATCH)
    given, state = grads_of(network), {}
    step = METHODS["agem"]().gradients(given, network, state, None)
    assert step.grads is given
    assert step.state is state


def test_when_a_task_has_just_ended_the_reference_vanishes():
    method = METHODS["agem"]()
    network, state = remembering(method, drifted=False)
    loss, _ = method.divergence(network, state)
    slopes = torch.autograd.grad(loss, list(network.encoder.parameters()))
    assert max(s.abs().max().item() for s in slopes) < 1e-6
