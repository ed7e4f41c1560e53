"""PackNet: shares by hand, masks, and every earlier task exactly as it was after a chain of three."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from support.tiny_tasks import (
    EVALUATION,
    MATCH,
    TASK,
    NormEncoder,
    assert_same,
    discrete,
    observations,
    planes,
    scrambled,
    small_config,
    small_network,
    small_ppo,
    vector,
    weights,
)

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import train
from graft.agents.training.backend import Batch, Hooks, TrainJob
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import METHODS, State, TaskPosition, TransferMethod
from graft.transfer.methods.packnet import OWNER, largest
from graft.transfer.state import group

pytestmark = pytest.mark.usefixtures("tiny_tasks")
FIRST, SECOND = "encoder.blocks.0.1.weight", "encoder.blocks.1.1.weight"
NO_STATES = Batch(observations(MATCH.observation, 1), torch.zeros(1, dtype=torch.long))
TASKS = 3


def practise(method: TransferMethod, network: PolicyNetwork, state: State, seed: int) -> State:
    """Two rollouts of PPO with the method's hooks."""

    def gradients(grads, network, batch):
        nonlocal state
        grads, state, _ = method.gradients(grads, network, state, batch)
        return grads

    def schedule(network, progress):
        nonlocal state
        state = method.schedule(network, state, progress)

    train(
        TrainJob(network, TASK, small_ppo(), 256, seed, lambda *_: None, EVALUATION, Hooks(gradients, schedule), "cpu")
    )
    return state


class Lived(NamedTuple):
    """A task's tensors after training, after packing and after retraining, and the state then."""

    trained: dict[str, torch.Tensor]
    packed: dict[str, torch.Tensor]
    retrained: dict[str, torch.Tensor]
    state: State


def chain(method: TransferMethod, config: NetworkConfig) -> tuple[PolicyNetwork, list[Lived]]:
    """Three tasks in sequence, each trained, packed, retrained and put to rest."""
    network, state, lives = PolicyNetwork(MATCH, config, 0), {}, []
    for task in range(TASKS):
        if task:
            rest = Checkpoint.of(network, TASK, parts={"method": state})
            network = method.build(rest, MATCH, config, task).network
            state = method.init(network, rest)
        state = practise(method, network, state, task) if task else plainly(network)
        trained = weights(network)
        network, state = method.consolidate(method.finish(network, state), state, NO_STATES, TaskPosition(task, TASKS))
        packed = weights(network)
        state = practise(method, network, state, 10 + task)
        lives.append(Lived(trained, packed, weights(network), state))
    return network, lives


def plainly(network: PolicyNetwork) -> dict[str, Any]:
    """The first task is trained without the method."""
    train(TrainJob(network, TASK, small_ppo(), 256, 0, lambda *_: None, EVALUATION, device="cpu"))
    return {}


@pytest.fixture(params=["mlp", "norm"])
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NetworkConfig:
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    return {"mlp": small_config("vector"), "norm": NetworkConfig("norm", head=(8,))}[request.param]


def encoder_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return before[name] != after[name]


# Packing by hand


def test_the_largest_by_hand():
    weight = torch.tensor([[3.0, -5.0, 0.5], [-3.0, 9.0, 3.0]])
    among = torch.tensor([[True, True, True], [True, False, True]])
    assert largest(weight, among, 1).tolist() == [[False, True, False], [False, False, False]]
    assert largest(weight, among, 3).tolist() == [[True, True, False], [True, False, False]]  # of equals the first
    assert largest(weight, among, 5).tolist() == among.tolist()
    assert not largest(weight, among, 0).any()
    zeros = torch.zeros(2, 3)
    assert largest(zeros, among, 4).tolist() == [[True, True, True], [True, False, False]]  # not what is not free


