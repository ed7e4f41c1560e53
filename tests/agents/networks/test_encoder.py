"""Blocks in a chain, freezing, and what is said to whoever asks for an encoder that cannot be."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import NormEncoder, observations, pixels, planes, vector

from graft.agents.networks.encoder import ENCODERS, build_encoder, default_encoder
from graft.errors import GraftError

SCHEMA = vector(["a", "b", "c"])


@pytest.fixture
def norm() -> NormEncoder:
    return NormEncoder(SCHEMA)


def test_prefix_and_suffix_by_hand(norm):
    norm.eval()
    obs = observations(SCHEMA, 5)
    first = norm.blocks[0](obs)
    assert torch.equal(norm.prefix(obs, 0), obs)
    assert torch.equal(norm.prefix(obs, 1), first)
    assert torch.equal(norm.prefix(obs, 2), norm.blocks[1](first))
    assert torch.equal(norm.suffix(obs, 0), norm.blocks[1](first))
    assert torch.equal(norm.suffix(first, 1), norm.blocks[1](first))
    assert torch.equal(norm.suffix(first, 2), first)


def test_pixels_are_scaled_once():
    schema = pixels(["r", "g", "b"])
    encoder = build_encoder("nature_cnn", schema, {"features": 8})
    obs = observations(schema, 2)
    first = encoder.blocks[0](obs.float() / 255)
    assert torch.equal(encoder.prefix(obs, 1), first)
    assert torch.equal(encoder.prefix(obs, 0), obs)
    assert encoder.prefix(obs, 0).dtype == torch.uint8
    torch.testing.assert_close(encoder(obs), encoder.suffix(first, 1), rtol=0, atol=0)


@pytest.mark.parametrize(("depth", "frozen"), [(0, [False, False]), (1, [True, False]), (2, [True, True])])
def test_freeze_switches_gradients_and_training_mode(norm, depth, frozen):
    norm.freeze(depth)
    assert norm.frozen_blocks == depth
    for mode in (True, False, True):
        norm.train(mode)
        assert norm.training is mode
        for block, cold in zip(norm.blocks, frozen, strict=True):
            assert all(p.requires_grad is not cold for p in block.parameters())
            assert all(m.training is (mode and not cold) for m in block.modules())


def test_freeze_without_depth_freezes_all_and_a_smaller_depth_thaws(norm):
    norm.freeze()
    assert norm.frozen_blocks == 2
    norm.freeze(1)
    assert [p.requires_grad for p in norm.parameters()] == [False] * 4 + [True] * 4
    assert [block.training for block in norm.blocks] == [False, True]


def test_a_parent_in_training_mode_does_not_wake_frozen_blocks(norm):
    norm.freeze(1)
    parent = torch.nn.Sequential(norm, torch.nn.Linear(6, 1)).train()
    assert [block.training for block in norm.blocks] == [False, True]
    parent.eval()
    assert not any(m.training for m in parent.modules())


def test_buffers_of_frozen_blocks_do_not_drift(norm):
    norm.freeze(1)
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    norm.train()
    norm(observations(SCHEMA, 16)).sum().backward()
    buffers = [name for name, _ in norm.named_buffers()]
    moved = [name for name in buffers if not torch.equal(before[name], norm.state_dict()[name])]
    assert moved == [f"blocks.1.2.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")]
    assert all((p.grad is None) is name.startswith("blocks.0.") for name, p in norm.named_parameters())


@pytest.mark.parametrize("depth", [-1, 3])
def test_freezing_more_blocks_than_there_are_is_refused(norm, depth):
    with pytest.raises(GraftError, match=f"depth {depth} .* 0 to 2 blocks"):
        norm.freeze(depth)
    assert norm.frozen_blocks == 0
    assert all(p.requires_grad for p in norm.parameters())


def test_unknown_names_get_the_nearest():
    with pytest.raises(GraftError, match=r"Unknown encoder 'grid_cn'.*Did you mean 'grid_cnn'"):
        build_encoder("grid_cn", planes("ab"), {})
    with pytest.raises(GraftError, match=r"encoder mlp 'width'; allowed: activation, clip, normalise, widths. Did you"):
        build_encoder("mlp", SCHEMA, {"width": [4]})


def test_a_wrong_kind_of_observation_lists_the_encoders_that_fit(monkeypatch):
    list(ENCODERS)  # loads them
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    with pytest.raises(GraftError, match=r"'nature_cnn' cannot take a planes .* \(2, 5, 5\); .*grid_cnn, mlp, norm"):
        build_encoder("nature_cnn", planes("ab"), {})
    with pytest.raises(GraftError, match=r"'nature_cnn' cannot take a pixels .* \(2, 35, 84\); .*: grid_cnn, mlp\."):
        build_encoder("nature_cnn", pixels("ab", 35, 84), {})


@pytest.mark.parametrize("schema", [vector("abc"), planes("abc"), pixels("abc")], ids=lambda s: s.kind)
def test_the_default_encoder_takes_the_kind_it_is_the_default_of(schema):
    encoder = build_encoder(default_encoder(schema), schema, {})
    assert encoder(observations(schema, 2)).shape == (2, encoder.out_dim)


@pytest.mark.parametrize(
    ("name", "schema", "options"),
    [
        ("grid_cnn", planes("a", 1, 3), {"kernels": [2, 1]}),  # (2 - 1) // 2 = 0: no padding
        ("grid_cnn", planes("a", 3, 3), {"pools": [4, 1]}),
        ("grid_cnn", planes("a", 7, 3), {"pools": [2, 2]}),  # 3 -> 1 (pool) -> 1 (stride), below the next pool of 2
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, schema, options):
    with pytest.raises(GraftError, match=r"do not fit an observation of shape|leave nothing"):
        build_encoder(name, schema, options)


@pytest.mark.parametrize(
    ("schema", "default"),
    [
        (vector("ab"), "mlp"),
        (planes("ab"), "grid_cnn"),
        (planes("ab", 40, 40), "grid_cnn"),
        (pixels("ab"), "nature_cnn"),
        (pixels("ab", 35, 84), "grid_cnn"),
        (pixels("a", 1, 1), "grid_cnn"),
    ],
)
def test_every_kind_has_a_default_at_any_size(schema, default):
    assert default_encoder(schema) == default
    assert build_encoder(default, schema, {})(observations(schema, 2)).isfinite().all()


@pytest.mark.parametrize("name", ["grid_cnn", "mlp"])
def test_small_pictures_are_scaled_like_large_ones(name):
    schema, board = pixels("ab", 6, 6), planes("ab", 6, 6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        of_pixels = build_encoder(name, schema, {})
        torch.manual_seed(0)
        of_planes = build_encoder(name, board, {})
    obs = observations(board, 4)
    torch.testing.assert_close(of_pixels(obs * 255), of_planes(obs), rtol=0, atol=0)


def test_the_smallest_screen_fits():
    assert build_encoder("nature_cnn", pixels("a", 36, 36), {"features": 4}).blocks[-1][1].in_features == 64


def test_grid_cnn_sizes_by_hand():
    encoder = build_encoder(
        "grid_cnn", planes("abc", 7, 6), {"channels": [4, 5], "strides": [1, 2], "pools": [2, 1], "features": 9}
    )
    # 7x6, kernel 3 padded by 1: 7x6; pool 2: 3x3; stride 2, kernel 3 padded by 1: 2x2.
    assert encoder.blocks[0][0].weight.shape == (4, 3, 3, 3)
    assert encoder.blocks[1][0].weight.shape == (5, 4, 3, 3)
    assert encoder.blocks[2][1].weight.shape == (9, 5 * 2 * 2)
    assert encoder.out_dim == 9


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("grid_cnn", {"channels": [4]}, "1 channels, 2 kernels, 2 strides, 2 pools and 2 paddings"),
        ("grid_cnn", {"channels": [], "kernels": [], "strides": [], "pools": []}, "at least one convolution"),
        ("grid_cnn", {"strides": [0, 1]}, "strides .* at least 1"),
        ("grid_cnn", {"channels": [4, 0]}, "channels .* at least 1"),
        ("grid_cnn", {"features": 0}, "features .* at least 1"),
        ("mlp", {"widths": []}, "one or more layers"),
        ("mlp", {"widths": [4, 0]}, "at least 1 unit"),
    ],
)
def test_options_out_of_range_are_refused(name, options, words):
    with pytest.raises(GraftError, match=words):
        build_encoder(name, planes("ab"), options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mlp", {"widths": 64}, r"encoder mlp: widths=64 is not allowed: input should be .*sequence"),
        ("mlp", {"widths": [8, "many"]}, r"encoder mlp: widths=\[8, 'many'\] is not allowed: .* integer"),
        ("grid_cnn", {"features": 1.5}, r"encoder grid_cnn: features=1\.5 is not allowed: .* integer"),
    ],
)
def test_options_of_another_type_are_refused(name, options, words):
    with pytest.raises(GraftError, match=words):
        build_encoder(name, planes("ab"), options)


def test_nature_cnn_needs_features():
    with pytest.raises(GraftError, match=r"features=0 .* at least 1"):
        build_encoder("nature_cnn", pixels("ab"), {"features": 0})
