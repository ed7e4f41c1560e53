"""CLEAR: whole unrolls are stored and drawn, and the loss is the one that its docstring states."""

from __future__ import annotations

import pytest
import torch
from support.method_fixtures import rollouts_of
from support.tiny_tasks import MATCH, box, discrete, multi, small_config, small_network, vector
from torch.distributions import Categorical, kl_divergence

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.method import PART, TaskPosition, parse_method
from graft.transfer.methods.clear import Clear
from graft.transfer.vtrace import vtrace

TASK = Task("tiny/Match-v0")


def ended(method, network, state=None, task=0, count=60, rollouts=None):
    """The state after a task."""
    rollouts = rollouts or rollouts_of(network.schemas, count, method.unroll_states, task)
    return method.consolidate(network, state or {}, rollouts, TaskPosition(task, 3)).state


def decided(schemas=MATCH, seed=0) -> PolicyNetwork:
    """A policy that is far from even."""
    network = small_network(schemas, seed=seed)
    with torch.no_grad():
        network.policy.out.weight.mul_(100)
    return network


def test_whole_unrolls_are_stored_and_drawn():
    method, network = Clear(unroll=4, memory=23, batch=12), decided()
    rollouts = rollouts_of(MATCH, 60, 5)
    state = ended(method, network, rollouts=rollouts)
    stored = state["memory.0.observations"].view(4, 5, -1)  # as many whole ones as 23 states hold
    places = [int((rollouts.observations == unroll[0]).all(1).nonzero()[0]) for unroll in stored]
    assert len(set(places)) == 4
    for k, place in enumerate(places):
        steps = slice(place, place + 5)
        assert place % 5 == 0
        assert torch.equal(stored[k], rollouts.observations[steps])
        assert torch.equal(state["memory.0.rewards"][k], rollouts.rewards[steps])
        assert torch.equal(state["memory.0.discounts"][k], rollouts.discounts[steps])
        assert state["memory.0.taken"].view(4, 5, 4)[k].int().argmax(1).tolist() == rollouts.actions[steps].tolist()
        torch.testing.assert_close(state["memory.0.values"][k], network(rollouts.observations[steps]).value.detach())
    (drawn,) = method._draw(state)
    assert len(drawn.rows) == 10
    assert drawn.rows.view(2, 5).diff(dim=1).eq(1).all()
    assert drawn.rows.view(2, 5)[:, 0].remainder(5).eq(0).all()
    assert {n for n in state if n.startswith("heads.")} == {
        f"heads.0.{n}" for n in network.state_dict() if n.startswith(("policy.", "value."))
    }


@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_by_hand(shared):
    """Of one stored unroll of four steps, and the state after it."""
    method = Clear(unroll=4, memory=5, batch=5, heads="shared" if shared else "fresh", vtrace=0.7, value=0.3)
    old, network = decided(seed=0), decided(seed=1)
    state = ended(method, old)
    loss, after = method.loss(network, state)
    assert after["draws"] == 1
    heads = {} if shared else {n.removeprefix("heads.0."): t for n, t in state.items() if n.startswith("heads.")}
    player = PolicyNetwork(MATCH, network.config, 0)
    player.load_exactly({**network.state_dict(), **heads})
    obs, values = state["memory.0.observations"], state["memory.0.values"][0]
    rewards, discounts = state["memory.0.rewards"][0], state["memory.0.discounts"][0]
    now, then = Categorical(logits=player(obs).action), Categorical(logits=state["memory.0.action"])
    actions = state["memory.0.taken"].int().argmax(1)
    ratios, value = (now.log_prob(actions) - then.log_prob(actions)).detach(), player(obs).value
    fixed = value.detach()
    found = vtrace(ratios[None, :4], discounts[None, :4], rewards[None, :4], fixed[None, :4], fixed[4:])
    advantages = found.advantages[0] / found.advantages[0].square().mean().sqrt()
    learning = -(advantages * now.log_prob(actions)[:4]).mean() + 0.3 * (found.targets[0] - value[:4]).square().mean()
    cloning = 0.01 * kl_divergence(then, now).mean() + 0.005 * (value - values).square().mean()
    wanted = 0.7 * learning + cloning
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    # The gradient, too: of the encoder, as the heads of a task that has its own are constant.
    step = method.gradients({}, network, state, None)
    slopes = torch.autograd.grad(wanted, list(player.parameters()))
    parts = ("encoder.", "policy.", "value.") if shared else ("encoder.",)
    expected = {n: g for (n, _), g in zip(player.named_parameters(), slopes, strict=True) if n.startswith(parts)}
    assert step.grads.keys() == expected.keys()
    for name, slope in expected.items():
        torch.testing.assert_close(step.grads[name], slope, rtol=1e-4, atol=1e-6)
    assert step.penalty is None


