"""Transplants between algorithms that play their heads in different ways."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny_tasks import box, discrete, small_config, vector
from support.transplant_fixtures import checkpoint, moved, rows

from graft.agents.networks.policy_network import NetworkConfig
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import METHODS
from graft.transfer.transplant import carried

INPUTS = vector("abc")
ARM = box(["shoulder", "elbow"])


def config(distribution) -> NetworkConfig:
    return replace(small_config("vector"), distribution=distribution)


def test_the_rows_of_the_spread_are_actions():
    """shoulder, elbow -> elbow, wrist: elbow moves up a row, wrist is new, shoulder is dropped."""
    source = checkpoint(INPUTS, ARM, config("squashed"))
    network, report = moved(source, INPUTS, box(["elbow", "wrist"]), distribution="squashed")
    for name in ("policy.out.weight", "policy.out.bias", "policy.spread.weight", "policy.spread.bias"):
        assert torch.equal(network.state_dict()[name][0], source.tensors[name][1])
        assert rows(report)[name] == ("padded", 0.5, "new: wrist (random); dropped: shoulder")
    assert network.config.distribution == "squashed"


@pytest.mark.parametrize(
    ("actions", "source", "target"),
    [
        (ARM, "squashed", None),
        (ARM, None, "squashed"),
        (discrete("l", "r"), "greedy", None),
        (discrete("l", "r"), None, "greedy"),
    ],
)
def test_heads_of_one_algorithm_cannot_serve_another(actions, source, target):
    origin = checkpoint(INPUTS, actions, config(source))
    with pytest.raises(GraftError, match=r"Heads of one algorithm cannot serve another.*use heads: fresh"):
        moved(origin, INPUTS, actions, distribution=target)
    network, report = moved(origin, INPUTS, actions, heads="fresh", distribution=target)
    assert network.config.distribution == target
    assert not report.partial
    encoder = {name: t for name, t in network.state_dict().items() if name.startswith("encoder.")}
    assert all(torch.equal(t, origin.tensors[name]) for name, t in encoder.items())


def test_fresh_heads_let_the_kind_of_actions_change():
    origin = checkpoint(INPUTS, ARM, config("squashed"))
    network, _ = moved(origin, INPUTS, discrete("l", "r"), heads="fresh", distribution="greedy")
    assert network.config.distribution == "greedy"
    weight = "encoder.blocks.0.1.weight"
    numbers = carried(
        origin,
        {weight: torch.ones_like(origin.tensors[weight])},
        Schemas(INPUTS, discrete("l", "r")),
        new_channels="zero",
        rename={},
    )
    assert numbers[weight].all()


def test_methods_take_the_distribution_from_the_targets_architecture():
    origin = checkpoint(INPUTS, discrete("l", "r"), config(None))
    built = METHODS["finetune"]().build(origin, Schemas(INPUTS, ARM), config("squashed"), 0)
    assert built.network.config.distribution == "squashed"
    assert built.network.policy.spread is not None
