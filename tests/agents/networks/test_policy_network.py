"""Weights at the start, action distributions by hand, and exact loading."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from support.tiny_tasks import (
    OBSERVATIONS,
    assert_same,
    box,
    discrete,
    observations,
    planes,
    small_config,
    small_network,
    vector,
)
from torch import nn

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import Schemas
from graft.errors import GraftError

VECTOR = Schemas(vector(["a", "b", "c"]), discrete("x", "y", "z"))
BOX = Schemas(vector(["a", "b", "c"]), box(["x", "y"], -0.5, 0.25))


def with_outputs(schemas: Schemas, outputs: list[float], log_std: list[float] | None = None) -> PolicyNetwork:
    """A network whose policy gives these logits or means everywhere."""
    network = small_network(schemas)
    with torch.no_grad():
        network.policy.out.weight.zero_()
        network.policy.out.bias.copy_(torch.tensor(outputs))
        if log_std is not None:
            network.policy.log_std.copy_(torch.tensor(log_std))
    return network


@pytest.mark.parametrize("kind", OBSERVATIONS)
@pytest.mark.parametrize("actions", [discrete("x", "y", "z"), box(["x", "y"])], ids=lambda a: a.kind)
def test_weights_start_orthogonal_with_the_gains_of_stable_baselines3(kind, actions):
    network = small_network(Schemas(OBSERVATIONS[kind](["a", "b", "c"]), actions))
    gains = {"policy.out": 0.01, "value.out": 1.0}
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert {"policy.hidden.0", "policy.out", "value.hidden.0", "value.out"} < set(layers)
    for name, layer in layers.items():
        rows = layer.weight.detach().flatten(1).double()
        square = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
        expected = gains.get(name, 2**0.5) ** 2 * torch.eye(len(square), dtype=torch.float64)
        torch.testing.assert_close(square, expected, rtol=0, atol=1e-5 * expected.max().item())
        assert layer.bias is None or not layer.bias.any()
    if actions.kind == "box":
        assert network.policy.log_std.tolist() == [0.0, 0.0]


def test_same_seed_same_weights():
    first, again, other = (small_network(VECTOR, seed).state_dict() for seed in (1, 1, 2))
    assert_same(first, again)
    assert [n for n in first if n.endswith("weight") and torch.equal(first[n], other[n])] == []


def test_the_weights_do_not_depend_on_the_callers_random_state():
    torch.manual_seed(5)
    first = small_network(VECTOR, 1).state_dict()
    torch.manual_seed(6)
    assert_same(first, small_network(VECTOR, 1).state_dict())


def test_the_callers_random_state_is_left_alone(monkeypatch):
    def seeded(*_):
        pytest.fail("the caller's GPU was seeded")

    torch.manual_seed(987)  # a state that no network leaves behind
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    small_network(VECTOR, 1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_array_equal(np.random.get_state()[1], states[2])


@pytest.mark.parametrize("schemas", [VECTOR, BOX], ids=["discrete", "box"])
def test_parameters_lie_under_three_names(schemas):
    names = set(small_network(schemas).state_dict())
    assert {name.split(".")[0] for name in names} == {"encoder", "policy", "value"}
    assert ("policy.log_std" in names) is (schemas is BOX)


def test_the_config_is_resolved_and_survives_json():
    network = PolicyNetwork(VECTOR, NetworkConfig(None, {"widths": [5, 7]}, (3, 2)), 0)
    assert network.config == NetworkConfig("mlp", {"widths": [5, 7]}, (3, 2), activation="own")
    assert NetworkConfig.from_json(network.config.to_json()) == network.config
    shapes = {n: tuple(p.shape) for n, p in network.named_parameters() if n.endswith("weight")}
    assert shapes == {
        "encoder.blocks.0.1.weight": (5, 3),
        "encoder.blocks.1.1.weight": (7, 5),
        "policy.hidden.0.weight": (3, 7),
        "policy.hidden.2.weight": (2, 3),
        "policy.out.weight": (3, 2),
        "value.hidden.0.weight": (3, 7),
        "value.hidden.2.weight": (2, 3),
        "value.out.weight": (1, 2),
    }


def test_heads_without_hidden_units_read_the_features():
    network = PolicyNetwork(VECTOR, NetworkConfig(head=()), 0)
    obs = observations(VECTOR.observation, 4)
    features = network.encoder(obs)
    outputs = network(obs)
    torch.testing.assert_close(outputs.action, features @ network.policy.out.weight.T)
    torch.testing.assert_close(outputs.value, features @ network.value.out.weight[0])


def test_forward_by_hand():
    network = PolicyNetwork(VECTOR, NetworkConfig("mlp", {"widths": [2]}, (1,)), 0)
    tensors = {
        "encoder.blocks.0.1.weight": [[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]],
        "encoder.blocks.0.1.bias": [0.5, 0.0],
        "policy.hidden.0.weight": [[1.0, -1.0]],
        "policy.hidden.0.bias": [0.0],
        "policy.out.weight": [[1.0], [2.0], [-1.0]],
        "policy.out.bias": [0.0, 0.0, 1.0],
        "value.hidden.0.weight": [[0.0, 3.0]],
        "value.hidden.0.bias": [-1.0],
        "value.out.weight": [[10.0]],
        "value.out.bias": [1.0],
    }
    network.load_exactly({name: torch.tensor(values) for name, values in tensors.items()})
    outputs = network(torch.tensor([[0.5, 0.25, -0.5]]))
    f, g = np.tanh(0.5 + 0.5 + 0.5), np.tanh(2 * 0.25)
    hidden = np.tanh(f - g)
    np.testing.assert_allclose(outputs.action.detach(), [[hidden, 2 * hidden, 1 - hidden]], rtol=1e-6)
    np.testing.assert_allclose(outputs.value.detach(), [10 * np.tanh(3 * g - 1) + 1], rtol=1e-6)
    assert outputs.log_std is None


def test_deterministic_actions_are_the_most_likely():
    network, obs = small_network(VECTOR), observations(VECTOR.observation, 50)
    actions = network.act(obs, None, deterministic=True)
    assert actions.tolist() == [int(np.argmax(row)) for row in network(obs).action.detach().numpy()]
    assert len(set(actions.tolist())) > 1


def test_sampled_actions_have_the_frequencies_of_the_softmax():
    logits = [0.0, 1.0, -0.5]
    network, count = with_outputs(VECTOR, logits), 20_000
    actions = network.act(observations(VECTOR.observation, count), torch.Generator().manual_seed(0))
    expected = count * np.exp(logits) / np.exp(logits).sum()
    counts = np.bincount(actions.numpy(), minlength=3)
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees of freedom: p = 0.001


def test_sampled_box_actions_are_normal_where_the_bounds_do_not_cut():
    wide = Schemas(VECTOR.observation, box(["x", "y"], -100.0, 100.0))
    network, count = with_outputs(wide, [0.01, -0.02], [np.log(0.01), np.log(0.001)]), 20_000  # 1 stands for 100
    actions = network.act(observations(wide.observation, count), torch.Generator().manual_seed(0)).numpy()
    spread = np.array([1.0, 0.1])
    assert (np.abs(actions.mean(0) - [1.0, -2.0]) < 4 * spread / count**0.5).all()
    assert (np.abs(actions.std(0) / spread - 1) < 4 / (2 * count) ** 0.5).all()


def test_box_actions_stay_within_the_bounds_of_each_name():
    uneven = Schemas(
        VECTOR.observation, type(BOX.action)("box", ("x", "y", "z"), (-0.5, 0.0, -float("inf")), (0.25, 2.0, 1.0))
    )
    network = with_outputs(uneven, [0.0, 3.0, -40.0], [0.0, 0.0, 0.0])
    obs = observations(uneven.observation, 500)
    actions = network.act(obs, torch.Generator().manual_seed(0))
    lows, highs = actions.min(0).values.tolist(), actions.max(0).values.tolist()
    assert (lows[0], highs[0], highs[1]) == (-0.5, 0.25, 2.0)
    assert lows[1] >= 0.0
    assert lows[2] < -40.0
    middle = network.act(obs[:1], None, deterministic=True)
    assert middle.tolist() == [[-0.125, 2.0, -40.0]]  # the third has no lower bound, and keeps its number


@pytest.mark.parametrize("schemas", [VECTOR, BOX], ids=["discrete", "box"])
def test_sampling_uses_the_generator_alone(schemas):
    network, obs = small_network(schemas), observations(schemas.observation, 100)
    before = torch.get_rng_state()
    one, same, other = (network.act(obs, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert not one.requires_grad


def test_actions_fit_the_action_space():
    for schemas in (VECTOR, BOX):
        actions = small_network(schemas).act(observations(schemas.observation, 20), None).numpy()
        space = schemas.action.space()
        assert all(space.contains(action) for action in actions)


def test_load_exactly_takes_what_state_dict_gives():
    network, other = small_network(VECTOR, 0), small_network(VECTOR, 1)
    network.load_exactly(other.state_dict())
    assert_same(network.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("value.out.bias"), r"missing \['value.out.bias'\], unexpected \[\], other shape \[\]"),
        (lambda t: t.update(extra=torch.zeros(1)), r"missing \[\], unexpected \['extra'\], other shape \[\]"),
        (
            lambda t: t.update({n: t[n][:-1] for n in ("value.out.bias", "policy.out.bias")}),
            r"unexpected \[\], other shape \['policy.out.bias', 'value.out.bias'\]",
        ),
    ],
)
def test_load_exactly_names_what_does_not_fit_and_changes_nothing(change, words):
    network = small_network(VECTOR, 0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors = dict(small_network(VECTOR, 1).state_dict())
    change(tensors)
    with pytest.raises(GraftError, match=words):
        network.load_exactly(tensors)
    assert_same(network.state_dict(), before)


def test_an_encoder_that_does_not_fit_says_so_at_construction():
    with pytest.raises(GraftError, match="nature_cnn"):
        PolicyNetwork(Schemas(planes("ab"), discrete("x")), NetworkConfig("nature_cnn"), 0)
    with pytest.raises(GraftError, match="Unknown option"):
        PolicyNetwork(VECTOR, small_config("pixels"), 0)
