"""Boards of another shape, errors, strictness, and the report of a transplant."""

from __future__ import annotations

import json

import pytest
import torch
from support.tiny_tasks import (
    NormEncoder,
    assert_same,
    box,
    discrete,
    planes,
    small_network,
    vector,
)
from support.transplant_fixtures import FLAT_PLANES, LEFT_RIGHT, checkpoint, fresh, moved, rows, stem_of

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError

# Boards


def test_another_board_keeps_the_convolutions_and_starts_the_linear_layer():
    source = checkpoint(planes("abc", 5, 5))
    network, report = moved(source, planes("cab", 9, 9), heads="fresh")
    start = fresh(source, network)
    found = rows(report)
    assert torch.equal(
        network.state_dict()["encoder.blocks.0.0.weight"], source.tensors["encoder.blocks.0.0.weight"][:, [2, 0, 1]]
    )
    assert found["encoder.blocks.0.0.weight"] == ("remapped", 1.0, "reordered by name")
    for name in ("encoder.blocks.0.0.bias", "encoder.blocks.1.0.weight", "encoder.blocks.1.0.bias"):
        assert torch.equal(network.state_dict()[name], source.tensors[name])
        assert found[name] == ("copied", 1.0, "")
    # Two convolutions, the second with stride 2, to 6 channels: 5x5 -> 3x3, 9x9 -> 5x5.
    linear = "encoder.blocks.2.1.weight"
    assert found[linear] == ("initialised", 0.0, "shape (16, 54) became (16, 150)")
    assert torch.equal(network.state_dict()[linear], start[linear])
    assert report.lost == (linear,)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (planes("abc", 4, 3), planes("abc", 3, 4)),  # as many cells, but others
        (planes("abcd", 3, 3), planes("ab", 6, 3)),  # as many inputs
        (planes("abcd", 3, 3), planes("ab", 3, 2)),  # the source's 36 inputs are 6 times the target's 6 cells
        (planes("ab", 2, 2), planes("ab", 3, 3)),
    ],
    ids=["turned", "same-size", "divisible", "larger"],
)
def test_flattened_boards_of_another_layout_do_not_fit(old, new):
    source = checkpoint(old, config=FLAT_PLANES)
    network, report = moved(source, new)
    stem = stem_of(network)
    assert rows(report)[stem][:2] == ("initialised", 0.0)
    assert rows(report)[stem][2] == f"its input is the whole board, and {old.shape[1:]} became {new.shape[1:]}"
    assert torch.equal(network.state_dict()[stem], fresh(source, network)[stem])
    assert report.lost == (stem,)
    with pytest.raises(GraftError, match="strict"):
        moved(source, new, strict=True)


def test_a_vector_does_not_become_a_board_of_the_same_names():
    source = checkpoint(planes("ab", 2, 1), config=FLAT_PLANES)
    network, report = moved(source, vector("ab"))
    assert rows(report)[stem_of(network)][:2] == ("initialised", 0.0)


def test_buffers_of_the_encoder_are_carried(monkeypatch):
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    source = checkpoint(vector("ab"), config=NetworkConfig("norm", head=(4,)))
    source.tensors["encoder.blocks.0.2.num_batches_tracked"].fill_(17)
    network, _ = moved(source, vector("abX"))
    for name, _ in network.named_buffers():
        assert torch.equal(network.state_dict()[name], source.tensors[name])
    assert network.state_dict()["encoder.blocks.0.2.num_batches_tracked"] == 17


# Errors, strictness, and the report


@pytest.mark.parametrize("mode", ["zero", "random", "attributes"])
def test_nothing_in_common_is_an_error(mode):
    source = checkpoint(vector(["coin", "wall"]))
    words = "shares nothing with the source: its observations are gem, door, the source's coin, wall; give 'rename'"
    with pytest.raises(GraftError, match=words):
        moved(source, vector(["gem", "door"]), new_channels=mode)


def test_an_encoder_that_cannot_read_the_target_is_an_error():
    with pytest.raises(GraftError, match="Encoder 'grid_cnn' cannot take a vector"):
        moved(checkpoint(planes("ab")), vector("ab"))


@pytest.mark.parametrize(
    ("target", "actions", "named"),
    [(vector("abX"), LEFT_RIGHT, "X"), (vector("a"), LEFT_RIGHT, "b"), (vector("ab"), discrete("left"), "right")],
)
def test_strict_refuses_every_loss(target, actions, named):
    source = checkpoint(vector("ab"))
    with pytest.raises(GraftError, match=f"strict.*lose or invent {named}"):
        moved(source, target, actions, strict=True)
    moved(source, target, actions)


def test_strict_allows_another_order():
    network, report = moved(checkpoint(vector("ab")), vector("ba"), discrete("right", "left"), strict=True)
    assert not report.partial
    assert rows(report)["policy.out.bias"] == ("remapped", 1.0, "reordered by name")
    assert report.summary() == "3 remapped, 9 copied"
    assert network.schemas.action.names == ("right", "left")


def test_the_seed_decides_the_fresh_weights_alone():
    source = checkpoint(vector("ab"))
    one, same, other = (moved(source, vector("aX"), new_channels="random", seed=s)[0].state_dict() for s in (1, 1, 2))
    assert_same(dict(one), dict(same))
    stem = "encoder.blocks.0.1.weight"
    assert torch.equal(one[stem][:, 0], other[stem][:, 0])
    assert not torch.equal(one[stem][:, 1], other[stem][:, 1])


def test_the_report_is_plain_json():
    source = checkpoint(vector("ab"), box(["x"]))
    _, report = moved(source, vector("aX"), discrete("x"), heads="fresh")
    data = json.loads(json.dumps(report.to_json()))
    assert data["lost"] == ["X", "b"]
    assert data["summary"] == report.summary() == "1 padded, 3 copied, 8 initialised, 1 dropped"
    assert data["rows"][0] == {
        "tensor": "encoder.blocks.0.1.weight",
        "status": "padded",
        "share": 0.5,
        "detail": "new: X (zero); dropped: b",
        "wanted": True,
    }
    assert data["rows"][-1] == {
        "tensor": "policy.log_std",
        "status": "dropped",
        "share": 0.0,
        "detail": "the target has no such tensor",
        "wanted": False,
    }


def test_a_source_whose_tensors_are_not_its_networks_is_reported():
    """As after a hand edit: what the source lacks starts afresh, what the target has no place for is dropped."""
    source = checkpoint(vector("ab"))
    tensors = dict(source.tensors)
    tensors["encoder.extra"] = tensors.pop("encoder.blocks.1.1.bias")
    edited = Checkpoint(source.network, source.schemas, source.task, tensors)
    _, report = moved(edited, vector("ab"))
    assert rows(report)["encoder.blocks.1.1.bias"] == ("initialised", 0.0, "the source has no such tensor")
    assert rows(report)["encoder.extra"] == ("dropped", 0.0, "the target has no such tensor")
    assert report.lost == ("encoder.blocks.1.1.bias", "encoder.extra")


def test_the_source_may_come_from_a_live_network():
    network = small_network(Schemas(vector("ab"), LEFT_RIGHT))
    carried, _ = moved(Checkpoint.of(network, Task("x")), vector("ab"))
    assert_same(dict(carried.state_dict()), dict(network.state_dict()))
