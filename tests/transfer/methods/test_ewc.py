"""EWC: importances are the Fisher information, one anchor per task."""

from __future__ import annotations

import torch
from support.tiny_tasks import MATCH, observations, scrambled, small_network

from graft.agents.training.backend import Batch
from graft.transfer.method import TaskPosition
from graft.transfer.methods.ewc import EWC
from graft.transfer.regulariser import anchors
from graft.transfer.state import group

STATES = Batch(observations(MATCH.observation, 12), torch.zeros(12, dtype=torch.long))


def test_importances_are_expected_squared_scores():
    """Mean over states of sum_a pi(a) (d log pi(a) / d theta)^2, state by state and action by action."""
    network = small_network(MATCH)
    parameters = {f"encoder.{name}": p for name, p in network.encoder.named_parameters()}
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for state in STATES.observations:
        log_pi = network(state.unsqueeze(0)).action[0].log_softmax(-1)
        for score in log_pi:
            gradients = torch.autograd.grad(score, list(parameters.values()), retain_graph=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                expected[name] += score.detach().exp() * gradient.square() / len(STATES.observations)
    importances = EWC().importances(network, STATES.observations)
    assert importances.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(importances[name], tensor, rtol=1e-4, atol=1e-8)


def test_one_anchor_per_task():
    """A later task leaves what holds the earlier ones as it is."""
    method, network = EWC(), small_network(MATCH)
    first = method.consolidate(network, {}, STATES, TaskPosition(0, 3)).state
    second = method.consolidate(scrambled(network), first, STATES, TaskPosition(1, 3)).state
    assert anchors(first) == [0]
    assert anchors(second) == [0, 1]
    assert all(torch.equal(second[name], t) for name, t in first.items())
    parameters = dict(network.named_parameters())
    assert all(torch.equal(t, parameters[name]) for name, t in group(second, "anchor.1").items())
