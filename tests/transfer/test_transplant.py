"""Every slice of every tensor by hand, for names that were permuted, added, removed and renamed."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import (
    assert_same,
    box,
    discrete,
    observations,
    planes,
    scrambled,
    vector,
)
from support.transplant_fixtures import FLAT_PLANES, checkpoint, fresh, moved, rows, stem_of

from graft.agents.networks.policy_network import NetworkConfig
from graft.errors import GraftError

INPUTS = [
    pytest.param(vector, None, 1, id="vector"),
    pytest.param(planes, None, 1, id="planes"),
    pytest.param(planes, FLAT_PLANES, 25, id="flattened-planes"),
]


# Names


@pytest.mark.parametrize(("make", "config", "group"), INPUTS)
def test_slices_by_hand(make, config, group):
    """abc -> cXa: c and a move, X is new, b is dropped."""
    source = checkpoint(make("abc"), config=config)
    network, report = moved(source, make("cXa"))
    stem = stem_of(network)
    old, new = source.tensors[stem], network.state_dict()[stem]
    assert new.shape[1] == 3 * group
    cut = [slice(i * group, (i + 1) * group) for i in range(3)]
    assert torch.equal(new[:, cut[0]], old[:, cut[2]])
    assert not new[:, cut[1]].any()
    assert torch.equal(new[:, cut[2]], old[:, cut[0]])
    assert rows(report)[stem] == ("padded", 2 / 3, "new: X (zero); dropped: b")
    rest = {name: tensor for name, tensor in network.state_dict().items() if name != stem}
    assert_same(rest, {name: tensor for name, tensor in source.tensors.items() if name != stem})
    assert {rows(report)[name] for name in rest} == {("copied", 1.0, "")}
    assert report.lost == ("X", "b")
    assert report.partial


@pytest.mark.parametrize(("make", "config", "group"), INPUTS)
def test_the_encoder_computes_on_permuted_observations_what_the_source_computes_on_the_originals(make, config, group):
    source = checkpoint(make("abcd"), config=config)
    network, report = moved(source, make("dbac"))
    obs = observations(make("abcd"), 9)
    expected = source.build()(obs)
    for found, wanted in zip(network(obs[:, [3, 1, 0, 2]]), expected, strict=True):
        if wanted is not None:
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert rows(report)[stem_of(network)] == ("remapped", 1.0, "reordered by name")
    assert not report.partial


@pytest.mark.parametrize(("make", "config", "group"), INPUTS)
def test_a_new_zero_channel_is_not_seen(make, config, group):
    source = checkpoint(make("ab"), config=config)
    network, _ = moved(source, make("aXb"))
    obs = observations(make("aXb"), 9)
    expected = source.build().encoder(obs[:, [0, 2]])
    torch.testing.assert_close(network.encoder(obs), expected, rtol=0, atol=1e-6)


def test_equal_names_are_a_copy():
    source = checkpoint(vector("abc"))
    network, report = moved(source, vector("abc"))
    assert_same(dict(network.state_dict()), dict(source.tensors))
    assert {(row.status, row.share, row.detail) for row in report.rows} == {("copied", 1.0, "")}
    assert (report.lost, report.partial) == ((), False)
    assert report.summary() == f"{len(source.tensors)} copied"
    assert [row.tensor for row in report.rows] == list(network.state_dict())


def test_the_network_is_trainable_and_is_the_sources_architecture():
    source = checkpoint(vector("ab"), config=NetworkConfig("mlp", {"widths": [3]}, (2,)))
    network, _ = moved(source, vector("abc"))
    assert network.config == source.network
    assert all(p.requires_grad for p in network.parameters())
    assert network.schemas.observation.names == ("a", "b", "c")


def test_the_source_is_left_alone():
    source = checkpoint(vector("abc"))
    before = {name: tensor.clone() for name, tensor in source.tensors.items()}
    network, _ = moved(source, vector("abc"))
    scrambled(network, seed=1)
    assert_same(dict(source.tensors), before)


# What new channels start from


def test_random_channels_are_those_of_the_fresh_network():
    source = checkpoint(vector("ab"))
    network, report = moved(source, vector("Xa"), new_channels="random")
    stem = stem_of(network)
    new = network.state_dict()[stem]
    assert torch.equal(new[:, 0], fresh(source, network)[stem][:, 0])
    assert new[:, 0].any()
    assert torch.equal(new[:, 1], source.tensors[stem][:, 0])
    assert rows(report)[stem] == ("padded", 0.5, "new: X (random); dropped: b")


@pytest.mark.parametrize(
    ("wanted", "origins"),
    [
        (["deadly", "mobile"], [1]),  # a and c share one, b both
        (["deadly"], [0, 2]),  # a, b and c share it: Jaccard 1/1, 1/2, 1/1
        (["mobile"], [1]),
        (["deadly", "self"], [0, 2]),  # one shared with a, b, c: Jaccard 1/2, 1/3, 1/2
        (["deadly", "mobile", "self"], [1]),  # two shared with b beat one shared with a more alike
        (["solid", "pickup"], [3, 4]),  # one shared with each: Jaccard 1/2
        (["solid", "pickup", "tall"], [3, 4]),
        (["self"], []),  # no channel has it
        ([], []),
    ],
)
def test_attribute_channels_by_hand(wanted, origins):
    """The most shared attributes, then Jaccard; the mean over what is left."""
    attributes = [["deadly"], ["deadly", "mobile"], ["deadly"], ["solid"], ["pickup"], []]
    source = checkpoint(planes("abcdef", 4, 4, attributes))
    target = planes("fX", 4, 4, [[], wanted])
    network, report = moved(source, target, new_channels="attributes")
    stem = stem_of(network)
    old, new = source.tensors[stem], network.state_dict()[stem]
    expected = sum(old[:, i] for i in origins) / len(origins) if origins else torch.zeros_like(old[:, 0])
    torch.testing.assert_close(new[:, 1], expected)
    assert torch.equal(new[:, 0], old[:, 5])
    how = "mean of " + " and ".join("abcdef"[i] for i in origins) if origins else "zero"
    share = 1.0 if origins else 0.5
    unused = ", ".join("abcde"[i] for i in range(5) if i not in origins)
    assert rows(report)[stem] == ("padded", share, f"new: X ({how}); dropped: {unused}")
    assert "X" in report.lost


def test_attributes_fill_every_cell_of_flattened_planes():
    source = checkpoint(planes("abc", 2, 3, [["deadly"], ["deadly"], []]), config=FLAT_PLANES)
    network, _ = moved(source, planes("cX", 2, 3, [[], ["deadly"]]), new_channels="attributes")
    stem = stem_of(network)
    old, new = source.tensors[stem], network.state_dict()[stem]
    assert torch.equal(new[:, 0:6], old[:, 12:18])
    torch.testing.assert_close(new[:, 6:12], (old[:, 0:6] + old[:, 6:12]) / 2)


def test_attributes_alone_are_enough_to_have_in_common():
    source = checkpoint(planes("ab", 4, 4, [["self"], ["deadly"]]))
    target = planes("XY", 4, 4, [["deadly"], ["self"]])
    network, report = moved(source, target, new_channels="attributes")
    stem = stem_of(network)
    assert torch.equal(network.state_dict()[stem], source.tensors[stem][:, [1, 0]])
    assert rows(report)[stem] == ("padded", 1.0, "new: X (mean of b), Y (mean of a)")
    assert report.lost == ("X", "Y")
    with pytest.raises(GraftError, match="shares nothing"):
        moved(source, target, new_channels="zero")


def test_long_lists_of_names_are_cut():
    source = checkpoint(vector("abcdefghijk"))
    network, report = moved(source, vector("a"))
    assert rows(report)[stem_of(network)][2] == "dropped: b, c, d, e, f, g, h, i and 2 more"
    assert report.lost == tuple("bcdefghijk")


# Renaming


def test_renamed_channels_and_actions():
    source = checkpoint(vector("abc"), discrete("left", "right", "stay"))
    network, report = moved(
        source, vector("Zab"), discrete("wait", "left"), rename={"Z": "c", "wait": "stay"}, strict=False
    )
    stem = stem_of(network)
    assert torch.equal(network.state_dict()[stem], source.tensors[stem][:, [2, 0, 1]])
    for name in ("policy.out.weight", "policy.out.bias"):
        assert torch.equal(network.state_dict()[name], source.tensors[name][[2, 0]])
        assert rows(report)[name] == ("remapped", 1.0, "dropped: right")
    assert report.lost == ("right",)


def test_renamed_in_place_is_a_copy():
    source = checkpoint(vector("ab"))
    network, report = moved(source, vector("Zb"), rename={"Z": "a"})
    assert_same(dict(network.state_dict()), dict(source.tensors))
    assert rows(report)[stem_of(network)] == ("copied", 1.0, "")
    assert not report.partial


def test_rename_beats_an_equal_name():
    source = checkpoint(vector("ab"))
    network, _ = moved(source, vector("ab"), rename={"a": "b", "b": "a"})
    stem = stem_of(network)
    assert torch.equal(network.state_dict()[stem], source.tensors[stem][:, [1, 0]])


def test_a_name_of_both_an_observation_and_an_action_is_renamed_where_it_can_be():
    source = checkpoint(vector(["goal", "x"]), discrete("fire", "x"))
    network, report = moved(source, vector(["x", "fire"]), discrete("x", "fire"), rename={"fire": "goal"})
    stem = stem_of(network)
    assert torch.equal(network.state_dict()[stem], source.tensors[stem][:, [1, 0]])
    assert torch.equal(network.state_dict()["policy.out.bias"], source.tensors["policy.out.bias"][[1, 0]])
    assert not report.partial


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        ({"coim": "gem"}, "left of rename .*'coim'.*Did you mean 'coin'"),
        ({"coin": "gen"}, "right of rename .*'gen'.*Did you mean 'gem'"),
        ({"gem": "coin"}, "left of rename"),  # the wrong way round
        ({"coin": "left"}, "right of rename .*'left'; allowed: gem, wall"),  # an observation is no action
        ({"push": "wall"}, "right of rename .*'wall'; allowed: left, right"),
    ],
)
def test_renames_of_unknown_names_get_the_nearest(rename, words):
    source = checkpoint(vector(["gem", "wall"]))
    with pytest.raises(GraftError, match=words):
        moved(source, vector(["coin", "wall"]), discrete("left", "push"), rename=rename)


# Heads


def test_fresh_heads_are_those_of_the_fresh_network_and_not_a_loss():
    source = checkpoint(vector("ab"))
    network, report = moved(source, vector("ab"), discrete("up"), heads="fresh", strict=True)
    start = fresh(source, network)
    for name, tensor in network.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, source.tensors[name])
        else:
            assert torch.equal(tensor, start[name])
            assert rows(report)[name] == ("initialised", 0.0, "fresh head")
    assert report.lost == ()
    assert report.summary() == "4 copied, 8 initialised"


def test_action_rows_by_hand():
    source = checkpoint(vector("ab"), discrete("left", "right", "stay"))
    network, report = moved(source, vector("ab"), discrete("stay", "jump", "left"))
    start = fresh(source, network)
    for name in ("policy.out.weight", "policy.out.bias"):
        old, new = source.tensors[name], network.state_dict()[name]
        assert torch.equal(new[[0, 2]], old[[2, 0]])
        assert torch.equal(new[1], start[name][1])
        assert rows(report)[name] == ("padded", 2 / 3, "new: jump (random); dropped: right")
    for name in ("policy.hidden.0.weight", "value.hidden.0.bias", "value.out.weight"):
        assert torch.equal(network.state_dict()[name], source.tensors[name])
    assert report.lost == ("jump", "right")


def test_box_actions_carry_their_spread():
    source = checkpoint(vector("ab"), box(["x", "y"]))
    network, report = moved(source, vector("ab"), box(["y", "z"]))
    log_std = network.state_dict()["policy.log_std"]
    assert log_std[0] == source.tensors["policy.log_std"][1]
    assert log_std[1] == 0
    assert rows(report)["policy.log_std"] == ("padded", 0.5, "new: z (random); dropped: x")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (discrete("left", "right"), discrete("up", "down")),
        (discrete("x", "y"), box(["x", "y"])),
        (box(["x", "y"]), discrete("x", "y")),
    ],
    ids=["disjoint", "discrete-to-box", "box-to-discrete"],
)
def test_heads_that_cannot_be_carried(old, new):
    source = checkpoint(vector("ab"), old)
    words = rf"{new.kind} \({', '.join(new.names)}\), the source's {old.kind} \({', '.join(old.names)}\).*heads: fresh"
    with pytest.raises(GraftError, match=words):
        moved(source, vector("ab"), new)
    network, report = moved(source, vector("ab"), new, heads="fresh")
    assert network(torch.zeros(1, 2)).action.shape == (1, 2)
    assert not report.partial
    dropped = [(row.tensor, row.wanted) for row in report.rows if row.status == "dropped"]
    assert dropped == ([("policy.log_std", False)] if old.kind == "box" else [])


def test_disjoint_actions_may_be_renamed():
    source = checkpoint(vector("ab"), discrete("left", "right"))
    network, report = moved(source, vector("ab"), discrete("up", "down"), rename={"down": "left"})
    assert network.state_dict()["policy.out.bias"][1] == source.tensors["policy.out.bias"][0]
    assert report.lost == ("up", "right")
