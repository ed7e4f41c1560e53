"""What every encoder keeps: a new one is tested here unedited."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import OBSERVATIONS, assert_same, discrete, observations, scrambled

from graft.agents.networks.encoder import ENCODERS, Encoder
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import Schemas

NAMES = ("a", "b", "c")
CASES = [pytest.param((name, kind), id=f"{name}-{kind}") for name, e in ENCODERS.items() for kind in e.kinds]


def network_of(name: str, kind: str, seed: int = 0) -> PolicyNetwork:
    schemas = Schemas(OBSERVATIONS[kind](NAMES), discrete("x", "y"))
    return PolicyNetwork(schemas, NetworkConfig(encoder=name, head=(4,)), seed)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name of an encoder and a kind of observation that it takes."""
    return request.param


@pytest.fixture
def encoder(case: tuple[str, str]) -> Encoder:
    return network_of(*case).encoder.eval()


@pytest.fixture
def obs(case: tuple[str, str]) -> torch.Tensor:
    return observations(OBSERVATIONS[case[1]](NAMES), 3)


def test_features_of_raw_observations(encoder, obs):
    features = encoder(obs)
    assert features.shape == (3, encoder.out_dim)
    assert features.dtype == torch.float32
    assert not torch.equal(features[0], features[1])


def test_prefix_and_suffix_compose_at_every_depth(encoder, obs):
    for depth in range(len(encoder.blocks) + 1):
        torch.testing.assert_close(encoder.suffix(encoder.prefix(obs, depth), depth), encoder(obs), rtol=0, atol=0)


def test_no_observation_reads_another(encoder, obs):
    torch.testing.assert_close(encoder(obs)[1:2], encoder(obs[1:2]), rtol=1e-5, atol=1e-6)


def test_an_observation_name_enters_by_its_stem_slice_alone(encoder, obs, case):
    """Each channel matters, and does not once its slice of the stem is zero."""
    schema = OBSERVATIONS[case[1]](NAMES)
    for name, place in zip(schema.names, schema.places, strict=True):
        stem = next(s for s in encoder.stems if name in s.names and s.dim == 1)
        weight, j = encoder.get_parameter(stem.name), stem.names.index(name)
        assert weight.shape[1] == len(stem.names) * stem.group
        changed = obs.clone()
        changed[:, place] = 1 - changed[:, place] if obs.is_floating_point() else obs[:, place].flip(0)
        before = encoder(obs)
        assert not torch.allclose(encoder(changed), before)
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[:, j * stem.group : (j + 1) * stem.group] = 0
        assert not torch.allclose(encoder(obs), before)
        assert torch.equal(encoder(changed), encoder(obs))
        with torch.no_grad():
            weight.copy_(kept)


def test_all_weights_and_buffers_lie_in_blocks_so_that_freezing_reaches_them(encoder):
    assert all(name.startswith("blocks.") for name in encoder.state_dict())
    encoder.freeze()
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(block.training for block in encoder.train().blocks)


def test_freezing_changes_no_output(encoder, obs):
    before = encoder(obs)
    for depth in range(len(encoder.blocks) + 1):
        encoder.freeze(depth)
        assert torch.equal(encoder(obs), before)


def test_every_parameter_is_used(case, obs):
    network = scrambled(network_of(*case)).train()
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter.mul_(0.001)  # far from where activations saturate
    network.encoder(obs).sum().backward()
    unused = [n for n, p in network.encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


def test_same_seed_same_weights(case):
    one, same, other = (network_of(*case, seed).encoder for seed in (3, 3, 4))
    assert_same(one.state_dict(), same.state_dict())
    for stem in one.stems:
        assert not torch.equal(one.get_parameter(stem.name), other.get_parameter(stem.name))
