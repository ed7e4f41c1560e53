"""What is stored when a task ends, how it is drawn, and how the target sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny_tasks import (
    MATCH,
    NormEncoder,
    assert_same,
    box,
    discrete,
    observations,
    pixels,
    planes,
    small_config,
    small_network,
    vector,
    weights,
)
from torch.distributions import Categorical, kl_divergence

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.backend import Batch
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.memory import Memory, aligned, tasks
from graft.transfer.method import PART, TaskPosition

TASK = Task("tiny/Match-v0")


def ended(method: Memory, network: PolicyNetwork, state=None, task: int = 0, count: int = 30):
    """The state after a task that showed ``count`` random observations."""
    rollouts = Batch(observations(network.schemas.observation, count, seed=task), torch.zeros(count))
    return method.consolidate(network, state or {}, rollouts, TaskPosition(task, 3)).state


def confident(seed: int) -> PolicyNetwork:
    """A fresh policy is close to uniform, and its divergences to zero; this one's are numbers to compare."""
    network = small_network(MATCH, seed=seed)
    with torch.no_grad():
        network.policy.out.weight.mul_(100)
    return network


def moved_on(network: PolicyNetwork, seed: int = 1) -> PolicyNetwork:
    """A network of other weights, as after training on another task."""
    return PolicyNetwork(network.schemas, network.config, seed)


def carried(method: Memory, network: PolicyNetwork, target: Schemas) -> tuple[PolicyNetwork, dict[str, torch.Tensor]]:
    """The target's network and the state, after a task that ``network`` has ended."""
    source = Checkpoint.of(network, TASK, parts={PART: ended(method, network)})
    built = method.build(source, target, network.config, 3).network  # by the same algorithm
    return built, dict(method.init(built, source))