def test_a_layer_is_shared_out_by_hand():
    """Four tasks and 64 weights: 16 of 64, 16 of 48, 16 of 32, 16 of 16; 15 weights give 4, 4, 4 (3.5 is even), 3."""
    method, config = METHODS["packnet"](), NetworkConfig("mlp", {"widths": [16, 1]}, (8,))
    network, state = PolicyNetwork(MATCH, config, 0), {}
    for task in range(4):
        network, state = method.consolidate(network, state, NO_STATES, TaskPosition(task, 4))
    assert torch.bincount(state[f"{OWNER}.{FIRST}"].flatten().int()).tolist() == [0, 16, 16, 16, 16]
    config = NetworkConfig("mlp", {"widths": [3, 5]}, (8,))
    network, state, counts = PolicyNetwork(MATCH, config, 0), {}, []
    for task in range(4):
        network, state = method.consolidate(network, state, NO_STATES, TaskPosition(task, 4))
        counts.append(int((state[f"{OWNER}.{SECOND}"] == task + 1).sum()))
    assert counts == [4, 4, 4, 3]


def test_what_is_kept_and_what_is_released():
    method, network = METHODS["packnet"](), small_network(MATCH)
    before = weights(network)
    network, state = method.consolidate(network, {}, NO_STATES, TaskPosition(0, 2))
    after = weights(network)
    assert group(state, OWNER).keys() == {FIRST, SECOND}
    for name, owner in group(state, OWNER).items():
        assert owner.dtype == torch.int16
        kept = owner == 1
        assert int(kept.sum()) == owner.numel() // 2
        assert torch.equal(after[name], before[name] * kept)
        assert before[name][kept].abs().min() >= before[name][~kept].abs().max()
    assert {n for n in after if not torch.equal(after[n], before[n])} == {FIRST, SECOND}
    assert (int(state["packed"]), bool(state["retraining"])) == (1, True)


def test_a_later_task_keeps_among_the_free_only():
    method, network = METHODS["packnet"](), small_network(MATCH)
    network, state = method.consolidate(network, {}, NO_STATES, TaskPosition(0, 3))
    first = {name: owner == 1 for name, owner in group(state, OWNER).items()}
    with torch.no_grad():  # the second task's weights are tiny, and still it keeps its share
        for name, mask in first.items():
            network.get_parameter(name).add_(~mask * 1e-6 * torch.rand(mask.shape))
    network, state = method.consolidate(network, state, NO_STATES, TaskPosition(1, 3))
    for name, owner in group(state, OWNER).items():
        assert torch.equal(owner == 1, first[name])
        free = int((~first[name]).sum())
        assert int((owner == 2).sum()) == round(free / 2)
        assert not network.get_parameter(name)[owner == 0].any()


def test_the_last_task_keeps_the_rest():
    method, network = METHODS["packnet"](), small_network(MATCH)
    before = weights(network)
    network, state = method.consolidate(network, {}, NO_STATES, TaskPosition(0, 1))
    assert_same(weights(network), before)
    assert all((owner == 1).all() for owner in group(state, OWNER).values())


# Which gradients are left


def masked(state: State, network: PolicyNetwork) -> dict[str, torch.Tensor]:
    grads = {name: torch.full_like(p, -2.0) for name, p in network.named_parameters()}
    step = METHODS["packnet"]().gradients(grads, network, state, NO_STATES)
    assert step.state is state
    return step.grads


@pytest.mark.parametrize(("retraining", "owner"), [(True, 2), (False, 0)])
def test_gradients_by_hand(retraining, owner):
    network = small_network(MATCH)
    state = dict(METHODS["packnet"]().init(network, None))
    given = torch.tensor([[0, 1, 2, 0]] * 16, dtype=torch.int16)
    state |= {f"{OWNER}.{FIRST}": given, "packed": torch.tensor(2), "retraining": torch.tensor(retraining)}
    grads = masked(state, network)
    assert grads[FIRST].tolist() == [[-2.0 * (o == owner) for o in (0, 1, 2, 0)]] * 16
    biases = [name for name in grads if name.startswith("encoder.") and name.endswith("bias")]
    assert len(biases) == 2
    assert not any(grads[name].any() for name in biases)
    assert all((g == -2.0).all() for name, g in grads.items() if not name.startswith("encoder."))


