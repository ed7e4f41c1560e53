"""Activations by name: what a network computes with each, how its weights start, and who decides which it has."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from support.tiny_tasks import (
    OBSERVATIONS,
    assert_same,
    discrete,
    observations,
    register_encoder,
    scrambled,
    vector,
)
from torch import nn
from torch.nn import functional as F

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.activation import Activation, gain, make
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, architecture_for
from graft.agents.training.backend import Batch
from graft.envs.core.schema import Schemas, joined
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.method import parse_method

FUNCTIONS = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
}
HIDDEN = (nn.Linear, nn.Conv2d)
TASK = Task("tiny/Match-v0")


def network_of(kind: str, activation: str | None, encoder: str | None = None, /, **options) -> PolicyNetwork:
    schemas = Schemas(OBSERVATIONS[kind](["a", "b", "c"]), discrete("x", "y"))
    return PolicyNetwork(schemas, NetworkConfig(encoder, options, (4,), activation=activation), 0)


def used(module: nn.Module) -> set[type[nn.Module]]:
    """Kinds of activation modules within ``module``."""
    kinds = tuple(type(make(name)) for name in get_args(Activation))
    return {type(part) for part in module.modules() if isinstance(part, kinds)}


def test_the_functions_are_torchs_and_all_are_tested():
    assert set(FUNCTIONS) == set(get_args(Activation))
    z = torch.linspace(-3, 3, 50)
    for name, function in FUNCTIONS.items():
        assert torch.equal(make(name)(z), function(z))


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "silu", "gelu"])
def test_gains_keep_the_mean_square_of_normal_inputs(name):
    z = np.linspace(-12, 12, 240_001)
    values = FUNCTIONS[name](torch.as_tensor(z)).numpy()
    second_moment = np.trapezoid(values**2 * np.exp(-z * z / 2) / np.sqrt(2 * np.pi), z)
    assert gain(make(name)) == pytest.approx(second_moment**-0.5, abs=1e-6)


def test_tanh_starts_as_in_stable_baselines3():
    assert gain(nn.Tanh()) == gain(nn.ReLU()) == 2**0.5


@pytest.mark.parametrize("name", ["elu", "silu"])
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_the_weights_start_with_the_gain_of_what_follows_them(kind, name):
    network = network_of(kind, name)
    gains = {"policy.out": 0.01, "value.out": 1.0}
    for path, layer in network.named_modules():
        if isinstance(layer, HIDDEN):
            rows = layer.weight.detach().flatten(1).double()
            square = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
            expected = gains.get(path, gain(make(name))) ** 2 * torch.eye(len(square), dtype=torch.float64)
            torch.testing.assert_close(square, expected, rtol=0, atol=1e-5 * expected.max().item())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kind", ["vector", "planes", "pixels"])
def test_encoder_and_heads_by_plain_operations(kind, name):
    act, network = FUNCTIONS[name], network_of(kind, name)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    obs = observations(network.schemas.observation, 5)
    hidden = network.encoder.scale(obs)
    for block in network.encoder.blocks:
        layer = next(m for m in block if isinstance(m, HIDDEN))
        if isinstance(layer, nn.Conv2d):
            hidden = act(F.conv2d(hidden, layer.weight, layer.bias, layer.stride, layer.padding))
        else:
            hidden = act(hidden.flatten(1) @ layer.weight.T + layer.bias)
    outputs = network(obs)
    for head, found in ((network.policy, outputs.action), (network.value, outputs.value[:, None])):
        inner = act(hidden @ head.hidden[0].weight.T + head.hidden[0].bias)
        torch.testing.assert_close(found, inner @ head.out.weight.T + head.out.bias, rtol=1e-4, atol=1e-5)


def test_parts_have_the_networks_activation_unless_their_options_give_another():
    encoders = {"view": {"options": {"activation": "elu"}}}
    block = network_of("parts", "silu", encoders=encoders).encoder.blocks[0]
    assert used(block.parts["view"]) == {nn.ELU}
    assert used(block.parts["state"]) == {nn.SiLU} == {type(block.activation)}
    block = network_of("parts", None, encoders=encoders).encoder.blocks[0]
    assert (used(block.parts["view"]), used(block.parts["state"])) == ({nn.ELU}, {nn.Tanh})


def test_an_encoders_option_is_its_own_and_the_heads_have_the_networks():
    network = network_of("vector", "gelu", activation="relu")
    assert (used(network.encoder), used(network.policy), used(network.value)) == ({nn.ReLU}, {nn.GELU}, {nn.GELU})
    network = network_of("planes", None, "grid_cnn", activation="silu")
    assert (used(network.encoder), used(network.policy)) == ({nn.SiLU}, {nn.Tanh})


@pytest.mark.parametrize(("kind", "before"), [("vector", nn.Tanh), ("planes", nn.ReLU), ("pixels", nn.ReLU)])
def test_networks_of_old_manifests_are_what_they_were(kind, before):
    network = network_of(kind, None)
    written = network.config.to_json()
    assert "activation" not in written
    again = PolicyNetwork(network.schemas, NetworkConfig.from_json(written), 0)
    assert (used(again.encoder), used(again.policy)) == ({before}, {nn.Tanh})
    assert_same(again.state_dict(), network.state_dict())
    assert again.config == network.config


def test_the_manifest_has_the_activation(tmp_path):
    network = scrambled(network_of("vector", "elu"))
    Checkpoint.of(network, TASK).save(tmp_path / "c")
    again = Checkpoint.load(tmp_path / "c").build()
    obs = observations(network.schemas.observation, 4)
    assert used(again) == {nn.ELU}
    assert torch.equal(again(obs).action, network(obs).action)


def test_what_is_not_chosen_is_the_algorithms():
    dqn, ppo = ALGORITHMS["dqn"](), ALGORITHMS["ppo"]()
    assert architecture_for(dqn, NetworkConfig()).activation == "relu"
    assert architecture_for(ppo, NetworkConfig()).activation == "own"
    for chosen in ("own", "silu"):
        assert architecture_for(dqn, NetworkConfig(activation=chosen)).activation == chosen
    earlier = NetworkConfig.from_json({"encoder": "mlp", "options": {}, "head": [64]})
    assert architecture_for(dqn, earlier).activation == "own"


def test_unknown_names():
    with pytest.raises(GraftError, match=r"Unknown activation of the network 'gleu'.*Did you mean 'gelu'"):
        network_of("vector", "gleu")
    with pytest.raises(GraftError, match=r"encoder mlp: activation='gleu' is not allowed"):
        network_of("vector", None, activation="gleu")


@pytest.mark.parametrize(
    "method", ["finetune", "lora", "packnet", "redo", "shrink_perturb", "kickstart", "progressive"]
)
def test_a_transfer_keeps_the_sources_activation(method):
    source = Checkpoint.of(network_of("vector", "silu"), TASK)
    target = Schemas(vector(["b", "new", "a"]), discrete("x", "y"))
    network = parse_method(method).build(source, target, source.network, 1).network
    assert used(network) == {nn.SiLU}
    assert used(parse_method(method).finish(network, {})) == {nn.SiLU}


def test_a_silent_unit_is_dormant_and_a_saturated_one_is_not():
    """Below -1 the output of elu hardly changes, but it is not 0; that of gelu is."""
    redo = parse_method({"redo": {"every": 1}})
    for name, asleep in (("gelu", True), ("elu", False)):
        source = Checkpoint.of(network_of("vector", name, widths=[8, 8]), TASK)
        network = redo.build(source, source.schemas, source.network, 1).network
        layer = network.encoder.blocks[0][1]
        with torch.no_grad():
            layer.weight[3], layer.bias[3] = 0.0, -20.0
        batch = Batch(observations(source.schemas.observation, 16), torch.zeros(16))
        redo.gradients({}, network, redo.init(network, source), batch)
        assert bool(layer.weight[3].any()) is asleep


def test_an_encoder_without_the_option_leaves_it_to_the_heads(monkeypatch):
    register_encoder(monkeypatch)
    network = network_of("vector", "relu", "norm", width=8)
    assert (used(network.encoder), used(network.policy)) == ({nn.Tanh}, {nn.ReLU})


def test_parts_of_one_observation_may_differ_from_the_layer_over_them():
    schema = joined({"a": vector(["x"]), "b": vector(["y"])})
    config = NetworkConfig("branches", {"features": 4, "activation": "relu"}, (4,))
    network = scrambled(PolicyNetwork(Schemas(schema, discrete("x", "y")), config, 0))
    block, obs = network.encoder.blocks[0], observations(schema, 6)
    total = block.bias + sum(block.joins[n](block.parts[n](obs[:, i : i + 1])) for i, n in enumerate("ab"))
    torch.testing.assert_close(network.encoder(obs), total.relu())