def test_what_was_learned_comes_back():
    """With its own rewards alone: of a bandit whose stored actions are even, and of which one pays."""
    method = Clear(unroll=4, batch=100, policy_cloning=0.0, value_cloning=0.0, heads="shared")
    network = small_network(MATCH)
    rollouts = rollouts_of(MATCH, 500, 5)
    rollouts = rollouts._replace(rewards=(rollouts.actions == 2).float(), discounts=torch.zeros(500))
    state = ended(method, network, rollouts=rollouts)
    optimiser = torch.optim.Adam(network.parameters(), 3e-2)
    for _ in range(25):
        grads, state, _ = method.gradients({}, network, state, None)
        for name, parameter in network.named_parameters():
            parameter.grad = grads.get(name)
        optimiser.step()
    outputs = network(rollouts.observations)
    assert float(outputs.action.softmax(-1)[:, 2].mean().detach()) > 0.9
    assert float(outputs.value.mean().detach()) == pytest.approx(1.0, abs=0.25)


def test_cloning_keeps_policy_and_values():
    method, network = Clear(unroll=4, batch=100, vtrace=0.0, policy_cloning=1.0, value_cloning=1.0), decided()
    state = ended(method, network)
    assert method.loss(network, state)[0].item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    before = method.loss(network, state)[0].item()
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        grads, state, _ = method.gradients({}, network, state, None)
        for name, parameter in network.named_parameters():
            parameter.grad = grads.get(name)
        optimiser.step()
    assert method.loss(network, state)[0].item() < 0.3 * before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (discrete("north", "south", "east"), discrete("east", "jump", "north")),
        (box(["x", "y"]), box(["new", "y"])),
        (multi(move=3, fire=2), multi(fire=2, jump=2)),
    ],
    ids=["discrete", "box", "choices"],
)
def test_shared_heads_with_other_actions(old, new):
    """Of steps whose action is gone only the state is of use; a policy that has not moved has ratios of 1 elsewhere."""
    method = Clear(unroll=4, batch=500, heads="shared")
    network = decided(Schemas(MATCH.observation, old))
    source = Checkpoint.of(network, TASK, parts={PART: ended(method, network)})
    built = method.build(source, Schemas(MATCH.observation, new), network.config, 3).network
    state = method.init(built, source)
    names = [i for i, name in enumerate(new.names) if name in old.names]
    taken = state["memory.0.taken"]
    assert taken.shape == (60, len(new.names))
    back = [old.names.index(new.names[i]) for i in names]
    assert torch.equal(taken[:, names], source.parts[PART]["memory.0.taken"][:, back])
    loss, _ = method.loss(built, state)
    assert loss.isfinite()
    step = method.gradients({}, built, state, None)
    assert all(g.isfinite().all() for g in step.grads.values())
    assert any(bool(g.any()) for g in step.grads.values())


def test_a_target_with_another_kind_of_action():
    for old, new in ((discrete("l", "r"), box(["x"])), (box(["x"]), discrete("l", "r"))):
        method, network = Clear(unroll=4), decided(Schemas(MATCH.observation, old))
        source = Checkpoint.of(network, TASK, parts={PART: ended(method, network)})
        built = method.build(source, Schemas(MATCH.observation, new), network.config, 3).network
        assert method.loss(built, method.init(built, source))[0].isfinite()


@pytest.mark.parametrize("distribution", ["greedy", "squashed"])
def test_with_critics_of_their_own_the_policy_alone_is_cloned(distribution):
    schemas = MATCH if distribution == "greedy" else Schemas(vector(["a", "b"]), box(["x"]))
    config = NetworkConfig(**(vars(small_config("vector")) | {"distribution": distribution}))
    old, network = (PolicyNetwork(schemas, config, seed) for seed in (0, 1))
    method = Clear(unroll=4)
    state = ended(method, old)
    assert method.loss(network, state)[0].item() == pytest.approx(
        0.01 * Clear(unroll=4, vtrace=0.0, policy_cloning=1.0, value_cloning=0.0).loss(network, state)[0].item(),
        rel=1e-5,
    )


def test_one_of_them_in_a_chain():
    with pytest.raises(GraftError, match="contradict each other: the first replays rollouts, as the other does"):
        parse_method({"chain": ["clear", {"clear": {"unroll": 8}}]})
    chain = parse_method({"chain": [{"clear": {"unroll": 4}}, "ewc"]})
    assert (chain.unroll_states, chain.states) == (5, 10_000)
    network = small_network(MATCH)
    rollouts = rollouts_of(MATCH, 60, 5)
    state = chain.consolidate(network, {}, rollouts, TaskPosition(0, 2)).state
    assert state["0/memory.0.rewards"].shape == (12, 5)
    assert "1/raw.0" in state