def by_hand(state, task, rows, network, heads=True) -> torch.Tensor:
    """Sum of KL(stored || network under the stored head) over ``rows`` of a discrete task's memory."""
    whole = PolicyNetwork(network.schemas, network.config, 0)
    tensors = dict(network.state_dict())
    if heads:
        start = f"heads.{task}."
        tensors |= {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
    whole.load_exactly(tensors)
    then = Categorical(logits=state[f"memory.{task}.action"][rows])
    now = Categorical(logits=whole(state[f"memory.{task}.observations"][rows]).action)
    return kl_divergence(then, now).sum()


@pytest.mark.parametrize("kind", ["vector", "planes", "pixels"])
@pytest.mark.parametrize("actions", [discrete("left", "right", "act"), box(["x", "y"])], ids=["discrete", "box"])
def test_what_is_stored(kind, actions):
    schemas = Schemas({"vector": vector, "planes": planes, "pixels": pixels}[kind](["a", "b"]), actions)
    network = small_network(schemas)
    seen = observations(schemas.observation, 30)
    state = Memory(memory=20).consolidate(network, {}, Batch(seen, torch.zeros(30)), TaskPosition(1, 3)).state
    kept = state["memory.1.observations"]
    assert kept.dtype == seen.dtype
    rows = [int((seen == one).flatten(1).all(1).nonzero()[0]) for one in kept]
    assert len(set(rows)) == 20
    with torch.no_grad():
        outputs = network(seen[rows])
    torch.testing.assert_close(state["memory.1.action"], outputs.action)
    assert ("memory.1.log_std" in state) is (actions.kind == "box")
    heads = {f"heads.1.{n}": t for n, t in network.state_dict().items() if n.startswith("policy.")}
    assert_same({n: t for n, t in state.items() if n.startswith("heads.")}, heads)
    assert state["draws"] == 0
    assert tasks(state) == [1]


def test_fewer_states_than_memory_are_all_kept():
    state = ended(Memory(), small_network(MATCH), count=7)
    assert len(state["memory.0.observations"]) == 7


def test_shared_heads_are_not_stored():
    state = ended(Memory(heads="shared"), small_network(MATCH))
    assert not [name for name in state if name.startswith("heads.")]


def test_what_is_stored_does_not_change_with_the_network():
    network = small_network(MATCH)
    state = ended(Memory(), network)
    before = {n: t.clone() for n, t in state.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert_same(dict(state), before)


def test_stored_in_eval_mode_and_nothing_drifts(monkeypatch):
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = PolicyNetwork(MATCH, NetworkConfig("norm", {}, (4,)), 0).train()
    before = weights(network)
    state = ended(Memory(), network)
    loss, _ = Memory().divergence(network, state)
    assert_same(weights(network), before)
    assert network.encoder.training
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_divergence_is_that_of_all_states_by_hand(shared):
    """With one stored state a task there is nothing to draw; tasks count equally."""
    method = Memory(heads="shared" if shared else "fresh", memory=1, batch=8)
    first, second, now = (confident(seed) for seed in range(3))
    state = ended(method, second, ended(method, first), task=1)
    loss, _ = method.divergence(now, state)
    wanted = sum(by_hand(state, task, [0], now, heads=not shared) for task in (0, 1)) / 2
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_it_is_zero_when_the_task_has_just_ended():
    network = small_network(MATCH)
    loss, _ = Memory().divergence(network, ended(Memory(), network))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    network.policy.out.weight.data.add_(torch.randn_like(network.policy.out.weight))
    loss, _ = Memory().divergence(network, ended(Memory(), small_network(MATCH)))
    assert loss.item() == pytest.approx(0, abs=1e-6)  # the new task's head is another's business


def test_stored_heads_are_constant_and_shared_ones_are_not():
    network = small_network(MATCH)
    for heads, wanted in (("fresh", {"encoder"}), ("shared", {"encoder", "policy"})):
        method = Memory(heads=heads)
        loss, _ = method.divergence(moved_on(network), ended(method, network))
        named = dict(moved_on(network).named_parameters())
        now = moved_on(network)
        loss, _ = method.divergence(now, ended(method, network))
        found = torch.autograd.grad(loss, list(now.parameters()), allow_unused=True)
        assert {n.split(".")[0] for n, g in zip(named, found, strict=True) if g is not None} == wanted


def test_draws_differ_follow_from_the_state_and_share_out_evenly():
    method = Memory(batch=8)
    network = small_network(MATCH)
    state = {}
    for task in range(3):
        state = ended(method, network, state, task)
    counts, torch_state = torch.zeros(3), torch.get_rng_state()
    seen = []
    for call in range(3):
        drawn = method._draw({**state, "draws": torch.tensor(call)})
        again = method._draw({**state, "draws": torch.tensor(call)})
        assert all(torch.equal(a.observations, b.observations) for a, b in zip(drawn, again, strict=True))
        counts += torch.tensor([len(d.observations) for d in drawn])
        seen.append(torch.cat([d.observations for d in drawn]))
    assert counts.tolist() == [8, 8, 8]
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert len(Memory(batch=2)._draw(state)) == 2
    _, after = method.divergence(network, state)
    assert after["draws"] == 1
    assert state["draws"] == 0


def test_the_state_goes_through_a_checkpoint(tmp_path):
    network, method = small_network(MATCH), Memory()
    _, state = method.divergence(network, ended(method, network))
    Checkpoint.of(network, TASK, parts={PART: state}).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert_same(dict(loaded.parts[PART]), dict(state))
    assert_same(dict(method.init(network, loaded)), dict(state))


def test_a_source_that_was_not_consolidated():
    source = Checkpoint.of(small_network(MATCH), TASK)
    with pytest.raises(GraftError, match="Memory needs a source that it has consolidated"):
        Memory().init(small_network(MATCH), source)
    assert Memory().init(small_network(MATCH), None) == {}


def test_a_source_of_another_algorithm():
    network = small_network(MATCH)
    source = Checkpoint.of(network, TASK, parts={PART: ended(Memory(), network)})
    other = PolicyNetwork(MATCH, replace(network.config, distribution="greedy"), 0)
    with pytest.raises(GraftError, match="the source's is 'default', the target's 'greedy'; train both with the same"):
        Memory().init(other, source)


@pytest.mark.parametrize("kind", [vector, planes, pixels])
def test_aligned_by_name(kind):
    old, new = kind(["a", "b", "c"]), kind(["c", "new", "was_a"])
    given = observations(old, 4) + 1
    found = aligned(given, old, new, {"was_a": "a"})
    assert found.dtype == given.dtype
    assert torch.equal(found, torch.stack([given[:, 2], torch.zeros_like(given[:, 0]), given[:, 0]], 1))
    assert aligned(given, old, old, {}) is given


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (planes("ab", 7, 5), r"they are planes of shape \(2, 5, 5\), the target's planes of shape \(2, 7, 5\)"),
        (pixels("ab", 5, 5), "the target's pixels"),
        (planes("xy"), r"none of their names \(a, b\) is one of the target's \(x, y\); give 'rename'"),
    ],
)
def test_what_cannot_be_aligned(target, words):
    with pytest.raises(GraftError, match=words):
        aligned(observations(planes("ab"), 2), planes("ab"), target, {})


