"""The probe on each kind of observation, on networks rebuilt under it, and the meter's averages by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from support.tiny_tasks import (
    NormEncoder,
    assert_same,
    discrete,
    observations,
    pixels,
    planes,
    small_config,
    vector,
    weights,
)
from torch import nn
from torch.nn.utils import parametrize

from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, Outputs, PolicyNetwork, Unstable
from graft.envs.core.schema import ActionSchema, Schemas
from graft.errors import GraftError
from graft.transfer import probe as probes
from graft.transfer.diagnostics import dormant_share, effective_rank
from graft.transfer.probe import GradientMeter, Probe, block_outputs, effective_weights

ACTIONS = discrete("left", "right")
SCHEMAS = {
    "vector": Schemas(vector(["x", "y", "z"]), ACTIONS),
    "planes": Schemas(planes(["self", "goal"]), ACTIONS),
    "pixels": Schemas(pixels(["r", "g"]), ACTIONS),
}


def linear_cka(x, y):
    """Kornblith et al. 2019, eq. 5, in feature space."""
    x, y = (side.detach().double() - side.detach().double().mean(0) for side in (x, y))
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def built(kind="planes", seed=0, config=None):
    return PolicyNetwork(SCHEMAS[kind], config or small_config(kind), seed)


def states(kind="planes", count=20, seed=0):
    return observations(SCHEMAS[kind].observation, count, seed)


def trained(network, steps=3):
    """The network after some steps of gradient descent on an arbitrary loss."""
    network = copy.deepcopy(network)
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    obs = observations(network.schemas.observation, 16, 3)
    for _ in range(steps):
        outputs = network(obs)
        optimiser.zero_grad()
        (outputs.action.square().sum() + (outputs.value - 1).square().sum() / 16).backward()
        optimiser.step()
    return network


def flat(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def tags(values, start):
    return {tag: value for tag, value in values.items() if tag.startswith(start)}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_an_untrained_network_is_its_own_start(kind):
    network = built(kind)
    values = Probe(network, states(kind)).measure(network)
    blocks = [f"/block{i}" for i in range(len(network.encoder.blocks))]
    assert values.keys() == {
        *(f"transfer/distance{name}" for name in [*blocks, "/policy"]),
        *(f"transfer/cka{name}" for name in [*blocks, ""]),
        *(f"transfer/dormant{name}" for name in [*blocks, ""]),
        "transfer/effective_rank",
    }
    assert set(tags(values, "transfer/distance").values()) == {0.0}
    assert list(tags(values, "transfer/cka").values()) == pytest.approx([1.0] * (len(blocks) + 1))


@pytest.mark.parametrize("kind", SCHEMAS)
def test_measures_are_those_of_the_formulas(kind):
    start, obs = built(kind), states(kind)
    probe, now = Probe(start, obs), trained(start)
    values, units, dormant = probe.measure(now), 0, 0.0
    for i in range(len(now.encoder.blocks)):
        with torch.no_grad():
            before, after = start.encoder.prefix(obs, i + 1), now.encoder.prefix(obs, i + 1)
        similarity = linear_cka(before.flatten(1), after.flatten(1))
        assert values[f"transfer/cka/block{i}"] == pytest.approx(similarity, abs=1e-6)
        assert values[f"transfer/dormant/block{i}"] == dormant_share(after)
        units, dormant = units + after.shape[1], dormant + after.shape[1] * dormant_share(after)
        theta, theta_0 = (flat(n.encoder.blocks[i]) for n in (now, start))
        moved = float((theta - theta_0).norm() / theta_0.norm())
        assert values[f"transfer/distance/block{i}"] == pytest.approx(moved, rel=1e-5)
        assert moved > 0
    assert values["transfer/cka"] == values[f"transfer/cka/block{i}"] < 1
    assert values["transfer/effective_rank"] == pytest.approx(effective_rank(after))
    assert values["transfer/dormant"] == pytest.approx(dormant / units)
    assert values["transfer/distance/policy"] > 0


AGENTS = {
    "discrete": (ACTIONS, None),
    "two choices": (ActionSchema("multi", ("a0", "a1", "b0", "b1", "b2"), sizes=(2, 3)), None),
    "box": (ActionSchema("box", ("x", "y"), (-1.0, -1.0), (1.0, 1.0)), None),
    "squashed": (ActionSchema("box", ("x", "y"), (-1.0, -1.0), (1.0, 1.0)), "squashed"),
    "greedy": (ACTIONS, "greedy"),
}


@pytest.mark.parametrize("agent", AGENTS)
def test_the_drift_of_an_agent_by_torchs_distributions(agent):
    actions, distribution = AGENTS[agent]
    schemas = Schemas(vector(["x", "y", "z"]), actions)
    start = PolicyNetwork(schemas, NetworkConfig("mlp", {"widths": [16, 16]}, (16,), distribution=distribution), 0)
    obs = observations(schemas.observation, 40, 0)
    probe = Probe(start, obs, audit=True)
    assert set(tags(probe.measure(start), "audit/").values()) == {0.0}
    now = trained(start)
    values = tags(probe.measure(now), "audit/")
    moved = [value for tag, value in probe.measure(now).items() if tag.startswith("transfer/distance/")]
    assert values["audit/distance"] == max(moved)
    spectra = []
    for name, before in start.state_dict().items():
        if before.ndim == 2 and min(before.shape) >= 8 and name.startswith(("encoder", "policy")):
            singular = torch.linalg.svdvals((now.state_dict()[name] - before).double()).square()
            spectra.append(float(singular[0] / singular.sum()))
    assert len(spectra) == 2
    assert values["audit/spectrum"] == pytest.approx(max(spectra), rel=1e-6)
    with torch.no_grad():
        then, later = start.eval()(obs), now.eval()(obs)
    parts = list(zip(*(out.action.split(actions.sizes or 2, 1) for out in (then, later)), strict=True))
    if actions.kind == "box":
        normal = [torch.distributions.Normal(out.action, out.log_std.exp()) for out in (then, later)]
        divergence = torch.distributions.kl_divergence(*normal).sum(1)
        assert "audit/actions" not in values
    else:
        choices = [[torch.distributions.Categorical(logits=side) for side in part] for part in parts]
        divergence = sum(torch.distributions.kl_divergence(*pair) for pair in choices)
        others = torch.stack([a.argmax(1) != b.argmax(1) for a, b in parts]).any(0)
        assert values["audit/actions"] == pytest.approx(float(others.float().mean()))
    if distribution == "greedy":
        assert "audit/kl" not in values
    else:
        assert values["audit/kl"] == pytest.approx(float(divergence.detach().mean()), rel=1e-4)
        assert values["audit/kl"] > 0


def test_weights_that_are_not_finite_are_unstable_and_large_layers_have_no_spectrum(monkeypatch):
    network = built("vector", config=NetworkConfig("mlp", {"widths": [16, 16]}, (16,)))
    probe = Probe(network, states("vector"), audit=True)
    now = trained(network)
    assert probe.measure(now)["audit/spectrum"] > 0
    monkeypatch.setattr(probes, "LARGEST", 12)
    assert probe.measure(now)["audit/spectrum"] == 0
    with torch.no_grad():
        now.policy.out.weight.fill_(math.nan)
    with pytest.raises(Unstable, match="weights are not finite"):
        probe.measure(now)


def test_frozen_blocks_keep_distance_zero():
    network = built()
    network.encoder.freeze(2)
    values = Probe(network, states()).measure(trained(network))
    assert [values[f"transfer/distance/block{i}"] == 0 for i in range(3)] == [True, True, False]
    assert [values[f"transfer/cka/block{i}"] for i in range(2)] == pytest.approx([1.0, 1.0])
    network.encoder.freeze()
    values = Probe(network, states()).measure(trained(network))
    assert values["transfer/distance/block2"] == 0 < values["transfer/distance/policy"]
    assert values["transfer/cka"] == pytest.approx(1)


def test_another_order_of_units_is_far_but_alike():
    network = built("vector", config=NetworkConfig("mlp", {"widths": [8]}, ()))
    probe = Probe(network, states("vector"))
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter.copy_(parameter.flip(0))
    values = probe.measure(network)
    assert values["transfer/distance/block0"] > 0.5
    assert values["transfer/cka/block0"] == pytest.approx(1)


def test_dead_units_are_counted():
    network = built()
    probe = Probe(network, states())
    with torch.no_grad():
        layer = network.encoder.blocks[2][1]
        layer.weight[:12], layer.bias[:12] = 0.0, -1.0  # 12 of the 16 features, after ReLU, are 0
    values = probe.measure(network)
    assert values["transfer/dormant/block2"] >= 12 / 16
    assert values["transfer/effective_rank"] <= 4
    with torch.no_grad():
        layer.weight[:], layer.bias[:] = 0.0, -1.0
    values = probe.measure(network)
    assert (values["transfer/cka"], values["transfer/effective_rank"], values["transfer/dormant/block2"]) == (0, 0, 1)


class LowRank(nn.Module):
    """W -> W + B A, as the `lora` method parametrises it."""

    def __init__(self, shape):
        super().__init__()
        self.a = nn.Parameter(torch.ones(1, math.prod(shape[1:])))
        self.b = nn.Parameter(torch.zeros(shape[0], 1))

    def forward(self, weight):
        return weight + (self.b @ self.a).view(weight.shape)


def parametrised(network):
    for module in list(network.encoder.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight.shape))
    return network


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["vector", "planes"])
def test_parametrised_weights_count_as_what_they_amount_to(when, kind):
    plain, network = built(kind), built(kind)
    if when == "before":
        network = parametrised(network)
    probe = Probe(network, states(kind))
    if when == "after":
        network = parametrised(network)
    assert set(tags(probe.measure(network), "transfer/distance").values()) == {0.0}
    blocks, moved = network.encoder.blocks, copy.deepcopy(plain)
    with torch.no_grad():
        for block, other in zip(blocks, moved.encoder.blocks, strict=True):
            for module, plain_module in zip(block.children(), other.children(), strict=True):
                if hasattr(module, "parametrizations"):
                    module.parametrizations.weight[0].b += 0.25
                    plain_module.weight += 0.25
    assert probe.measure(network) == pytest.approx(Probe(plain, states(kind)).measure(moved), rel=1e-5)
    assert effective_weights(network.encoder.blocks[0]).keys() == effective_weights(plain.encoder.blocks[0]).keys()
    for module in network.encoder.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    assert probe.measure(network) == pytest.approx(Probe(plain, states(kind)).measure(moved), rel=1e-5)


class Beside(PolicyNetwork):
    """A column beside another: what the other's block gives is added before each activation."""

    def __init__(self, other):
        super().__init__(other.schemas, other.config, 7)
        self.other = other

    def forward(self, obs):
        own, others = obs.float(), obs.float()
        for block, other in zip(self.encoder.blocks, self.other.encoder.blocks, strict=True):
            others = other(others)
            own = block[2:](block[:2](own) + others)
        return self.heads(own)


