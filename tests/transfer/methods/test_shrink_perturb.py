"""Shrink and perturb: the mixture by hand, and its two ends."""

from __future__ import annotations

import math

import pytest
import torch
from support.tiny_tasks import (
    NormEncoder,
    assert_same,
    discrete,
    planes,
    scrambled,
    small_config,
    small_network,
    weights,
)

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.method import METHODS

ACTIONS = discrete("left", "right")
SAME = Schemas(planes("ab", 5, 5), ACTIONS)
WIDER = Schemas(planes("abc", 5, 5), ACTIONS)
LARGER = Schemas(planes("ab", 9, 9), ACTIONS)
STEM, TRUNK = "encoder.blocks.0.0.weight", "encoder.blocks.2.1.weight"
TASK = Task("tiny/Source-v0")


@pytest.fixture
def source() -> Checkpoint:
    return Checkpoint.of(scrambled(small_network(SAME)), TASK)


def tensors(name: str, source: Checkpoint | None, target: Schemas = SAME, seed: int = 4, **options):
    return weights(METHODS[name](**options).build(source, target, small_config("planes"), seed).network)


@pytest.mark.parametrize("target", [SAME, WIDER, LARGER], ids=["same", "wider", "larger"])
@pytest.mark.parametrize("heads", ["fresh", "by_name"])
def test_one_is_finetune_and_zero_is_scratch_bit_for_bit(source, target, heads):
    assert_same(
        tensors("shrink_perturb", source, target, shrink=1.0, heads=heads),
        tensors("finetune", source, target, heads=heads),
    )
    assert_same(tensors("shrink_perturb", source, target, shrink=0.0, heads=heads), tensors("scratch", None, target))


def test_the_mixture_by_hand(source):
    mixed = tensors("shrink_perturb", source, shrink=0.25, heads="by_name")
    fresh = tensors("scratch", None)
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, 0.25 * source.tensors[name] + 0.75 * fresh[name])
    one = float(source.tensors["policy.out.bias"][1])
    assert float(mixed["policy.out.bias"][1]) == pytest.approx(0.25 * one, rel=1e-6)  # fresh biases are zero


def test_fresh_heads_are_left_alone(source):
    mixed, finetune = (tensors(n, source, heads="fresh") for n in ("shrink_perturb", "finetune"))
    heads = [name for name in mixed if name.startswith(("policy.", "value."))]
    assert all(torch.equal(mixed[name], finetune[name]) for name in heads)


def test_new_slices_are_mixed_with_their_layer_and_lost_layers_are_fresh(source):
    wider, fresh = (tensors(n, s, WIDER) for n, s in (("shrink_perturb", source), ("scratch", None)))
    torch.testing.assert_close(wider[STEM][:, 2], 0.2 * fresh[STEM][:, 2])  # nothing is like c, which starts at zero
    larger, fresh = (tensors(n, s, LARGER) for n, s in (("shrink_perturb", source), ("scratch", None)))
    assert torch.equal(larger[TRUNK], fresh[TRUNK])


def test_running_statistics_are_mixed_and_counters_are_the_sources(monkeypatch):
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    config = NetworkConfig("norm", head=(8,))
    network = scrambled(PolicyNetwork(SAME, config, 0))
    network.encoder.blocks[0][2].num_batches_tracked.fill_(7)
    built = METHODS["shrink_perturb"](shrink=0.5).build(Checkpoint.of(network, TASK), SAME, config, 1).network
    norm, old = built.encoder.blocks[0][2], network.encoder.blocks[0][2]
    torch.testing.assert_close(norm.running_var, 0.5 * old.running_var + 0.5)
    torch.testing.assert_close(norm.running_mean, 0.5 * old.running_mean)
    assert int(norm.num_batches_tracked) == 7


def test_everything_trains_and_the_source_is_untouched(source):
    before = {name: tensor.clone() for name, tensor in source.tensors.items()}
    state = torch.get_rng_state()
    network = METHODS["shrink_perturb"]().build(source, SAME, small_config("planes"), 1).network
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in network.parameters())
    assert_same(dict(source.tensors), before)


def test_the_report_says_so(source):
    report = METHODS["shrink_perturb"](heads="fresh").build(source, WIDER, small_config("planes"), 1).report
    details = {row.tensor: row.detail for row in report.rows}
    assert details[STEM].endswith("times 0.8, plus 0.2 of a fresh one")
    assert details[STEM].startswith("new: c")
    assert details["policy.out.weight"] == "fresh head"


@pytest.mark.parametrize("shrink", [-0.1, 1.1, math.nan])
def test_options_that_are_not_allowed(shrink):
    with pytest.raises(GraftError, match="ShrinkPerturb: shrink="):
        METHODS["shrink_perturb"](shrink=shrink)
