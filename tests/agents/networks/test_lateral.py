"""Laterals: eq. 2 of Rusu et al. recomputed with plain operations, sizes by hand, and columns that do not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.progressive_columns import ACTIONS, SMALL, columns
from support.tiny_tasks import OBSERVATIONS, box, observations, planes, small_config
from torch import nn
from torch.nn import functional as F

from graft.agents.networks.encoder import ENCODERS, Encoder, Stem
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.envs.core.schema import Schemas
from graft.errors import GraftError

SMALL_CONFIG = NetworkConfig("mlp", {"widths": [5, 7]}, (4,))


def own_parameters(network: PolicyNetwork) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_the_number_of_parameters_by_hand():
    plain = (3 * 5 + 5) + (5 * 7 + 7) + (7 * 4 + 4) + (4 * 2 + 2) + (7 * 4 + 4) + (4 * 1 + 1)
    # One lateral: a, V with bias, U without.
    second = (1 + (5 * 7 + 7) + 7 * 7) + 2 * (1 + (7 * 4 + 4) + 4 * 4)
    second += (1 + (4 * 4 + 4) + 4 * 2) + (1 + (4 * 4 + 4) + 4 * 1)
    third = (2 + (10 * 7 + 7) + 7 * 7) + 2 * (2 + (14 * 4 + 4) + 4 * 4)
    third += (2 + (8 * 4 + 4) + 4 * 2) + (2 + (8 * 4 + 4) + 4 * 1)
    assert (plain, second, third) == (141, 244, 372)
    assert own_parameters(columns(2, config=SMALL_CONFIG)) == 141 + 244
    assert own_parameters(columns(3, config=SMALL_CONFIG)) == 141 + 372
    assert sum(p.numel() for p in columns(3, config=SMALL_CONFIG).parameters()) == 3 * 141 + 244 + 372


def test_the_number_of_parameters_of_convolutions_by_hand():
    config = NetworkConfig("grid_cnn", {"channels": [4, 6], "strides": [1, 2], "features": 8}, ())
    network = columns(2, Schemas(planes("abc"), ACTIONS), config)
    counts = {key: sum(p.numel() for p in lateral.parameters()) for key, lateral in network.laterals.items()}
    assert counts == {
        "encoder_1": 1 + (4 * 6 + 6) + 6 * 6 * 9,
        "encoder_2": 1 + (6 * 9 * 8 + 8) + 8 * 8,  # the board is 3 by 3 there
        "policy_out": 1 + (8 * 8 + 8) + 8 * 2,
        "value_out": 1 + (8 * 8 + 8) + 8 * 1,
    }


Tensors = dict[str, torch.Tensor]
ACTS = {"vector": torch.tanh, "planes": F.relu}
"""Of encoders by default; heads have tanh."""


def linear(t: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1) @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def lateral(t: Tensors, key: str, hidden: list[torch.Tensor], act=torch.tanh, stride: int | None = None):
    """U act(V (a * h)) with linear layers, or with convolutions of kernel 3 where a stride is given."""
    if not hidden:
        return 0.0
    a, v, u = (t[f"laterals.{key}.{part}"] for part in ("scales", "project.weight", "out.weight"))
    bias = t[f"laterals.{key}.project.bias"]
    if stride is not None:
        scaled = torch.cat([a[j] * h for j, h in enumerate(hidden)], 1)
        return F.conv2d(act(F.conv2d(scaled, v, bias)), u, stride=stride, padding=1)
    return act(torch.cat([a[j] * h.flatten(1) for j, h in enumerate(hidden)], 1) @ v.T + bias) @ u.T


def by_hand(t: Tensors, x: torch.Tensor, kind: str, before: list[Tensors], act, act_of_heads) -> Tensors:
    """Activations of a column of `small_config` with the tensors ``t``, from those of the columns before it."""

    def heard(what: str) -> list[torch.Tensor]:
        return [column[what] for column in before]

    h: Tensors = {}
    if kind == "vector":
        h["1"] = act(linear(t, "encoder.blocks.0.1", x))
        h["f"] = act(linear(t, "encoder.blocks.1.1", h["1"]) + lateral(t, "encoder_1", heard("1"), act))
    else:
        (w1, b1), (w2, b2) = ((t[f"encoder.blocks.{i}.0.weight"], t[f"encoder.blocks.{i}.0.bias"]) for i in (0, 1))
        h["1"] = act(F.conv2d(x, w1, b1, stride=1, padding=1))
        added = lateral(t, "encoder_1", heard("1"), act, stride=2)
        h["2"] = act(F.conv2d(h["1"], w2, b2, stride=2, padding=1) + added)
        h["f"] = act(linear(t, "encoder.blocks.2.1", h["2"]) + lateral(t, "encoder_2", heard("2"), act))
    for head in ("policy", "value"):
        hidden = linear(t, f"{head}.hidden.0", h["f"]) + lateral(t, f"{head}_0", heard("f"), act_of_heads)
        h[head] = act_of_heads(hidden)
        h[f"{head}.out"] = linear(t, f"{head}.out", h[head]) + lateral(t, f"{head}_out", heard(head), act_of_heads)
    return h


@pytest.mark.parametrize("activation", ["own", "silu"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", ACTS)
def test_equation_2_by_plain_operations(kind, count, activation):
    schemas = Schemas(OBSERVATIONS[kind](["a", "b", "c"]), ACTIONS)
    config = replace(small_config(kind), activation=activation)
    acts = (ACTS[kind], torch.tanh) if activation == "own" else (F.silu, F.silu)
    network, obs = columns(count, schemas, config).double(), observations(schemas.observation, 6).double()
    before: list[Tensors] = []
    for column in network.columns:
        column.encoder.scale = lambda x: x  # in doubles
    for number, column in enumerate(network.columns):
        prefix = "earlier." * (count - 1 - number)
        tensors = {n.removeprefix(prefix): p for n, p in network.state_dict().items() if n.startswith(prefix)}
        expected, outputs = by_hand(tensors, obs, kind, before, *acts), column(obs)
        assert expected["policy.out"].std(0).min() > 1e-3
        torch.testing.assert_close(outputs.action, expected["policy.out"], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(outputs.value, expected["value.out"].squeeze(1), rtol=1e-10, atol=1e-10)
        before.append(expected)


def test_heads_without_hidden_units_and_with_two_layers_of_them():
    obs = observations(SMALL.observation, 5)
    for head, keys in (((), set()), ((6, 3), {"policy_0", "policy_1", "value_0", "value_1"})):
        network = columns(2, config=NetworkConfig("mlp", {"widths": [5, 7]}, head))
        assert set(network.laterals) == keys | {"encoder_1", "policy_out", "value_out"}
        assert network(obs).action.shape == (5, 2)


class Residual(Encoder):
    """A second block of two layers, or of one that is not directly in it."""

    kinds = ("vector",)

    def __init__(self, schema, nested: bool = False) -> None:
        super().__init__()
        first, second = nn.Linear(schema.shape[0], 4), nn.Linear(4, 4)
        inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU()) if nested else nn.Linear(4, 4)
        block = nn.Sequential(inner) if nested else nn.Sequential(second, nn.ReLU(), inner)
        self.blocks = nn.ModuleList([nn.Sequential(first, nn.ReLU()), block])
        self.out_dim, self.stems = 4, (Stem.of("blocks.0.0.weight", 1, schema),)


@pytest.mark.parametrize(("nested", "words"), [(False, "has 2, and 2 at any depth"), (True, "has 0, and 1 at any")])
def test_a_block_with_another_number_of_layers_is_refused(monkeypatch, nested, words):
    list(ENCODERS)
    monkeypatch.setitem(ENCODERS._entries, "residual", Residual)
    with pytest.raises(
        GraftError, match=rf"exactly one Linear or Conv2d .*block 1 of the encoder \('residual'\) {words}"
    ):
        columns(2, config=NetworkConfig("residual", {"nested": nested}, (4,)))


@pytest.mark.parametrize(
    ("earlier", "new", "words"),
    [
        (NetworkConfig("mlp", {"widths": [4]}, ()), NetworkConfig("mlp", {"widths": [4, 4, 4]}, ()), "too few layers"),
        (NetworkConfig("mlp", {"widths": [4]}, (4,)), NetworkConfig("mlp", {"widths": [4]}, (4, 4)), "too few layers"),
        (
            NetworkConfig("grid_cnn", {"channels": [4, 4], "strides": [2, 1]}, ()),
            NetworkConfig("grid_cnn", {"channels": [4, 4], "strides": [1, 2]}, ()),
            r"Column 0 has \(4, 3, 3\) where block 1 of the encoder .* reads \(4, 5, 5\)",
        ),
        (
            NetworkConfig("mlp", {"widths": [4, 4]}, ()),
            NetworkConfig("grid_cnn", {"channels": [4, 4], "strides": [1, 2]}, ()),
            r"Column 0 has \(4,\) where block 1 of the encoder .* reads \(4, 5, 5\)",
        ),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(earlier, new, words):
    schemas = Schemas(planes("ab"), ACTIONS)
    with pytest.raises(GraftError, match=words):
        ProgressiveNetwork.beside(PolicyNetwork(schemas, earlier, 0), schemas, new, 1)


def test_columns_of_other_sizes_and_actions_fit():
    earlier = PolicyNetwork(
        Schemas(planes("ab"), box(["x"])),
        NetworkConfig("grid_cnn", {"channels": [3, 5], "strides": [1, 2], "features": 9}, (6,)),
        0,
    )
    schemas = Schemas(planes("ab"), ACTIONS)
    network = ProgressiveNetwork.beside(earlier, schemas, small_config("planes"), 1)
    assert network(observations(schemas.observation, 3)).action.shape == (3, 2)
    assert network.earlier.schemas.action == box(["x"])


def test_a_squashed_policy_has_a_lateral_into_its_spread_too():
    schemas = Schemas(SMALL.observation, box(["x", "y"]))
    config = NetworkConfig("mlp", {"widths": [5, 7]}, (4,), distribution="squashed")
    network = columns(2, schemas, config)
    obs = observations(schemas.observation, 4)
    outputs = network(obs)
    assert outputs.log_std.shape == (4, 2)
    for found, direct in zip(network.suffix(network.prefix(obs, 1), 1), outputs, strict=True):
        torch.testing.assert_close(found, direct)
    with torch.no_grad():
        network.laterals["policy_spread"].out.weight.zero_()
    changed = network(obs)
    assert torch.equal(changed.action, outputs.action)
    assert not torch.equal(changed.log_std, outputs.log_std)
