"""The quadratic penalty: its gradient, its normalisation, its anchors, and its way to other observation names."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import MATCH, TASK, discrete, observations, planes, small_config, small_network, vector

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import PART, TaskPosition
from graft.transfer.methods.ewc import EWC
from graft.transfer.methods.l2 import L2
from graft.transfer.methods.mas import MAS
from graft.transfer.methods.online_ewc import OnlineEWC
from graft.transfer.methods.si import SI
from graft.transfer.regulariser import Regulariser, anchors, normalised
from graft.transfer.state import group, named

STATES = Batch(observations(MATCH.observation, 20), torch.zeros(20, dtype=torch.long))
KINDS = [EWC, L2, MAS, OnlineEWC, SI]
STEM = "encoder.blocks.0.1.weight"


def nudged(network: PolicyNetwork, seed: int) -> PolicyNetwork:
    """The network a small random step further."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def random_grads(network: PolicyNetwork) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return {name: torch.randn(p.shape, generator=generator) for name, p in network.named_parameters()}


def two_tasks(method: Regulariser):
    """A network that has moved away from two anchors, and the state that holds them."""
    network = nudged(small_network(MATCH), 1)
    state = method.consolidate(network, method.init(network, None), STATES, TaskPosition(0, 3)).state
    state = method.consolidate(nudged(network, 2), state, STATES, TaskPosition(1, 3)).state
    return nudged(network, 3), state


def documented(network: PolicyNetwork, state, strength: float) -> torch.Tensor:
    """(strength / 2) * sum_k sum_i omega_ki * (theta_i - anchor_ki)^2, as the class says it."""
    total = torch.zeros(())
    for k in (0, 1):
        for name, parameter in network.named_parameters():
            if f"anchor.{k}.{name}" in state:
                apart = parameter - state[f"anchor.{k}.{name}"]
                total = total + (state[f"omega.{k}.{name}"] * apart * apart).sum()
    return strength / 2 * total


@pytest.mark.parametrize("heads", ["fresh", "shared"])
@pytest.mark.parametrize("kind", [EWC, MAS, OnlineEWC])
def test_the_gradient_is_that_of_the_documented_penalty(kind, heads):
    method = kind(strength=0.7, heads=heads)
    network, state = two_tasks(method)
    grads = random_grads(network)
    given = {name: g.clone() for name, g in grads.items()}
    step = method.gradients(grads, network, state, STATES)
    penalty = documented(network, state, 0.7)
    assert float(penalty.detach()) > 0
    assert step.penalty is not None
    torch.testing.assert_close(step.penalty, penalty.detach(), rtol=1e-5, atol=0)
    parameters = dict(network.named_parameters())
    expected = torch.autograd.grad(penalty, list(parameters.values()), allow_unused=True)
    for (name, grad), own in zip(given.items(), expected, strict=True):
        added = torch.zeros_like(grad) if own is None else own
        torch.testing.assert_close(step.grads[name], grad + added, rtol=1e-6, atol=1e-6)
        assert torch.equal(grads[name], given[name]), "the gradients that came in were changed"


def test_penalty_and_gradient_by_hand():
    """Two entries of a bias at 3 and 1 from their anchor, with importances 0.5 and 2: (4 / 2) * (4.5 + 2) = 13."""
    name, method = "encoder.blocks.0.1.bias", EWC(strength=4)
    network = small_network(MATCH)
    bias = dict(network.named_parameters())[name]
    with torch.no_grad():
        bias[:2] += torch.tensor([3.0, 1.0])
    anchor = torch.zeros_like(bias)
    omega = torch.zeros_like(bias)
    omega[:2] = torch.tensor([0.5, 2.0])
    state = {f"anchor.0.{name}": anchor, f"omega.0.{name}": omega, "raw.0": torch.tensor(1.0)}
    step = method.gradients({name: torch.ones_like(bias)}, network, state, STATES)
    assert step.penalty is not None
    assert float(step.penalty) == pytest.approx(13.0)
    assert step.grads[name][:3].tolist() == pytest.approx([1 + 4 * 0.5 * 3, 1 + 4 * 2 * 1, 1.0])


def test_anchors_add():
    """What two anchors do is what the first does and what the second does."""
    method = EWC(strength=2.0)
    network, state = two_tasks(method)
    assert anchors(state) == [0, 1]
    zero = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    both = method.gradients(zero, network, state, STATES)
    alone = []
    for k in (0, 1):
        own = {n: t for n, t in state.items() if n.split(".")[1] == str(k)}
        alone.append(method.gradients(zero, network, own, STATES))
    assert both.penalty is not None
    torch.testing.assert_close(both.penalty, alone[0].penalty + alone[1].penalty)
    for name in zero:
        torch.testing.assert_close(both.grads[name], alone[0].grads[name] + alone[1].grads[name])


