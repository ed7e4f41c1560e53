"""The method progressive: what is frozen, what is carried into it, and which column answers for which task."""

from __future__ import annotations

import pytest
import torch
from support.progressive_columns import ACTIONS, SMALL, columns
from support.tiny_tasks import (
    EVALUATION,
    MATCH,
    TASK,
    assert_same,
    box,
    discrete,
    observations,
    planes,
    small_config,
    small_ppo,
    vector,
    weights,
)

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.agents.sb3 import train
from graft.agents.training.backend import TrainJob
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import METHODS
from graft.transfer.transplant import transplant


def build(source: Checkpoint, target: Schemas = SMALL, seed: int = 3, **options):
    kind = target.observation.kind
    return METHODS["progressive"](**options).build(source, target, small_config(kind), seed)


def checkpoint(count: int = 1, schemas: Schemas = SMALL) -> Checkpoint:
    return Checkpoint.of(columns(count, schemas), TASK)


def prefixed(tensors, prefix: str):
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


@pytest.mark.parametrize("count", [1, 2])
def test_the_source_is_there_bit_for_bit_beside_a_fresh_column(count):
    source = checkpoint(count)
    network = build(source).network
    assert isinstance(network, ProgressiveNetwork)
    assert len(network.columns) == count + 1
    tensors = network.state_dict()
    assert_same(prefixed(tensors, "earlier."), dict(source.tensors))
    fresh = PolicyNetwork(SMALL, small_config("vector"), 3).state_dict()
    assert_same({n: t for n, t in tensors.items() if n in fresh}, dict(fresh))
    obs = observations(SMALL.observation, 7)
    for a, b in zip(network.earlier(obs)[::2], source.build()(obs)[::2], strict=True):
        assert torch.equal(a, b)
    trains = {n.split(".")[0] for n, p in network.named_parameters() if p.requires_grad}
    assert trains == {"encoder", "policy", "value", "laterals"}


def test_earlier_columns_keep_their_own_heads_for_other_actions():
    source = checkpoint()
    target = Schemas(SMALL.observation, box(["x"]))
    network = build(source, target).network
    assert network.schemas == target
    assert network.earlier.schemas == source.schemas
    assert_same(prefixed(network.state_dict(), "earlier."), dict(source.tensors))
    assert network(observations(SMALL.observation, 2)).action.shape == (2, 1)


def test_other_observations_are_transplanted_and_the_heads_are_carried_whole():
    source = checkpoint()
    target = Schemas(vector(["c", "x", "a"]), discrete("up"))
    options = {"new_channels": "zero", "rename": {"x": "b"}}
    expected, _ = transplant(
        source, Schemas(target.observation, ACTIONS), heads="by_name", strict=True, seed=0, **options
    )
    network, report = build(source, target, **options)
    assert_same(prefixed(network.state_dict(), "earlier."), dict(expected.state_dict()))
    assert not report.partial
    obs = observations(target.observation, 5)
    original = source.build()(obs[:, [2, 1, 0]])
    torch.testing.assert_close(network.earlier(obs).action, original.action)
    torch.testing.assert_close(network.earlier(obs).value, original.value)


def test_rename_counts_where_the_names_are_equal_too():
    swapped = build(checkpoint(), rename={"a": "b", "b": "a"}).network
    obs = observations(SMALL.observation, 5)
    torch.testing.assert_close(swapped.earlier(obs[:, [1, 0, 2]]).value, checkpoint().build()(obs).value)


def test_the_report_says_what_was_carried_and_what_is_new():
    source = checkpoint(schemas=Schemas(planes("abc"), ACTIONS))
    network, report = build(source, Schemas(planes("abx", 7, 7), ACTIONS), new_channels="zero")
    rows = {row.tensor: row for row in report.rows}
    assert list(rows) == list(network.state_dict())
    assert rows["earlier.encoder.blocks.0.0.weight"].status == "padded"
    assert rows["earlier.encoder.blocks.1.0.weight"].status == "copied"
    assert rows["earlier.policy.out.weight"].status == "copied"
    lost = rows["earlier.encoder.blocks.2.1.weight"]
    assert (lost.status, lost.wanted) == ("initialised", True)
    assert set(report.lost) == {"x", "c", "earlier.encoder.blocks.2.1.weight"}
    new = [row for row in report.rows if not row.tensor.startswith("earlier.")]
    assert {(row.status, row.share, row.detail, row.wanted) for row in new} == {
        ("initialised", 0.0, "new column", False)
    }
    assert any(row.tensor.startswith("laterals.") for row in new)


@pytest.mark.parametrize("count", [1, 2])
def test_the_report_on_equal_observations_has_no_loss(count):
    network, report = build(checkpoint(count), strict=True)
    assert not report.partial
    assert [row.tensor for row in report.rows] == list(network.state_dict())
    carried = [row for row in report.rows if row.tensor.startswith("earlier.")]
    assert {(row.status, row.share) for row in carried} == {("copied", 1.0)}


def test_strict_reaches_the_transplant():
    with pytest.raises(GraftError, match=r"strict.*x"):
        build(checkpoint(), Schemas(vector(["a", "b", "x"]), ACTIONS), strict=True)


def test_several_columns_cannot_be_moved_to_other_observations():
    with pytest.raises(GraftError, match=r"source of 2 columns .* target's are a, b, x, the source's a, b, c"):
        build(checkpoint(2), Schemas(vector(["a", "b", "x"]), ACTIONS))


def test_view_is_the_network_that_was_kept_after_each_task(tiny_tasks, tmp_path):
    method, kept, outputs = METHODS["progressive"](), [columns(1, MATCH)], []
    obs = observations(MATCH.observation, 6)
    for task in range(3):
        network = kept[-1]
        train(TrainJob(network, TASK, small_ppo(), 256, task, lambda *_: None, EVALUATION, device="cpu"))
        outputs.append([t.clone() for t in network(obs) if t is not None])
        Checkpoint.of(network, TASK).save(tmp_path / str(task))
        source = Checkpoint.load(tmp_path / str(task))
        kept.append(method.build(source, MATCH, small_config("vector"), task).network)
        for earlier, wanted in enumerate(outputs):
            for net in (network, source.build(), kept[-1]):
                viewed = method.view(net, {}, earlier)
                found = [t for t in viewed(obs) if t is not None]
                assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), (task, earlier)
    last = kept[-1]
    assert method.view(last, {}, 3) is method.view(last, {}, 9) is last
    plain = kept[0]
    assert method.view(plain, {}, 0) is method.view(plain, {}, 2) is plain


def test_what_it_says_of_itself():
    kind = METHODS["progressive"]
    assert (kind.provides, kind.states) == ({"fresh_weights", "needs_task"}, 0)
    assert not kind().overrides("gradients")  # so that the earlier columns are computed once per rollout
    with pytest.raises(AssertionError, match="always given one"):
        kind().build(None, SMALL, small_config("vector"), 0)


def test_building_leaves_the_source_alone():
    source = checkpoint(2)
    before = {n: t.clone() for n, t in source.tensors.items()}
    network = build(source).network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert_same(dict(source.tensors), before)
    assert_same(weights(build(source).network), weights(build(source).network))