def test_a_column_beside_its_source_is_compared_with_the_source():
    source, obs = built("vector", seed=1), states("vector")
    network = Beside(source)
    values = Probe(network, obs, reference=source).measure(network)
    with torch.no_grad():
        lower = source.encoder.prefix(obs, 1)
        own = torch.tanh(network.encoder.blocks[0][1](obs) + lower)
        upper = torch.tanh(network.encoder.blocks[1][1](own) + source.encoder(obs))
    assert values["transfer/cka/block0"] == pytest.approx(linear_cka(own, lower))
    assert values["transfer/cka"] == pytest.approx(linear_cka(upper, source.encoder(obs)))
    assert values["transfer/distance/block0"] == 0  # to where the column itself started
    assert [torch.equal(a, b) for a, b in zip(block_outputs(network, obs), (own, upper), strict=True)] == [True, True]


def test_a_reference_of_another_depth_is_compared_as_far_as_it_goes():
    network = built("vector", config=NetworkConfig("mlp", {"widths": [8, 8, 4]}, ()))
    reference = built("vector", config=NetworkConfig("mlp", {"widths": [8, 4]}, ()))
    values = Probe(network, states("vector"), reference).measure(network)
    assert list(tags(values, "transfer/cka")) == ["transfer/cka/block0", "transfer/cka/block1", "transfer/cka"]
    assert values["transfer/cka"] < 1


