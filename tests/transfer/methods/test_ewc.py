"""EWC: importances are the Fisher information, one anchor per task."""

from __future__ import annotations

import torch
from support.tiny_tasks import MATCH, observations, scrambled, small_network

from graft.agents.training.backend import Batch
from graft.transfer.fisher import diagonal_fisher
from graft.transfer.method import TaskPosition
from graft.transfer.methods.ewc import EWC
from graft.transfer.regulariser import anchors
from graft.transfer.state import group

STATES = Batch(observations(MATCH.observation, 12), torch.zeros(12, dtype=torch.long))


def test_importances_are_the_fisher_information():
    network = small_network(MATCH)
    method = EWC()
    found = method.importances(network, STATES.observations)
    expected = diagonal_fisher(network, STATES.observations, method.held(network))
    assert all(torch.equal(found[name], t) for name, t in expected.items())
    assert found.keys() == expected.keys() == {f"encoder.{name}" for name, _ in network.encoder.named_parameters()}


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


def test_it_asks_for_enough_states():
    assert EWC.states >= 2048
