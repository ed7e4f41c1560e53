"""Squashed Gaussians and greedy Q values: what the network gives, what it plays, and what it is saved as."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.tiny_tasks import assert_same, box, discrete, observations, small_config, small_network, vector

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, Unstable, build_network
from graft.envs.core.schema import ActionSchema, Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError

INPUTS = vector(["a", "b", "c"])
BOX = Schemas(INPUTS, ActionSchema("box", ("x", "y"), (-0.5, 1.0), (0.25, 4.0)))
DISCRETE = Schemas(INPUTS, discrete("x", "y", "z"))


def built(schemas: Schemas, distribution, seed: int = 0) -> PolicyNetwork:
    config = small_config("vector")
    return build_network(schemas, NetworkConfig(None, config.options, config.head, distribution=distribution), seed)


def constant(schemas: Schemas, distribution, outputs, spread=None) -> PolicyNetwork:
    """A network whose output layers give these numbers everywhere."""
    network = built(schemas, distribution)
    with torch.no_grad():
        for layer, numbers in ((network.policy.out, outputs), (network.policy.spread, spread)):
            if layer is not None:
                layer.weight.zero_()
                layer.bias.copy_(torch.tensor(numbers))
    return network


def test_the_spread_is_a_second_output_layer_in_the_place_of_the_log_std():
    network = built(BOX, "squashed")
    names = {name for name, _ in network.named_parameters() if name.startswith("policy.")}
    layers = ("policy.hidden.0", "policy.out", "policy.spread")
    assert names == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert network.policy.spread.weight.shape == (2, 8)
    outputs = network(observations(INPUTS, 7))
    assert outputs.action.shape == outputs.log_std.shape == (7, 2)
    assert not torch.equal(outputs.log_std[0], outputs.log_std[1])


def test_the_log_std_is_clamped_as_in_stable_baselines3():
    network = constant(BOX, "squashed", [0.0, 0.0], [-50.0, 50.0])
    assert network(observations(INPUTS, 1)).log_std.tolist() == [[-20.0, 2.0]]


@pytest.mark.parametrize("mean", [0.0, 0.7, -30.0, 30.0])
def test_a_squashed_action_is_a_tanh_stretched_to_the_bounds(mean):
    network = constant(BOX, "squashed", [mean, -mean], [0.0, 0.0])
    action = network.act(observations(INPUTS, 3), None, deterministic=True)
    x, y = -0.125 + 0.375 * math.tanh(mean), 2.5 + 1.5 * math.tanh(-mean)
    torch.testing.assert_close(action, torch.tensor([[x, y]] * 3))
    assert (action >= torch.tensor([-0.5, 1.0])).all()
    assert (action <= torch.tensor([0.25, 4.0])).all()


def test_squashed_samples_are_tanhs_of_a_gaussian():
    network = constant(BOX, "squashed", [0.3, -0.2], [-1.0, -2.0])
    actions = network.act(observations(INPUTS, 20_000), torch.Generator().manual_seed(0))
    before = torch.atanh(((actions - torch.tensor([-0.125, 2.5])) / torch.tensor([0.375, 1.5])).double())
    torch.testing.assert_close(before.mean(0), torch.tensor([0.3, -0.2]).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(before.std(0), torch.tensor([-1.0, -2.0]).double().exp(), rtol=0.02, atol=0)


@pytest.mark.parametrize("deterministic", [True, False])
def test_greedy_plays_the_largest_value(deterministic):
    network = constant(DISCRETE, "greedy", [0.1, 0.1001, -5.0])
    assert network.act(observations(INPUTS, 50), None, deterministic).tolist() == [1] * 50


def test_a_network_that_diverged_plays_nothing():
    with pytest.raises(Unstable):
        constant(DISCRETE, "greedy", [0.1, math.nan, 0.0]).act(observations(INPUTS, 2), None)
    with pytest.raises(Unstable):
        constant(BOX, "squashed", [0.1, 0.1], [math.nan, 0.0]).act(observations(INPUTS, 2), None)


@pytest.mark.parametrize(
    ("actions", "distribution"),
    [
        (discrete("x"), "squashed"),
        (box(["x"]), "greedy"),
        (ActionSchema("box", ("x",), (-math.inf,), (math.inf,)), "squashed"),
    ],
)
def test_distributions_that_do_not_fit_the_actions(actions, distribution):
    with pytest.raises(GraftError, match=f"'{distribution}' cannot play {actions.kind}"):
        built(Schemas(INPUTS, actions), distribution)


@pytest.mark.parametrize(("schemas", "distribution"), [(BOX, "squashed"), (DISCRETE, "greedy")])
def test_the_distribution_goes_through_the_checkpoint(tmp_path, schemas, distribution):
    network = built(schemas, distribution)
    Checkpoint.of(network, Task("tiny/Source-v0")).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c").build()
    assert loaded.config == network.config
    assert loaded.config.distribution == distribution
    assert_same(loaded.state_dict(), network.state_dict())


def test_the_default_is_not_written_so_that_old_hashes_stay():
    assert NetworkConfig().to_json() == {"encoder": None, "options": {}, "head": [64]}
    assert NetworkConfig(distribution="greedy").to_json()["distribution"] == "greedy"
    for config in (NetworkConfig(), NetworkConfig(distribution="squashed")):
        assert NetworkConfig.from_json(config.to_json()) == replace(config, activation="own")


def test_the_default_networks_weights_are_what_they_were():
    """A greedy head has the default head's parameters, and a default box head its log_std."""
    assert_same(built(DISCRETE, "greedy").state_dict(), small_network(DISCRETE).state_dict())
    assert "policy.log_std" in small_network(BOX).state_dict()