class Skipping(PolicyNetwork):
    """A network that does not run its encoder."""

    def forward(self, obs):
        features = torch.zeros(len(obs), self.encoder.out_dim)
        return Outputs(self.policy(features), None, self.value(features))


def test_a_block_that_is_not_run_is_an_error():
    network = Skipping(SCHEMAS["vector"], small_config("vector"), 0)
    with pytest.raises(GraftError, match="Block 0"):
        Probe(network, states("vector"))


def draw_a_number(*_):
    """What a network with noise in it does to the random state."""
    torch.rand(1)


@pytest.mark.parametrize("frozen", [0, 1])
def test_the_network_and_the_random_state_are_left_alone(monkeypatch, frozen):
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = built("vector", config=NetworkConfig("norm", {}, (4,)))
    network.encoder.freeze(frozen)
    network.train()
    network.policy.eval()  # a mode of its own
    network.register_forward_pre_hook(draw_a_number)
    before, modes = weights(network), {name: part.training for name, part in network.named_modules()}
    rng = torch.get_rng_state()
    probe = Probe(network, states("vector"))
    values = probe.measure(network)
    assert probe.measure(network) == values
    assert_same(weights(network), before)
    assert {name: part.training for name, part in network.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in network.parameters())
    assert not any(part._forward_hooks for part in network.modules())


