"""Progressive networks: every column is evaluated once, earlier ones stay as they are, and all of it is saved."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from support.progressive_columns import ACTIONS, SMALL, columns
from support.tiny_tasks import (
    EVALUATION,
    MATCH,
    OBSERVATIONS,
    TASK,
    NormEncoder,
    assert_same,
    box,
    observations,
    small_config,
    small_network,
    small_ppo,
    vector,
    weights,
)
from torch import nn

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.agents.sb3 import train
from graft.agents.training.backend import TrainJob
from graft.envs.core.schema import Schemas
from graft.errors import GraftError


def last(block: nn.Module) -> nn.Module:
    """What of a block runs last; a column runs the parts of a sequence one by one."""
    return block[-1] if isinstance(block, nn.Sequential) else block


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_every_column_is_evaluated_exactly_once_and_the_first_one_too(kind):
    schemas = Schemas(OBSERVATIONS[kind](["a", "b", "c"]), ACTIONS)
    network, calls = columns(3, schemas), []
    for number, column in enumerate(network.columns):
        for block in column.encoder.blocks:
            last(block).register_forward_hook(lambda *_, number=number: calls.append(number))
    network(observations(schemas.observation, 2))
    blocks = len(network.encoder.blocks)
    assert sorted(calls) == [0] * blocks + [1] * blocks + [2] * blocks


def test_every_layer_of_every_earlier_column_changes_what_the_newest_gives():
    network, obs = columns(3), observations(SMALL.observation, 5)
    before = network(obs)
    heard = ("encoder.", "policy.hidden.", "value.hidden.")
    for name, parameter in network.earlier.named_parameters():
        kept = parameter.clone()
        parameter.add_(0.1)
        after = network(obs)
        same = torch.equal(after.action, before.action) and torch.equal(after.value, before.value)
        parts = name.removeprefix("earlier.")
        # Earlier outputs are nobody's input, nor is what their own laterals alone feed.
        assert same is not (parts.startswith(heard) or (parts.startswith("laterals.") and "_out." not in parts)), name
        parameter.copy_(kept)


def test_every_parameter_of_the_newest_column_gets_a_gradient():
    for count in (2, 3):
        network = columns(count)
        outputs = network(observations(SMALL.observation, 5))
        (outputs.action.square().sum() + outputs.value.square().sum()).backward()
        for name, parameter in network.named_parameters():
            if name.startswith("earlier."):
                assert parameter.grad is None
                assert not parameter.requires_grad
            else:
                assert parameter.grad.abs().max() > 0, name


def test_a_fresh_column_starts_small_with_each_number_of_its_own():
    earlier = small_network(SMALL, 3)
    network = ProgressiveNetwork.beside(earlier, SMALL, small_config("vector"), 3)
    assert_same(dict(network.earlier.state_dict()), dict(earlier.state_dict()))
    own = {n: t for n, t in network.state_dict().items() if n.startswith(("encoder.", "policy.", "value."))}
    assert_same(own, dict(earlier.state_dict()))  # as the plain network of the same seed
    scales = torch.cat([lateral.scales for lateral in network.laterals.values()])
    assert ((scales >= 0.01) & (scales <= 0.1)).all()
    assert len(set(scales.tolist())) == len(scales)
    shapes = {n: tuple(t.shape) for n, t in network.laterals.state_dict().items() if n.endswith("weight")}
    assert [n for n in shapes if network.laterals.state_dict()[n].std() == 0] == []
    probabilities = network(observations(SMALL.observation, 50)).action.softmax(-1)
    torch.testing.assert_close(probabilities, torch.full_like(probabilities, 0.5), rtol=0, atol=0.05)


def test_same_seed_same_network_and_the_callers_random_state_is_left_alone():
    earlier = small_network(SMALL)
    torch.manual_seed(987)
    state = torch.get_rng_state()
    first, again, other = (ProgressiveNetwork.beside(earlier, SMALL, small_config("vector"), s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(dict(first.state_dict()), dict(again.state_dict()))
    assert not torch.equal(first.laterals["encoder_1"].out.weight, other.laterals["encoder_1"].out.weight)
    assert not torch.equal(first.laterals["encoder_1"].scales, other.laterals["encoder_1"].scales)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_the_suffix_of_the_prefix_is_the_network(kind, count):
    schemas = Schemas(OBSERVATIONS[kind](["a", "b", "c"]), box(["x", "y"]))
    network, obs = columns(count, schemas), observations(schemas.observation, 4)
    assert network.frozen_depth == 1
    assert network.prefix(obs, 0) is obs
    hidden = network.prefix(obs, 1)
    assert (hidden.shape[0], hidden.dim(), hidden.dtype) == (4, 2, torch.float32)
    assert not hidden.requires_grad
    for found, direct in zip(network.suffix(hidden, 1), network(obs), strict=True):
        torch.testing.assert_close(found, direct, rtol=1e-5, atol=1e-6)
    for column in network.columns[:-1]:  # the suffix asks nothing of the earlier columns
        column.encoder.register_forward_pre_hook(lambda *_: pytest.fail("evaluated"))
        for block in column.encoder.blocks:
            last(block).register_forward_hook(lambda *_: pytest.fail("evaluated"))
    network.suffix(hidden, 1)


@pytest.mark.parametrize("kind", OBSERVATIONS)
@pytest.mark.parametrize("actions", [ACTIONS, box(["x", "y"])], ids=lambda a: a.kind)
def test_the_network_survives_a_checkpoint_bit_for_bit(kind, actions, tmp_path):
    schemas = Schemas(OBSERVATIONS[kind](["a", "b", "c"]), actions)
    network = columns(3, schemas)
    Checkpoint.of(network, TASK).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert loaded.network == network.config
    assert json.loads(json.dumps(network.config.to_json())) == network.config.to_json()
    rebuilt, obs = loaded.build(), observations(schemas.observation, 6)
    assert isinstance(rebuilt, ProgressiveNetwork)
    for column, again in zip(network.columns, rebuilt.columns, strict=True):
        assert column.schemas == again.schemas
        for a, b in zip(column.eval()(obs), again.eval()(obs), strict=True):
            assert (a is b is None) or torch.equal(a, b)
    assert {n for n, p in rebuilt.named_parameters() if p.requires_grad} == {
        n for n, p in network.named_parameters() if p.requires_grad
    }


def test_it_can_be_built_from_its_config():
    network = columns(3)
    again = build_network(network.schemas, NetworkConfig.from_json(network.config.to_json()), 9)
    assert again.state_dict().keys() == network.state_dict().keys()
    again.load_exactly(network.state_dict())


def test_nothing_escapes_the_state():
    network = columns(3)
    names = set(network.state_dict())
    assert {name.split(".")[0] for name in names} == {"encoder", "policy", "value", "earlier", "laterals"}
    assert any(name.startswith("earlier.earlier.encoder.") for name in names)
    moved = copy.deepcopy(network).to(torch.float64)
    assert {p.dtype for p in moved.state_dict().values()} == {torch.float64}
    registered = {id(m) for m in network.modules()}
    for module in network.modules():  # no module, and no tensor, is held where torch can't see it
        for value in vars(module).values():
            items = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
            for item in items:
                assert not isinstance(item, nn.Module) or id(item) in registered


def test_earlier_columns_do_not_change_when_the_newest_trains(tiny_tasks):
    config = small_config("vector")
    network = ProgressiveNetwork.beside(columns(2, MATCH, config), MATCH, config, 7)
    obs, before = observations(MATCH.observation, 9), weights(network)
    outputs = [[t.clone() for t in column(obs) if t is not None] for column in network.columns[:-1]]
    train(TrainJob(network, TASK, small_ppo(), 256, 0, lambda *_: None, EVALUATION, device="cpu"))
    for column, kept in zip(network.columns[:-1], outputs, strict=True):
        for a, b in zip([t for t in column(obs) if t is not None], kept, strict=True):
            assert torch.equal(a, b)
    after = weights(network)
    assert [n for n in after if torch.equal(after[n], before[n]) is not n.startswith("earlier.")] == []


def test_earlier_statistics_do_not_drift(monkeypatch):
    list(ENCODERS)
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = columns(3, config=NetworkConfig("norm", {}, (4,)))
    before = weights(network)
    network.train().requires_grad_(True)
    network(observations(SMALL.observation, 8))
    after = weights(network)
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed
    assert all(n.startswith("encoder.") and ("running" in n or "tracked" in n) for n in changed)
    assert network.training
    assert network.encoder.training
    assert not any(module.training for module in network.earlier.modules())


def test_other_observations_and_a_missing_earlier_network_are_refused():
    other = Schemas(vector(["a", "b", "d"]), ACTIONS)
    with pytest.raises(GraftError, match=r"earlier network's is vector \(3,\) \(a, b, c\) and the new one's .*a, b, d"):
        ProgressiveNetwork.beside(small_network(SMALL), other, small_config("vector"), 0)
    with pytest.raises(GraftError, match=r"no parts\.earlier"):
        build_network(SMALL, NetworkConfig(kind="progressive"), 0)


def test_its_heads_refuse_features_alone():
    with pytest.raises(GraftError, match="read all its columns"):
        columns(2).heads(torch.zeros(1, 16))
