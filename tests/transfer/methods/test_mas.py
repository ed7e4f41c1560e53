"""MAS: importances are the outputs' sensitivities, one anchor per task."""

from __future__ import annotations

import torch
from support.tiny_tasks import MATCH, observations, small_network

from graft.agents.training.backend import Batch
from graft.transfer.fisher import diagonal_fisher, sensitivities
from graft.transfer.method import TaskPosition
from graft.transfer.methods.mas import MAS
from graft.transfer.regulariser import anchors

STATES = Batch(observations(MATCH.observation, 12), torch.zeros(12, dtype=torch.long))


def test_importances_are_the_sensitivities():
    network, method = small_network(MATCH), MAS()
    found = method.importances(network, STATES.observations)
    expected = sensitivities(network, STATES.observations, method.held(network))
    fisher = diagonal_fisher(network, STATES.observations, method.held(network))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], t) for name, t in expected.items())
    assert not all(torch.allclose(found[name], t) for name, t in fisher.items())


def test_one_anchor_per_task():
    method, network = MAS(), small_network(MATCH)
    first = method.consolidate(network, {}, STATES, TaskPosition(0, 3)).state
    second = method.consolidate(network, first, STATES, TaskPosition(1, 3)).state
    assert anchors(second) == [0, 1]
    assert all(torch.equal(second[name], t) for name, t in first.items())
    assert MAS.states >= 2048
