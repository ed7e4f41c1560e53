"""L2-SP: every weight of the encoder is held alike where training began."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import MATCH, TASK, discrete, observations, small_network, vector

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.training.backend import Batch
from graft.envs.core.schema import Schemas
from graft.transfer.method import TaskPosition
from graft.transfer.methods.l2 import L2

STATES = Batch(observations(MATCH.observation, 1), torch.zeros(1, dtype=torch.long))


def test_penalty_by_hand():
    """Every held weight 0.5 from its anchor: (3 / 2) * n * 0.25, and 1.5 on every gradient."""
    network = small_network(MATCH)
    method = L2(strength=3.0)
    state = method.init(network, Checkpoint.of(network, TASK))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5)
    grads = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    step = method.gradients(grads, network, state, STATES)
    held = sum(p.numel() for p in network.encoder.parameters())
    assert step.penalty is not None
    assert step.penalty.item() == pytest.approx(1.5 * held * 0.25, rel=1e-5)
    for name, grad in step.grads.items():
        expected = 1.5 if name.startswith("encoder.") else 0.0
        torch.testing.assert_close(grad, torch.full_like(grad, expected), rtol=1e-5, atol=0)


def test_the_anchor_is_where_training_begins_whatever_the_names():
    """New columns, too, are held where they start; the source need not have been consolidated."""
    source = Checkpoint.of(small_network(MATCH), TASK)
    target = Schemas(vector(["new", "a"]), discrete("up", "down"))
    method = L2()
    network = method.build(source, target, source.network, 1).network
    state = method.init(network, source)
    for name, parameter in network.encoder.named_parameters():
        assert torch.equal(state[f"anchor.0.encoder.{name}"], parameter)
        assert torch.equal(state[f"omega.0.encoder.{name}"], torch.ones_like(parameter))


def test_only_the_latest_task_is_held():
    network = small_network(MATCH)
    method = L2()
    state = method.init(network, Checkpoint.of(network, TASK))
    assert method.consolidate(network, state, STATES, TaskPosition(1, 3)).state == {}
    assert method.init(network, None) == {}
