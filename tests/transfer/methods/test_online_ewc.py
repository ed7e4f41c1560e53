"""Online EWC: what is left of older importances, by hand, and the one anchor that moves."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import MATCH, observations, scrambled, small_network

from graft.agents.training.backend import Batch
from graft.errors import GraftError
from graft.transfer.method import TaskPosition
from graft.transfer.methods import online_ewc
from graft.transfer.methods.online_ewc import OnlineEWC

STATES = Batch(observations(MATCH.observation, 4), torch.zeros(4, dtype=torch.long))
NAME = "encoder.blocks.0.1.bias"


@pytest.fixture
def fishers(monkeypatch):
    """The Fisher information that each task will be found to have, first to last: one value per half of a bias."""
    values: list[tuple[float, float]] = []

    def given(network, states, names, value_weight):
        first, second = values.pop(0)
        return {NAME: torch.tensor([float(first)] * 8 + [float(second)] * 8)}

    monkeypatch.setattr(online_ewc, "policy_and_value_fisher", given)
    return values


def test_gamma_by_hand(fishers):
    """Tasks (1, 3), (30, 10) and (5, 5) have (0.5, 1.5), (1.5, 0.5) and (1, 1) after division by their means.

    gamma = 1/2: (0.5, 1.5), then (0.25 + 1.5, 0.75 + 0.5), then (0.875 + 1, 0.625 + 1).
    """
    fishers += [(1, 3), (30, 10), (5, 5)]
    method, network, state = OnlineEWC(gamma=0.5), small_network(MATCH), {}
    expected = [((0.5, 1.5), 2), ((1.75, 1.25), 20), ((1.875, 1.625), 5)]
    for task, (halves, raw) in enumerate(expected):
        scrambled(network, task)
        network, state = method.consolidate(network, state, STATES, TaskPosition(task, 4))
        omega = state[f"omega.0.{NAME}"]
        assert (omega[0].item(), omega[-1].item()) == pytest.approx(halves)
        assert state["raw.0"].item() == pytest.approx(raw)
        assert torch.equal(state[f"anchor.0.{NAME}"], dict(network.named_parameters())[NAME].detach())
        assert state.keys() == {f"omega.0.{NAME}", f"anchor.0.{NAME}", "raw.0"}


def test_gamma_zero_forgets_and_one_keeps_all(fishers):
    network = small_network(MATCH)
    for gamma, halves in ((0.0, (1.5, 0.5)), (1.0, (2.0, 2.0))):
        fishers += [(1, 3), (30, 10)]
        method = OnlineEWC(gamma=gamma)
        state = method.consolidate(network, {}, STATES, TaskPosition(0, 3)).state
        state = method.consolidate(network, state, STATES, TaskPosition(1, 3)).state
        omega = state[f"omega.0.{NAME}"]
        assert (omega[0].item(), omega[-1].item()) == pytest.approx(halves)


def test_the_default_is_the_papers():
    assert OnlineEWC().gamma == 0.95


@pytest.mark.parametrize("gamma", [-0.1, 1.1])
def test_gamma_that_makes_no_sense(gamma):
    with pytest.raises(GraftError, match="gamma"):
        OnlineEWC(gamma=gamma)
