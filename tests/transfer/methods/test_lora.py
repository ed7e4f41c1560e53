"""LoRA: the correction by hand, what trains, and the merge."""

from __future__ import annotations

import math

import pytest
import torch
from support.tiny_tasks import (
    BOARD,
    EVALUATION,
    MATCH,
    TASK,
    assert_same,
    observations,
    register_encoder,
    small_config,
    small_network,
    small_ppo,
    weights,
)
from torch.nn.utils import parametrize

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import train
from graft.agents.training.backend import Batch, TrainJob
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import METHODS
from graft.transfer.methods.lora import LowRank

pytestmark = pytest.mark.usefixtures("tiny_tasks")


def source_of(schemas: Schemas) -> Checkpoint:
    return Checkpoint.of(small_network(schemas, seed=3), TASK)


def build(schemas: Schemas = MATCH, seed: int = 1, **options):
    return METHODS["lora"](**options).build(source_of(schemas), schemas, small_config(schemas.observation.kind), seed)


def shaken(network: PolicyNetwork) -> PolicyNetwork:
    """The network with every correction at work: B starts as zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith((".A", ".B")):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def trained(network: PolicyNetwork) -> PolicyNetwork:
    train(TrainJob(network, TASK, small_ppo(), 256, 0, lambda *_: None, EVALUATION, device="cpu"))
    return network


def test_a_linear_layer_by_hand():
    low = LowRank(torch.empty(2, 3), rank=1, alpha=4.0, generator=torch.Generator())
    with torch.no_grad():
        low.A.copy_(torch.tensor([[1.0, 0.0, 2.0]]))
        low.B.copy_(torch.tensor([[0.5], [-1.0]]))
    corrected = low(torch.ones(2, 3))
    assert torch.equal(corrected, torch.tensor([[3.0, 1.0, 5.0], [-3.0, 1.0, -7.0]]))  # 1 + 4 * B A


def test_a_convolution_is_the_matrix_of_its_kernels():
    weight = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    low = LowRank(weight, rank=2, alpha=3.0, generator=torch.Generator().manual_seed(1))
    assert low.A.shape == (2, 30)
    assert low.B.shape == (4, 2)
    with torch.no_grad():
        low.B.fill_(0.5)
    by_hand = weight.clone()
    for o in range(4):
        for index in range(30):
            i, y, x = index // 10, index % 10 // 5, index % 5
            by_hand[o, i, y, x] += 3 / 2 * 0.5 * float(low.A[0, index].detach() + low.A[1, index].detach())
    torch.testing.assert_close(low(weight), by_hand)


@pytest.mark.parametrize(("shape", "rank", "allowed"), [((16, 5), 8, 5), ((2, 40), 8, 2), ((16, 40), 8, 8)])
def test_the_rank_is_capped_and_the_scale_is_the_layers_own(shape, rank, allowed):
    low = LowRank(torch.empty(shape), rank, 16.0, torch.Generator())
    assert low.A.shape == (allowed, shape[1])
    assert low.scale == 16.0 / allowed


def test_a_is_uniform_within_the_root_of_its_inputs_and_b_is_zero():
    low = LowRank(torch.empty(200, 400), 100, 16.0, torch.Generator().manual_seed(0))
    assert float(low.A.detach().abs().max()) <= 1 / math.sqrt(400)
    assert float(low.A.detach().std()) == pytest.approx(1 / math.sqrt(3 * 400), rel=0.02)
    assert not low.B.any()


@pytest.mark.parametrize("schemas", [MATCH, BOARD], ids=["mlp", "cnn"])
def test_it_starts_as_the_source_with_every_layer_corrected(schemas):
    network = build(schemas).network
    obs = observations(schemas.observation, 6)
    assert torch.equal(network.encoder(obs), source_of(schemas).build().encoder(obs))
    layers = [module for module in network.encoder.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(layers) == {"vector": 2, "planes": 3}[schemas.observation.kind]
    assert all(parametrize.is_parametrized(layer, "weight") for layer in layers)


def test_only_corrections_and_heads_train_and_no_block_counts_as_frozen():
    network = build(BOARD).network
    trains = {name for name, p in network.named_parameters() if p.requires_grad}
    corrections = {
        f"encoder.blocks.{layer}.parametrizations.weight.0.{m}" for layer in ("0.0", "1.0", "2.1") for m in "AB"
    }
    assert trains == corrections | {n for n, _ in network.named_parameters() if n.startswith(("policy.", "value."))}
    assert network.frozen_depth == 0


def test_seeds():
    state = torch.get_rng_state()
    first, again, other = (dict(build(seed=s).network.named_parameters()) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first, again)
    drawn = [name for name in first if name.endswith(".A")]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_training_leaves_the_base_and_biases_bit_for_bit_and_moves_the_rest():
    network = build().network
    before, after = weights(network), weights(trained(network))
    same = {name for name in after if torch.equal(after[name], before[name])}
    assert same == {n for n in after if n.startswith("encoder.") and n.endswith((".original", ".bias"))}
    base = {n.replace("parametrizations.weight.original", "weight"): after[n] for n in same}
    assert_same(base, {n: t for n, t in source_of(MATCH).tensors.items() if n.startswith("encoder.")})


def test_the_gradients_of_a_and_b_by_hand():
    """With W = W0 + s B A: dL/dA = s B^T G and dL/dB = s G A^T, G the gradient of W."""
    network = shaken(build(alpha=4.0, rank=2).network)
    plain = METHODS["lora"]().finish(network, {})
    obs = observations(MATCH.observation, 5)
    for n in (network, plain):
        n(obs).action.square().sum().backward()
    g, low = plain.encoder.blocks[0][1].weight.grad, network.encoder.blocks[0][1].parametrizations.weight[0]
    torch.testing.assert_close(low.A.grad, 2.0 * low.B.T @ g)
    torch.testing.assert_close(low.B.grad, 2.0 * g @ low.A.T)


@pytest.mark.parametrize("schemas", [MATCH, BOARD], ids=["mlp", "cnn"])
def test_merged_it_is_a_plain_network_with_the_same_outputs(schemas):
    network = shaken(build(schemas).network)
    obs = observations(schemas.observation, 7)
    before = network(obs)
    merged = METHODS["lora"]().finish(network, {})
    assert torch.equal(network(obs).action, before.action)  # it still works
    after = merged(obs)
    torch.testing.assert_close(after.action, before.action, rtol=0, atol=1e-5)
    torch.testing.assert_close(after.value, before.value, rtol=0, atol=1e-5)
    plain = PolicyNetwork(schemas, merged.config, 0)
    assert [(n, p.requires_grad) for n, p in merged.named_parameters()] == [
        (n, p.requires_grad) for n, p in plain.named_parameters()
    ]
    assert_same(weights(Checkpoint.of(merged, TASK).build()), weights(merged))
    assert not torch.equal(merged.encoder(obs), source_of(schemas).build().encoder(obs))


def test_what_was_merged_is_the_next_source():
    method = METHODS["lora"]()
    merged = method.finish(trained(build().network), {})
    again = method.build(Checkpoint.of(merged, TASK), MATCH, small_config("vector"), 2).network
    obs = observations(MATCH.observation, 5)
    assert torch.equal(again.encoder(obs), merged.encoder(obs))


def test_running_statistics_stay_the_sources(monkeypatch):
    register_encoder(monkeypatch)
    config = NetworkConfig("norm", head=(8,))
    source = Checkpoint.of(PolicyNetwork(MATCH, config, 0), TASK)
    network = METHODS["lora"]().build(source, MATCH, config, 1).network
    before = weights(network)
    after = weights(trained(network.train()))
    moved = {n for n in after if not torch.equal(after[n], before[n]) and n.startswith("encoder.")}
    assert moved == {n for n in after if n.endswith((".A", ".B"))}
    merged = METHODS["lora"]().finish(network.train(), {})
    assert all(module.training for module in merged.modules())


def test_the_hooks_do_nothing():
    network, grads = build().network, {"x": torch.ones(1)}
    batch = Batch(observations(MATCH.observation, 2), torch.zeros(2, dtype=torch.long))
    assert METHODS["lora"]().gradients(grads, network, {}, batch).grads is grads
    assert "fresh_weights" in METHODS["lora"].provides


@pytest.mark.parametrize("options", [{"rank": 0}, {"alpha": 0.0}, {"alpha": math.inf}])
def test_options_that_are_not_allowed(options):
    with pytest.raises(GraftError, match=f"LoRA: {next(iter(options))}="):
        METHODS["lora"](**options)