def test_what_the_probe_keeps_does_not_follow_the_network():
    network, obs = built(), states()
    probe, moved = Probe(network, obs), trained(network)
    expected = probe.measure(moved)
    network.load_state_dict(moved.state_dict())
    obs.zero_()
    assert probe.measure(network) == expected


def test_states_are_capped_and_spread():
    network = built("vector")
    obs = torch.arange(300.0)[:, None].repeat(1, 3) / 300
    chosen = Probe(network, obs, states=4).measure(network)
    assert chosen == Probe(network, obs[[0, 100, 199, 299]]).measure(network)
    assert chosen == Probe(network, obs.numpy(), states=4).measure(network)
    assert len(Probe(network, obs)._observations) == 256


@pytest.mark.parametrize("obs", [torch.zeros(1, 3), torch.zeros(0, 3), torch.zeros(5, 4), torch.zeros(5, 3, 1)])
def test_observations_that_do_not_fit_are_refused(obs):
    with pytest.raises(GraftError, match="2 or more of shape"):
        Probe(built("vector"), obs)


def test_a_reference_with_other_observations_is_refused():
    with pytest.raises(GraftError, match=r"of shape \(2, 5, 5\)"):
        Probe(built("vector"), states("vector"), reference=built("planes"))


@pytest.mark.parametrize("widths", [[16], [16, 15], [16, 16, 16]])
def test_a_network_with_other_layers_is_refused(widths):
    probe = Probe(built("vector"), states("vector"))
    with pytest.raises(GraftError, match="same tensors"):
        probe.measure(built("vector", config=NetworkConfig("mlp", {"widths": widths}, (8,))))


def test_a_diverged_network_is_unstable():
    network = built()
    probe = Probe(network, states())
    with torch.no_grad():
        network.encoder.blocks[1][0].weight[0] = math.nan
    with pytest.raises(Unstable, match="finite"):
        probe.measure(network)


def gradients(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_the_meter_averages_what_was_measured():
    meter = GradientMeter()
    task = gradients(w=[3.0, 4.0])
    penalty = torch.tensor(2.0, requires_grad=True)
    meter.measure(task, gradients(w=[8.0, 4.0]), penalty)  # added (5, 0): cosine 0.6, share 1/2
    meter.measure(task, gradients(w=[0.0, 0.0]), torch.tensor(4.0))  # added -task: cosine -1, share 1/2
    meter.measure(task, gradients(w=[3.0, 4.0]), torch.tensor(0.0))  # nothing added: both 0, and counted
    assert meter.report() == pytest.approx(
        {"transfer/penalty": 2.0, "transfer/conflict": -0.4 / 3, "transfer/penalty_share": 1 / 3}
    )
    assert meter.report() == {}


def test_the_meter_without_a_penalty_and_with_absent_gradients():
    meter = GradientMeter()
    meter.measure(gradients(w=[4.0]), gradients(v=[3.0]))  # added v = 3, w = -4: length 5
    assert meter.report() == pytest.approx({"transfer/conflict": -0.8, "transfer/penalty_share": 5 / 9})


def test_the_meter_sees_a_projection():
    # A-GEM: g . g_ref = -2 < 0, so it adds 2 / 4 g_ref = (0, 1), against the task's (1, -1).
    task, reference = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])
    projected = task - (task @ reference) / (reference @ reference) * reference
    meter = GradientMeter()
    meter.measure({"w": task}, {"w": projected})
    length = math.sqrt(2)
    assert meter.report() == pytest.approx(
        {"transfer/conflict": -1 / length, "transfer/penalty_share": 1 / (1 + length)}
    )


def test_the_meter_measures_one_update_of_so_many():
    meter, task = GradientMeter(every=3), gradients(w=[1.0])
    assert [meter.start(task) is not None for _ in range(7)] == [True, False, False, True, False, False, True]


def test_the_meter_keeps_gradients_from_changes_in_place():
    meter, task = GradientMeter(every=1), gradients(w=[3.0])
    before = meter.start(task)
    task["w"] += 1
    meter.measure(before, task)
    assert meter.report()["transfer/penalty_share"] == pytest.approx(0.25)