def test_a_target_with_other_names_sees_the_memory():
    """Where no channel is lost and the encoder reads names, the policy of the source is the same behind new names."""
    network = small_network(MATCH)
    target = Schemas(vector(["d", "new", "a", "b", "c"]), discrete("jump", "duck"))
    method = Memory(new_channels="zero")
    built, state = carried(method, network, target)
    assert state["memory.0.observations"].shape == (30, 5)
    loss, _ = method.divergence(built, state)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_a_target_with_another_kind_of_action_sees_the_memory():
    for actions, other in ((discrete("l", "r"), box(["x"])), (box(["x"]), discrete("l", "r"))):
        method, network = Memory(), small_network(Schemas(MATCH.observation, actions))
        built, state = carried(method, network, Schemas(MATCH.observation, other))
        loss, _ = method.divergence(built, state)
        assert loss.item() == pytest.approx(0, abs=1e-6)


def test_shared_heads_are_compared_by_action_name():
    network = confident(0)
    target = Schemas(MATCH.observation, discrete("west", "jump", "go_north"))
    method = Memory(heads="shared", rename={"go_north": "north"}, memory=1, batch=1)
    built, state = carried(method, network, target)
    assert state["memory.0.known"].tolist() == [True, False, True]
    obs = state["memory.0.observations"]
    then = network(obs).action[0, [3, 0]].log_softmax(-1)
    now = built(obs).action[0].log_softmax(-1)[[0, 2]]
    loss, _ = method.divergence(built, state)
    assert loss.item() == pytest.approx((then.exp() * (then - now)).sum().item(), rel=1e-5)


@pytest.mark.parametrize("distribution", [None, "squashed"])
def test_shared_heads_of_boxes_are_compared_by_dimension(distribution):
    config = replace(small_config("vector"), distribution=distribution)
    network = PolicyNetwork(Schemas(MATCH.observation, box(["x", "y"])), config, 0)
    method = Memory(heads="shared")
    built, state = carried(method, network, Schemas(MATCH.observation, box(["new", "y"])))
    assert state["memory.0.known"].tolist() == [False, True]
    loss, _ = method.divergence(built, state)
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distribution", ["squashed", "greedy"])
def test_other_distributions(distribution):
    actions = box(["x", "y"]) if distribution == "squashed" else discrete("left", "right")
    network = PolicyNetwork(
        Schemas(MATCH.observation, actions), replace(small_config("vector"), distribution=distribution), 0
    )
    state = ended(Memory(), network)
    assert Memory().divergence(network, state)[0].item() == pytest.approx(0, abs=1e-6)
    assert Memory().divergence(moved_on(network), state)[0].item() > 1e-6


def test_options():
    with pytest.raises(GraftError, match="memory=10001 is not allowed"):
        Memory(memory=10_001)
    with pytest.raises(GraftError, match="batch=0 is not allowed"):
        Memory(batch=0)
