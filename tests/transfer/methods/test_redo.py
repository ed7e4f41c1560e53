"""ReDo: scores by hand, what a dormant unit becomes, and nothing where none is dormant."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import (
    BOARD,
    EVALUATION,
    MATCH,
    TASK,
    NormEncoder,
    assert_same,
    observations,
    register_encoder,
    small_config,
    small_network,
    small_ppo,
    weights,
)
from torch import nn

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import Encoder
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import train
from graft.agents.training.backend import Batch, Hooks, TrainJob
from graft.errors import GraftError
from graft.transfer.method import METHODS
from graft.transfer.methods.redo import dormant

pytestmark = pytest.mark.usefixtures("tiny_tasks")
CONV1, CONV2, LINEAR = "encoder.blocks.0.0", "encoder.blocks.1.0", "encoder.blocks.2.1"


class Given(Encoder):
    """Blocks that put out what they are given."""

    def __init__(self, *outputs: torch.Tensor) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Constant(h) for h in outputs)


class Constant(nn.Module):
    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.output


def everywhere(network: PolicyNetwork, **options):
    """A step of the method with gradients of ones, on a batch of ten states, right away."""
    method = METHODS["redo"](**({"every": 1} | options))
    grads = {name: torch.ones_like(p) for name, p in network.named_parameters()}
    batch = Batch(observations(network.schemas.observation, 10), torch.zeros(10, dtype=torch.long))
    return method.gradients(grads, network, method.init(network, None), batch)


def silence(network: PolicyNetwork, layer: str, *units: int) -> PolicyNetwork:
    """No activity in ``units`` of a layer that a ReLU follows."""
    with torch.no_grad():
        for unit in units:
            network.get_parameter(f"{layer}.weight")[unit] = 0
            network.get_parameter(f"{layer}.bias")[unit] = -1
    return network


def board(seed: int = 0) -> PolicyNetwork:
    """A network all of whose units are active: its incoming weights and biases are positive."""
    network = small_network(BOARD, seed)
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter.copy_(parameter.abs() + 0.1)
    return network


def trained(network: PolicyNetwork, **options) -> dict[str, torch.Tensor]:
    method = METHODS["redo"](**options)
    state = method.init(network, None)

    def gradients(grads, network, batch):
        nonlocal state
        grads, state, _ = method.gradients(grads, network, state, batch)
        return grads

    train(TrainJob(network, TASK, small_ppo(), 256, 0, lambda *_: None, EVALUATION, Hooks(gradients), "cpu"))
    assert int(state["updates"]) == 16
    return weights(network)


def test_scores_by_hand():
    features = torch.tensor([[1.0, -0.1, 0.0, 3.0], [-3.0, 0.1, 0.0, 5.0]])  # means 2, .1, 0, 4; of the layer 1.525
    channels = torch.zeros(2, 2, 1, 2)
    channels[0, 0, 0, 1] = -8.0  # means 2 and 0 over states and cells, 1 of the layer
    flat = torch.tensor(
        [[1.0, 1.0, 4.0, 6.0], [1.0, 1.0, 4.0, 6.0]]
    )  # two channels of two cells: 1 and 5, 3 on average
    encoder = Given(features, channels, flat, torch.zeros(2, 3))
    obs = torch.zeros(2, 1)
    found = dormant(encoder, [4, 2, 2, 3], obs, 0.1)
    assert [units.tolist() for units in found] == [[False, True, True, False], [False, True], [False] * 2, [True] * 3]
    assert dormant(encoder, [4, 2, 2, 3], obs, 0.06)[0].tolist() == [False, False, True, False]  # .1 / 1.525 = .0656
    assert dormant(encoder, [4, 2, 2, 3], obs, 0.0)[0].tolist() == [False, False, True, False]
    assert dormant(encoder, [4, 2, 2, 3], obs, 0.34)[2].tolist() == [True, False]


def test_a_dormant_channel_gets_fresh_incoming_and_zero_outgoing_weights():
    network = silence(board(), CONV1, 2)
    before, step = weights(network), everywhere(network)
    after = weights(network)
    rows, columns = after[f"{CONV1}.weight"], after[f"{CONV2}.weight"]
    assert rows[2].abs().sum() > 0.1
    assert after[f"{CONV1}.bias"][2] == 0
    assert not columns[:, 2].any()
    others = [0, 1, 3]
    assert torch.equal(rows[others], before[f"{CONV1}.weight"][others])
    assert torch.equal(columns[:, others], before[f"{CONV2}.weight"][:, others])
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"{CONV1}.weight", f"{CONV1}.bias", f"{CONV2}.weight"}
    wanted = {name: torch.ones_like(g) for name, g in step.grads.items()}
    wanted[f"{CONV1}.weight"][2] = wanted[f"{CONV1}.bias"][2] = wanted[f"{CONV2}.weight"][:, 2] = 0
    assert_same(step.grads, wanted)


def test_incoming_weights_are_drawn_like_those_of_a_new_network():
    """Rows of an orthogonal matrix of gain sqrt(2), another one each time."""
    drawn = []
    for _ in range(2):
        network = silence(board(), LINEAR, 0, 5)
        method = METHODS["redo"](every=1)
        state = method.init(network, None) | {"updates": torch.tensor(len(drawn))}
        batch = Batch(observations(BOARD.observation, 10), torch.zeros(10, dtype=torch.long))
        method.gradients({}, network, state, batch)
        drawn.append(network.get_parameter(f"{LINEAR}.weight")[[0, 5]].detach())
        torch.testing.assert_close(drawn[-1] @ drawn[-1].T, 2.0 * torch.eye(2))
    assert not torch.equal(*drawn)


def test_a_channel_below_a_linear_layer_owns_its_cells():
    network = silence(board(), CONV2, 1)
    before = weights(network)
    everywhere(network)
    after = network.get_parameter(f"{LINEAR}.weight")
    assert after.shape == (16, 6 * 9)
    assert not after[:, 9:18].any()
    assert torch.equal(after[:, :9], before[f"{LINEAR}.weight"][:, :9])
    assert torch.equal(after[:, 18:], before[f"{LINEAR}.weight"][:, 18:])


@pytest.mark.parametrize(("head", "first"), [((8,), "hidden.0"), ((), "out")])
def test_features_go_out_to_both_heads(head, first):
    config = NetworkConfig(None, {"channels": [4, 6], "features": 16}, head)
    network = PolicyNetwork(BOARD, config, 0)
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter.copy_(parameter.abs() + 0.1)
    step = everywhere(silence(network, LINEAR, 3))
    for name in (f"policy.{first}.weight", f"value.{first}.weight"):
        for tensor in (network.get_parameter(name), step.grads[name]):
            assert not tensor[:, 3].any()
            assert tensor[:, [0, 1, 2, 4]].all()


def test_silent_units_are_replaced_without_a_change_of_output():
    network = silence(silence(silence(board(), CONV1, 0, 3), CONV2, 2), LINEAR, 1, 15)
    obs = observations(BOARD.observation, 10)
    before = network(obs)
    everywhere(network)
    after = network(obs)
    torch.testing.assert_close(after.action, before.action)
    torch.testing.assert_close(after.value, before.value)


def test_between_two_dormant_units_the_fresh_weight_stands():
    network = silence(silence(board(), CONV1, 0), CONV2, 2)
    everywhere(network)
    columns = network.get_parameter(f"{CONV2}.weight")[:, 0].flatten(1)
    assert columns.any(1).tolist() == [False, False, True, False, False, False]


def test_normalisation_of_a_dormant_unit_starts_anew_and_no_statistics_see_the_batch_twice(monkeypatch):
    register_encoder(monkeypatch)
    network = PolicyNetwork(MATCH, NetworkConfig("norm", head=(8,)), 0)
    norm = network.encoder.blocks[0][2]
    with torch.no_grad():
        norm.weight[4] = norm.bias[4] = 0.0
        norm.running_mean.fill_(0.5)
    network.train()
    before = weights(network)
    step = everywhere(network)
    assert norm.weight.tolist() == [1.0] * 6
    assert norm.running_mean.tolist() == [0.5, 0.5, 0.5, 0.5, 0.0, 0.5]
    assert step.grads["encoder.blocks.0.2.weight"].tolist() == [1, 1, 1, 1, 0, 1]
    assert_same(
        {n: t for n, t in weights(network).items() if n.startswith("encoder.blocks.1.2")},
        {n: t for n, t in before.items() if n.startswith("encoder.blocks.1.2")},
    )
    assert network.encoder.training
    assert norm.training


def test_it_looks_every_so_many_updates():
    method, network = METHODS["redo"](every=3), silence(board(), CONV1, 2)
    state, before = method.init(network, None), weights(network)
    batch = Batch(observations(BOARD.observation, 4), torch.zeros(4, dtype=torch.long))
    grads = {}
    for update in (1, 2, 3):
        changed, state, penalty = method.gradients(grads, network, state, batch)
        assert int(state["updates"]) == update
        assert penalty is None
        assert (changed is grads) is (update < 3)
        assert torch.equal(network.get_parameter(f"{CONV1}.bias"), before[f"{CONV1}.bias"]) is (update < 3)


@pytest.mark.parametrize("options", [{"every": 10**6}, {"every": 1, "tau": 0.0}], ids=["never", "none is silent"])
def test_without_dormant_units_it_is_finetune_bit_for_bit(options):
    plain = small_network(MATCH)
    train(TrainJob(plain, TASK, small_ppo(), 256, 0, lambda *_: None, EVALUATION, device="cpu"))
    assert_same(trained(small_network(MATCH), **options), weights(plain))


def test_training_with_it_is_reproducible_and_leaves_the_random_state_alone():
    options = {"every": 4, "tau": 0.9}
    runs = [trained(small_network(MATCH), **options) for _ in range(2)]
    assert_same(*runs)
    plain = trained(small_network(MATCH), every=10**6)
    assert not torch.equal(runs[0]["encoder.blocks.0.1.weight"], plain["encoder.blocks.0.1.weight"])
    state = torch.get_rng_state()
    everywhere(silence(board(), CONV1, 2))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_state_starts_anew_and_tells_runs_apart():
    method, first = METHODS["redo"](), small_network(MATCH)
    source = Checkpoint.of(first, TASK, parts={"method": {"updates": torch.tensor(7), "seed": torch.tensor(1)}})
    state = method.init(first, source)
    assert int(state["updates"]) == 0
    assert torch.equal(method.init(small_network(MATCH), None)["seed"], state["seed"])
    assert not torch.equal(method.init(small_network(MATCH, seed=1), None)["seed"], state["seed"])


def test_blocks_of_several_layers_are_refused(monkeypatch):
    class Twofold(Encoder):
        kinds = ("vector",)

        def __init__(self, schema) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))])
            self.out_dim = 4
            self.stems = (NormEncoder(MATCH.observation).stems[0]._replace(name="blocks.0.0.weight"),)

    register_encoder(monkeypatch, "twofold", Twofold)
    source = Checkpoint.of(PolicyNetwork(MATCH, NetworkConfig("twofold", head=(8,)), 0), TASK)
    with pytest.raises(GraftError, match="block 0 of 'twofold' has 2"):
        METHODS["redo"]().build(source, MATCH, source.network, 1)


def test_it_builds_what_finetune_builds():
    source = Checkpoint.of(small_network(MATCH, seed=3), TASK)
    redo, finetune = (METHODS[n]().build(source, MATCH, small_config("vector"), 1) for n in ("redo", "finetune"))
    assert_same(weights(redo.network), weights(finetune.network))
    assert redo.report == finetune.report


@pytest.mark.parametrize("options", [{"every": 0}, {"tau": -0.1}])
def test_options_that_are_not_allowed(options):
    with pytest.raises(GraftError, match=f"ReDo: {next(iter(options))}="):
        METHODS["redo"](**options)