def test_importances_have_mean_one_over_all_that_is_held():
    """By hand: entries 1, 3 and 8 have mean 4."""
    scaled, mean = normalised({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([[8.0]])})
    assert (scaled["a"].tolist(), scaled["b"].tolist(), float(mean)) == ([0.25, 0.75], [[2.0]], 4.0)
    method = EWC()
    _, state = two_tasks(method)
    for k in (0, 1):
        entries = torch.cat([t.flatten() for t in group(state, f"omega.{k}").values()])
        assert float(entries.mean()) == pytest.approx(1, rel=1e-5)
        assert float(state[f"raw.{k}"]) > 0


def test_the_raw_mean_gives_the_importances_back():
    method = EWC()
    network = nudged(small_network(MATCH), 1)
    state = method.consolidate(network, {}, STATES, TaskPosition(0, 2)).state
    for name, raw in method.importances(network, STATES.observations).items():
        torch.testing.assert_close(state[f"omega.0.{name}"] * state["raw.0"], raw, rtol=1e-5, atol=1e-9)


def test_importances_of_nothing_stay_zero():
    scaled, mean = normalised({"a": torch.zeros(3)})
    assert (scaled["a"].tolist(), float(mean)) == ([0.0] * 3, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_free_unless_all_tasks_share_them(kind):
    network = small_network(MATCH)
    assert {name.split(".")[0] for name in kind().held(network)} == {"encoder"}
    assert {name.split(".")[0] for name in kind(heads="by_name").held(network)} == {"encoder"}
    assert {name.split(".")[0] for name in kind(heads="shared").held(network)} == {"encoder", "policy"}


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_leaves_the_gradients_alone(kind):
    method = kind(strength=0.0)
    network = small_network(MATCH)
    source = consolidated(method, MATCH)
    grads = random_grads(network)
    step = method.gradients(grads, network, method.init(network, source), STATES)
    assert step.penalty is None
    assert all(torch.equal(step.grads[name], g) for name, g in grads.items())


@pytest.mark.parametrize("strength", [-1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("kind", KINDS)
def test_strengths_that_make_no_sense(kind, strength):
    with pytest.raises(GraftError, match="strength"):
        kind(strength=strength)


def test_frozen_parameters_get_no_gradient():
    method = EWC()
    network, state = two_tasks(method)
    grads = {name: g for name, g in random_grads(network).items() if name != STEM}
    assert method.gradients(grads, network, state, STATES).grads.keys() == grads.keys()


def consolidated(method: Regulariser, schemas: Schemas, learned: bool = True) -> Checkpoint:
    """A source at whose end ``method`` has consolidated it, or not."""
    network = nudged(PolicyNetwork(schemas, small_config(schemas.observation.kind), 0), 4)
    state = (
        dict(method.consolidate(network, method.init(network, None), STATES, TaskPosition(0, 2)).state)
        if learned
        else {}
    )
    return Checkpoint.of(network, TASK, parts={PART: state})


@pytest.mark.parametrize("kind", [EWC, MAS, OnlineEWC, SI])
def test_a_source_that_was_not_consolidated(kind):
    source = consolidated(kind(), MATCH, learned=False)
    with pytest.raises(GraftError, match=f"{kind.__name__} needs a source that it has consolidated"):
        kind().init(small_network(MATCH), source)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_trains_is_held(kind):
    source, network = consolidated(kind(), MATCH), small_network(MATCH)
    network.encoder.freeze()
    with pytest.raises(GraftError, match="has nothing to hold"):
        kind().init(network, source)


@pytest.mark.parametrize("kind", [EWC, MAS, OnlineEWC])
def test_importances_and_anchors_follow_the_names(kind):
    """Columns of a and c change places, b is gone, and the new ones start with nothing that holds them."""
    method = kind(new_channels="zero", rename={"dee": "d"})
    source = consolidated(method, MATCH)
    target = Schemas(vector(["c", "new", "a", "dee"]), discrete("up", "down"))
    network = method.build(source, target, source.network, 3).network
    old, state = source.parts[PART], method.init(network, source)
    for what in ("anchor.0", "omega.0"):
        before, after = old[f"{what}.{STEM}"], state[f"{what}.{STEM}"]
        assert torch.equal(after[:, [0, 2, 3]], before[:, [2, 0, 3]])
        assert not after[:, 1].any()
        rest = f"{what}.encoder.blocks.1.1.weight"
        assert torch.equal(state[rest], old[rest])
    assert torch.equal(state["raw.0"], old["raw.0"])
    zero = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    step = method.gradients(zero, network, state, STATES)
    assert step.penalty is not None
    assert float(step.penalty) == 0, "the network starts at its anchors"
    assert not any(g.any() for g in step.grads.values())


def test_a_channel_made_of_others_is_held_as_they_were():
    """With new_channels=attributes the column and what holds it are the mean over the channels that are alike."""
    words = [["deadly"], ["deadly"], ["solid"], []]
    schemas = Schemas(vector(["a", "b", "c", "d"], words), discrete("up", "down"))
    method = EWC(new_channels="attributes")
    source = consolidated(method, schemas)
    target = Schemas(vector(["a", "lava", "ghost"], [["deadly"], ["deadly"], ["odd"]]), schemas.action)
    network = method.build(source, target, source.network, 3).network
    state = method.init(network, source)
    for what in ("anchor.0", "omega.0"):
        before, after = source.parts[PART][f"{what}.{STEM}"], state[f"{what}.{STEM}"]
        torch.testing.assert_close(after[:, 1], before[:, :2].mean(1))
        assert not after[:, 2].any()
    torch.testing.assert_close(dict(network.named_parameters())[STEM][:, 1].detach(), state[f"anchor.0.{STEM}"][:, 1])


def test_shared_heads_are_held_by_action_names():
    method = EWC(heads="shared")
    source = consolidated(method, MATCH)
    target = Schemas(MATCH.observation, discrete("west", "jump", "north"))
    network = method.build(source, target, source.network, 3).network
    old, state = source.parts[PART], method.init(network, source)
    for what in ("anchor.0", "omega.0"):
        before, after = old[f"{what}.policy.out.weight"], state[f"{what}.policy.out.weight"]
        assert torch.equal(after[[0, 2]], before[[3, 0]])
        assert not after[1].any()


def test_group_and_named_are_inverse():
    tensors = {"a.b": torch.ones(1), "c": torch.zeros(1)}
    assert (
        group({**named("omega.1", tensors), "omega.10.a": torch.ones(1), "raw.1": torch.ones(1)}, "omega.1") == tensors
    )


GATHER = planes(["player", "wall", "hazard", "coin"], attributes=[["self"], ["solid"], ["deadly"], ["pickup"]])
HUNT = planes(["player", "wall", "enemy", "coin"], attributes=[["self"], ["solid"], ["deadly", "mobile"], ["pickup"]])


@pytest.mark.parametrize("new_channels", ["zero", "random", "attributes"])
@pytest.mark.parametrize("kind", [EWC, MAS, OnlineEWC, SI])
def test_from_planes_to_planes_it_starts_without_a_penalty(kind, new_channels):
    """The enemy's slices are held as the hazard's were where they are its weights; where they are new, not at all."""
    method = kind(new_channels=new_channels)
    before = Schemas(GATHER, discrete("up", "down"))
    network = nudged(PolicyNetwork(before, small_config("planes"), 0), 4)
    state = method.init(network, None)
    rollouts = Batch(observations(GATHER, 5), torch.zeros(5, dtype=torch.long))
    if kind is SI:
        state = method.gradients(random_grads(network), network, state, rollouts).state
        nudged(network, 5)
    state = method.consolidate(network, state, rollouts, TaskPosition(0, 2)).state
    source = Checkpoint.of(network, TASK, parts={PART: dict(state)})
    target = method.build(source, Schemas(HUNT, before.action), source.network, 3).network
    state, old = method.init(target, source), source.parts[PART]
    stem = "omega.0.encoder.blocks.0.0.weight"
    assert torch.equal(state[stem][:, [0, 1, 3]], old[stem][:, [0, 1, 3]])
    assert old[stem][:, 2].any()
    expected = old[stem][:, 2] if new_channels == "attributes" else torch.zeros_like(old[stem][:, 2])
    assert torch.equal(state[stem][:, 2], expected)
    zero = {name: torch.zeros_like(p) for name, p in target.named_parameters()}
    step = method.gradients(zero, target, state, STATES)
    assert step.penalty is not None
    assert step.penalty.item() == 0
    assert not any(g.any() for g in step.grads.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_may_be_elsewhere_than_the_network(kind):
    """Training moves the network to another device after `init`, and a snapshot's state comes back on the CPU."""
    method = kind(heads="shared")
    network, state = small_network(MATCH), method.init(small_network(MATCH), consolidated(method, MATCH))
    network.to("meta")
    for _ in range(2):
        grads = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
        step = method.gradients(grads, network, state, STATES)
        assert step.penalty is not None
        assert {g.device.type for g in step.grads.values()} == {step.penalty.device.type} == {"meta"}
        state = step.state


@pytest.mark.parametrize("kind", KINDS)
def test_while_all_that_is_held_is_frozen_there_is_no_penalty(kind):
    """As in a chain with a warm-up of the heads."""
    method = kind()
    network = small_network(MATCH)
    state = method.init(network, consolidated(method, MATCH))
    grads = {name: g for name, g in random_grads(network).items() if not name.startswith("encoder.")}
    for _ in range(2):
        step = method.gradients(grads, network, state, STATES)
        assert step.penalty is not None
        assert step.penalty.item() == 0
        assert step.grads == grads
        state = step.state
