"""One life of a method: what a session builds, lends to training, keeps, and writes into a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny_tasks import MATCH, TASK, assert_same, observations, small_config, small_network, vector, weights

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch
from graft.agents.training.rollouts import Rollouts
from graft.envs.core.schema import Schemas
from graft.transfer.method import PART, TaskPosition, parse_method
from graft.transfer.session import TransferSession

CONFIG = small_config(MATCH.observation.kind)


def play(network: PolicyNetwork, states: int, unroll: int) -> Rollouts:
    assert unroll == 1
    numbers = torch.zeros(states)
    return Rollouts(observations(network.schemas.observation, states), numbers.long(), numbers, numbers, 1, 3 * states)


def test_plain_training_has_no_hooks_and_leaves_no_state():
    session = TransferSession.begin(None, None, MATCH, CONFIG, 3)
    assert_same(weights(session.network), weights(PolicyNetwork(MATCH, CONFIG, 3)))
    hooks = session.hooks()
    assert (hooks.gradients, hooks.schedule, hooks.rates) == (None, None, {})
    assert hooks.report is not None
    assert hooks.report(session.network) == {}
    assert session.checkpoint(TASK).parts == {}


def test_a_life_from_one_task_to_the_next():
    method = parse_method({"ewc": {"strength": 3.0}})
    first = TransferSession.begin(method, None, MATCH, CONFIG, 0)
    assert (first.state, first.report) == ({}, None)
    finished = first.finish()
    assert finished.consolidate(play, TaskPosition(0, 2)) == 3 * method.states  # played for them
    source = finished.checkpoint(TASK, {"empty": {}})
    assert source.parts.keys() == {PART}
    second = TransferSession.begin(method, source, MATCH, CONFIG, 1)
    assert second.report is not None
    gradients = second.hooks().gradients
    assert gradients is not None
    grads = {name: torch.ones_like(p) for name, p in second.network.named_parameters()}
    with torch.no_grad():
        for parameter in second.network.parameters():
            parameter.add_(0.1)
    changed = gradients(grads, second.network, Batch(*play(second.network, 4, 1)[:2]))
    assert not torch.equal(changed["encoder.blocks.0.1.weight"], grads["encoder.blocks.0.1.weight"])
    measured = second.measure(second.network)
    assert measured["transfer/penalty"] > 0
    saved, other = second.save(), TransferSession.of(method, source)
    other.restore(saved)
    assert_same(dict(other.state), dict(second.state))


def test_a_method_that_keeps_nothing_is_shown_nothing():
    session = TransferSession.of(parse_method("frozen"), Checkpoint.of(small_network(MATCH), TASK))
    assert session.consolidate(lambda *_: pytest.fail("it was played"), TaskPosition(0, 2)) == 0


def test_a_checkpoint_without_stems_is_transplanted_like_one_with_them(tmp_path: Path):
    """Checkpoints did not always hold theirs."""
    made = Checkpoint.of(small_network(Schemas(vector(["a", "b", "c"]), MATCH.action)), TASK)
    replace(made, stems=None).save(tmp_path / "old")
    made.save(tmp_path / "new")
    old, new = Checkpoint.load(tmp_path / "old"), Checkpoint.load(tmp_path / "new")
    assert old.stems is None
    assert new.stems == made.stems
    target = Schemas(vector(["c", "d", "a"]), MATCH.action)
    moved = [TransferSession.begin(parse_method("finetune"), c, target, c.network, 1) for c in (old, new)]
    assert_same(weights(moved[0].network), weights(moved[1].network))
    assert moved[0].report == moved[1].report
