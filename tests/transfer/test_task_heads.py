"""One encoder with the heads of several tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.progressive_columns import columns
from support.tiny_tasks import (
    MATCH,
    NormEncoder,
    assert_same,
    box,
    discrete,
    observations,
    scrambled,
    small_config,
    small_network,
    weights,
)

from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.task_heads import heads_of, serving

OBS = observations(MATCH.observation, 6)
OTHER = Schemas(MATCH.observation, discrete("jump", "duck"))


def outputs(network: PolicyNetwork) -> list[torch.Tensor]:
    found = network(OBS)
    return [t for t in found if t is not None]


def test_heads_are_copies_of_both_heads_tensors():
    network = PolicyNetwork(Schemas(MATCH.observation, box(["x", "y"])), small_config("vector"), 0)
    heads = heads_of(network)
    assert set(heads) == {n for n in network.state_dict() if not n.startswith("encoder.")}
    assert "policy.log_std" in heads
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert not any(torch.equal(heads[name], network.state_dict()[name]) for name in heads)
    assert not any(t.requires_grad for t in heads.values())


@pytest.mark.parametrize("encoder", ["mlp", "norm"])
def test_an_earlier_task_is_served_bit_for_bit(encoder, monkeypatch):
    """Later heads, even for other actions, do not change what a task's own heads say."""
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    config = NetworkConfig(encoder, {}, (8,))
    first = scrambled(PolicyNetwork(MATCH, config, 0)).eval()
    wanted, heads = outputs(first), heads_of(first)
    second = scrambled(PolicyNetwork(OTHER, config, 1), seed=1)
    second.encoder.load_state_dict(first.encoder.state_dict())
    served = serving(second.train(), heads, MATCH)
    assert not served.training
    assert served.schemas == MATCH
    assert all(torch.equal(a, b) for a, b in zip(outputs(served), wanted, strict=True))


def test_serving_its_own_heads_is_the_network_itself():
    network = scrambled(small_network(MATCH)).eval()
    served = serving(network, heads_of(network), MATCH)
    assert_same(weights(served), weights(network))
    assert all(torch.equal(a, b) for a, b in zip(outputs(served), outputs(network), strict=True))


def test_it_is_a_copy():
    network = small_network(MATCH).train()
    before, state = weights(network), torch.get_rng_state()
    served = serving(network, heads_of(network), MATCH)
    with torch.no_grad():
        for parameter in served.parameters():
            parameter.add_(1)
    assert_same(weights(network), before)
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_distribution_is_kept():
    schemas = Schemas(MATCH.observation, box(["x", "y"]))
    network = scrambled(PolicyNetwork(schemas, replace(small_config("vector"), distribution="squashed"), 0)).eval()
    served = serving(network, heads_of(network), schemas)
    assert all(torch.equal(a, b) for a, b in zip(outputs(served), outputs(network), strict=True))


def test_a_network_of_another_kind_stays_of_its_kind():
    network = columns(2).eval()
    served = serving(network, heads_of(network), network.schemas)
    obs = observations(network.schemas.observation, 4)
    assert type(served) is type(network)
    assert torch.equal(served(obs).action, network(obs).action)


def test_heads_that_do_not_fit():
    network = small_network(MATCH)
    with pytest.raises(GraftError, match=r"do not fit the network: .*policy\.out\.bias"):
        serving(network, heads_of(network), OTHER)
    with pytest.raises(GraftError, match=r"missing \['policy.hidden"):
        serving(network, {}, MATCH)
