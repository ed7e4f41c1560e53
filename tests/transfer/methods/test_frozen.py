"""Frozen: which blocks keep the source's weights, and when a network cannot be frozen."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import assert_same, discrete, planes, scrambled, small_config, small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.methods.finetune import Finetune
from graft.transfer.methods.frozen import Frozen

ACTIONS = discrete("left", "right")
SAME = Schemas(planes("ab", 5, 5), ACTIONS)
LARGER = Schemas(planes("ab", 9, 9), ACTIONS)
BLOCKS = 3
"""Of `small_config("planes")`: two convolutions and a linear layer, which depends on the board."""


@pytest.fixture
def source() -> Checkpoint:
    return Checkpoint.of(scrambled(small_network(SAME)), Task("tiny/Source-v0"))


def build(source: Checkpoint, target: Schemas = SAME, **options):
    return Frozen(**options).build(source, target, small_config("planes"), 1)


def frozen_blocks(network: PolicyNetwork) -> list[bool]:
    """Per block, whether it is frozen; a block is so as a whole."""
    flags = [{not p.requires_grad for p in block.parameters()} for block in network.encoder.blocks]
    assert all(len(flag) == 1 for flag in flags)
    return [flag.pop() for flag in flags]


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, [True, True, True]),
        ({"depth": "all"}, [True, True, True]),
        ({"depth": 1}, [True, False, False]),
        ({"depth": 2}, [True, True, False]),
        ({"depth": 3}, [True, True, True]),
    ],
)
def test_it_freezes_from_the_input_up(source, options, frozen):
    network = build(source, **options).network
    assert frozen_blocks(network) == frozen
    assert [not block.training for block in network.train().encoder.blocks] == frozen
    assert all(p.requires_grad for n, p in network.named_parameters() if not n.startswith("encoder."))


def test_frozen_carries_what_finetune_carries(source):
    frozen = build(source, heads="by_name")
    finetune = Finetune(heads="by_name").build(source, SAME, small_config("planes"), 1)
    assert_same(dict(frozen.network.state_dict()), dict(finetune.network.state_dict()))
    assert frozen.report == finetune.report


def test_frozen_has_no_more_blocks_than_the_encoder(source):
    with pytest.raises(GraftError, match="depth 4 is not allowed; this encoder has 0 to 3 blocks"):
        build(source, depth=4)


@pytest.mark.parametrize("depth", ["all", 3])
def test_frozen_refuses_to_freeze_what_the_source_could_not_fill(source, depth):
    words = r"Cannot freeze encoder\.blocks\.2\.1\.weight: .* \(shape \(16, 54\) became \(16, 150\)\).* smaller depth"
    with pytest.raises(GraftError, match=words):
        build(source, LARGER, depth=depth)


@pytest.mark.parametrize("depth", [1, 2])
def test_frozen_may_freeze_the_convolutions_on_another_board(source, depth):
    network = build(source, LARGER, depth=depth).network
    assert frozen_blocks(network) == [i < depth for i in range(BLOCKS)]
    for name in ("encoder.blocks.0.0.weight", "encoder.blocks.1.0.weight"):
        assert torch.equal(network.state_dict()[name], source.tensors[name])