def test_before_the_first_packing_everything_trains():
    network = small_network(MATCH)
    state = METHODS["packnet"]().init(network, None)
    assert all((g == -2.0).all() for g in masked(state, network).values())
    assert METHODS["packnet"]().schedule(network, state, 0.0) is state
    assert not network.encoder.holds_statistics


# A life of three tasks


def test_training_moves_only_what_it_may_bit_for_bit(config):
    _, lives = chain(METHODS["packnet"](), config)
    for task, (trained, packed, retrained, state) in enumerate(lives):
        fixed = set(encoder_of(trained)) - set(group(state, OWNER))
        assert fixed
        assert [n for n in sorted(fixed) if not torch.equal(packed[n], retrained[n])] == []
        for name, owner in group(state, OWNER).items():
            assert torch.equal(moved(packed, retrained, name), owner == task + 1)
            if task:
                before = group(lives[task - 1].state, OWNER)[name]
                assert torch.equal(moved(lives[task - 1].retrained, trained, name), before == 0)
        if task:
            assert [n for n in sorted(fixed) if not torch.equal(trained[n], lives[0].packed[n])] == []


def test_every_earlier_task_is_recovered_exactly(config):
    method = METHODS["packnet"]()
    network, lives = chain(method, config)
    final, state = weights(network), lives[-1].state
    obs = observations(MATCH.observation, 9)
    for task, life in enumerate(lives):
        seen = method.view(network, state, task)
        assert_same(encoder_of(weights(seen)), encoder_of(life.retrained))
        seen.load_exactly(life.retrained)  # the heads of that task
        then = PolicyNetwork(MATCH, config, 0)
        then.load_exactly(life.retrained)
        view = method.view(network, state, task)
        view.policy, view.value = seen.policy, seen.value
        now, wanted = view.eval()(obs), then.eval()(obs)
        assert torch.equal(now.action, wanted.action)
        assert torch.equal(now.value, wanted.value)
    assert_same(weights(network), final)
    assert not torch.equal(lives[0].retrained[FIRST], lives[-1].retrained[FIRST])


def test_a_view_by_hand():
    method, network = METHODS["packnet"](), small_network(MATCH)
    with torch.no_grad():
        network.get_parameter(FIRST).fill_(1.0)
    state = dict(method.init(network, None))
    state |= {f"{OWNER}.{FIRST}": torch.tensor([[0, 1, 2, 3]] * 16, dtype=torch.int16), "packed": torch.tensor(3)}
    rows = [method.view(network, state, task).get_parameter(FIRST)[0].tolist() for task in range(4)]
    assert rows == [[0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]]  # the fourth task is not packed yet
    assert network.get_parameter(FIRST)[0].tolist() == [1, 1, 1, 1]


def test_a_view_without_a_state_is_the_network():
    network = small_network(MATCH)
    assert_same(weights(METHODS["packnet"]().view(network, {}, 0)), weights(network))


def test_running_statistics_stay_after_the_first_packing(monkeypatch):
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = PolicyNetwork(MATCH, NetworkConfig("norm", head=(8,)), 0)
    method = METHODS["packnet"]()
    network, state = method.consolidate(network, {}, NO_STATES, TaskPosition(0, 2))
    method.schedule(network.train(), state, 0.0)
    assert network.encoder.training
    assert not any(block[2].training for block in network.train().encoder.blocks)


# What the state becomes on the way to the next task


def source_with(observation, stem: str, owner: torch.Tensor, config: NetworkConfig | None = None) -> Checkpoint:
    schemas = Schemas(observation, discrete("left", "right"))
    network = scrambled(PolicyNetwork(schemas, config or small_config(observation.kind), 0))
    state = dict(METHODS["packnet"]().init(network, None))
    assert state[f"{OWNER}.{stem}"].shape == owner.shape
    state |= {f"{OWNER}.{stem}": owner, "packed": torch.tensor(3), "retraining": torch.tensor(True)}
    return Checkpoint.of(network, TASK, parts={"method": state})


def inherited(source: Checkpoint, observation, **options) -> State:
    method = METHODS["packnet"](**options)
    target = Schemas(observation, discrete("left", "right"))
    return method.init(method.build(source, target, source.network, 1).network, source)


def test_the_next_task_inherits_owners_and_leaves_the_retraining():
    owner = torch.arange(64, dtype=torch.int16).remainder(4).view(16, 4)
    source = source_with(vector("abcd"), FIRST, owner)
    state = inherited(source, vector("abcd"))
    assert (int(state["packed"]), bool(state["retraining"])) == (3, False)
    assert torch.equal(state[f"{OWNER}.{FIRST}"], owner)
    assert state[f"{OWNER}.{FIRST}"].dtype == torch.int16
    assert not state[f"{OWNER}.{SECOND}"].any()


@pytest.mark.parametrize("new_channels", ["zero", "random", "attributes"])
def test_owners_move_by_name_and_new_slices_are_free(new_channels):
    attributes = [["x"], ["x"], []]
    owner = torch.tensor([[1, 2, 3]] * 16, dtype=torch.int16)
    source = source_with(vector("abc", attributes), FIRST, owner)
    target = vector("cnbr", [[], ["x"], ["x"], []])  # n is like a and b, whose mean it starts from
    state = inherited(source, target, new_channels=new_channels, rename={"r": "a"})
    assert state[f"{OWNER}.{FIRST}"].tolist() == [[3, 0, 2, 1]] * 16
    assert state[f"{OWNER}.{FIRST}"].dtype == torch.int16


def test_a_stem_of_look_alikes_only_is_free():
    source = source_with(vector("ab", [["x"], ["y"]]), FIRST, torch.ones(16, 2, dtype=torch.int16))
    state = inherited(source, vector("mn", [["y"], ["x"]]))
    assert not state[f"{OWNER}.{FIRST}"].any()
    assert int(state["packed"]) == 3


def test_a_layer_of_another_shape_is_free():
    name = "encoder.blocks.2.1.weight"
    source = source_with(planes("ab", 5, 5), name, torch.ones(16, 54, dtype=torch.int16))
    state = inherited(source, planes("ab", 9, 9))
    assert state[f"{OWNER}.{name}"].shape == (16, 150)
    assert not state[f"{OWNER}.{name}"].any()


def test_a_source_that_packed_nothing_leaves_everything_free():
    source = Checkpoint.of(small_network(MATCH), TASK, parts={"method": {"omega": torch.ones(1)}})
    state = METHODS["packnet"]().init(small_network(MATCH), source)
    assert (int(state["packed"]), bool(state["retraining"])) == (0, False)
    assert not any(owner.any() for owner in group(state, OWNER).values())


def test_the_state_survives_a_checkpoint(tmp_path):
    network, state = METHODS["packnet"]().consolidate(small_network(MATCH), {}, NO_STATES, TaskPosition(0, 2))
    Checkpoint.of(network, TASK, parts={"method": state}).save(tmp_path / "c")
    assert_same(dict(Checkpoint.load(tmp_path / "c").parts["method"]), dict(state))


def test_options():
    assert METHODS["packnet"]().retraining == 20_000
    assert METHODS["packnet"](retrain=0).retraining == 0
    assert METHODS["packnet"].states == 0
    assert METHODS["packnet"].provides >= {"needs_task", "needs_source_weights"}
    with pytest.raises(GraftError, match="PackNet: retrain=-1"):
        METHODS["packnet"](retrain=-1)
