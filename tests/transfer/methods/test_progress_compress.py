"""Progress & compress: the compress phase against autograd, and importances that add up as they should."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.progressive_columns import ACTIONS, SMALL, columns
from support.tiny_tasks import TASK, assert_same, box, observations, small_config, vector, weights

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.agents.training.backend import Batch
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.divergence import kl
from graft.transfer.fisher import diagonal_fisher
from graft.transfer.method import METHODS, PART, TaskPosition
from graft.transfer.methods.progress_compress import STREAM

COUNT = 300
"""States: a whole minibatch and a part of one."""

BOX = Schemas(SMALL.observation, box(["x", "y"]))
SECOND = TaskPosition(1, 3)


def method(**options):
    return METHODS["progress_compress"](**({"compress_steps": 60, "learning_rate": 3e-3} | options))


def rollouts(schemas: Schemas = SMALL) -> Batch:
    return Batch(observations(schemas.observation, COUNT), torch.zeros(COUNT, dtype=torch.long))


def omegas(state) -> dict[str, torch.Tensor]:
    return {n.removeprefix("omega."): t for n, t in state.items() if n.startswith("omega.")}


def after_first(schemas: Schemas = SMALL, **options):
    """The first task's network and state."""
    return method(**options).consolidate(columns(1, schemas), {}, rollouts(schemas), TaskPosition(0, 3))


def divergence(active: PolicyNetwork, base: PolicyNetwork, schemas: Schemas = SMALL) -> float:
    obs = rollouts(schemas).observations
    with torch.no_grad():
        return float(kl(active.eval()(obs), base.eval()(obs)).mean())


def test_the_first_task_is_only_measured():
    network = columns(1)
    before = weights(network)
    kept, state = method().consolidate(network, {}, rollouts(), TaskPosition(0, 3))
    assert kept is network
    assert_same(weights(kept), before)
    held = [n for n in before if n.startswith("encoder.")]
    fisher = diagonal_fisher(network, rollouts().observations, held)
    mean = torch.cat([t.flatten() for t in fisher.values()]).mean()
    torch.testing.assert_close(state["raw"], mean)
    for name, omega in omegas(state).items():
        torch.testing.assert_close(omega, fisher.pop(name) / mean)
    assert fisher == {}
    assert state["compressed"] == 1


@pytest.mark.parametrize("schemas", [SMALL, BOX], ids=["discrete", "box"])
def test_compressing_brings_the_base_to_the_active_column(schemas):
    _, state = after_first(schemas)
    network, few = columns(2, schemas), method(compress_steps=0, strength=0.0)
    before = weights(network)
    start, _ = few.consolidate(network, state, rollouts(schemas), SECOND)
    base, _ = method(strength=0.0, compress_steps=200).consolidate(network, state, rollouts(schemas), SECOND)
    assert type(base) is PolicyNetwork
    assert base.schemas == schemas
    assert_same(weights(network), before)  # the active column and the old base are what they were
    obs = rollouts(schemas).observations
    assert divergence(network, base, schemas) < 0.1 * divergence(network, start, schemas)
    errors = [(n(obs).value - network(obs).value).square().mean().item() for n in (start, base)]
    assert errors[1] < 0.1 * errors[0]
    old = network.earlier.encoder.state_dict()
    assert_same(dict(start.encoder.state_dict()), dict(old))
    assert not torch.equal(start.value.out.weight, network.earlier.value.out.weight)  # heads are new


@pytest.mark.slow
def test_by_default_the_base_is_near_the_active_column_in_states_that_it_was_not_fitted_on():
    """Four times nearer than after 500 updates, and it plays the same actions."""
    _, state = after_first()
    network = columns(2).eval()
    with torch.no_grad():
        network.policy.out.weight.mul_(5.0)  # a policy that has learned something: 500 updates are too few for it
    seen, other = observations(SMALL.observation, 2048).chunk(2)
    batch, found = Batch(seen, torch.zeros(len(seen), dtype=torch.long)), {}
    for options in ({}, {"compress_steps": 500}):
        base = METHODS["progress_compress"](**options).consolidate(network, state, batch, SECOND).network.eval()
        with torch.no_grad():
            wanted, got = network(other), base(other)
        same = (wanted.action.argmax(-1) == got.action.argmax(-1)).float().mean()
        found[bool(options)] = float(kl(wanted, got).mean()), float(same)
    assert found[False][0] < 0.25 * found[True][0]
    assert found[False][1] > 0.98


def test_the_pull_is_the_gradient_of_the_documented_penalty():
    theta, anchor, omega = (torch.rand(3, 4, dtype=torch.float64) for _ in range(3))
    theta.requires_grad_(True)
    penalty = 7.5 / 2 * (omega * (theta - anchor).square()).sum()
    (expected,) = torch.autograd.grad(penalty, theta)
    found = method(strength=7.5).pull(theta.detach(), anchor, omega)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_compressing_minimises_the_documented_loss():
    """A loop of its own, on autograd of the whole loss, takes the same steps."""
    steps, strength, weight = 5, 3.0, 0.25
    _, state = after_first()
    network, obs = columns(2), rollouts().observations
    chosen = method(strength=strength, value=weight, compress_steps=steps, learning_rate=1e-2)
    found, _ = chosen.consolidate(network, state, rollouts(), SECOND)

    base = PolicyNetwork(SMALL, network.earlier.config, STREAM + 1)
    base.encoder.load_state_dict(network.earlier.encoder.state_dict())
    anchor = {n: p.detach().clone() for n, p in base.named_parameters()}
    optimiser, generator = torch.optim.Adam(base.parameters(), lr=1e-2), torch.Generator().manual_seed(STREAM + 1)
    with torch.no_grad():
        active = network(obs)
    orders = [torch.randperm(COUNT, generator=generator) for _ in range(3)]
    for rows in [order[part] for order in orders for part in (slice(0, 256), slice(256, None))][:steps]:
        log_p, outputs = active.action[rows].log_softmax(-1), base(obs[rows])
        loss = (log_p.exp() * (log_p - outputs.action.log_softmax(-1))).sum(-1).mean()
        loss = loss + weight * (outputs.value - active.value[rows]).square().mean() / 2
        for name, parameter in base.named_parameters():
            if name in omegas(state):
                loss = loss + strength / 2 * (omegas(state)[name] * (parameter - anchor[name]).square()).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for name, tensor in weights(base).items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found.encoder.blocks[0][1].weight, anchor["encoder.blocks.0.1.weight"])


def test_strength_keeps_what_the_old_task_needs():
    _, state = after_first()
    network, changes = columns(2), {}
    old = network.earlier.encoder.state_dict()
    for strength in (0.0, 100.0):
        base, _ = method(strength=strength).consolidate(network, state, rollouts(), SECOND)
        changes[strength] = sum(
            (omegas(state)[f"encoder.{n}"] * (p - old[n]).square()).sum().item()
            for n, p in base.encoder.named_parameters()
        )
    assert 0 < changes[100.0] < 0.2 * changes[0.0]


def test_older_importances_fade_and_the_new_ones_have_mean_1():
    _, state = after_first()
    base, later = method(gamma=0.5).consolidate(columns(2), state, rollouts(), SECOND)
    held = list(omegas(state))
    fisher = diagonal_fisher(base, rollouts().observations, held)
    mean = torch.cat([t.flatten() for t in fisher.values()]).mean()
    for name in held:
        expected = 0.5 * omegas(state)[name] + fisher[name] / mean
        torch.testing.assert_close(omegas(later)[name], expected, rtol=1e-5, atol=1e-6)
    assert later["compressed"] == 2


def test_it_is_deterministic_and_leaves_the_callers_random_state_alone():
    _, state = after_first()
    torch.manual_seed(987)
    before = torch.get_rng_state()
    first = method().consolidate(columns(2), state, rollouts(), SECOND)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    again = method().consolidate(columns(2), state, rollouts(), SECOND)
    other = method().consolidate(columns(2), state, rollouts(), TaskPosition(2, 3))
    assert_same(weights(first.network), weights(again.network))
    assert_same(dict(first.state), dict(again.state))
    assert not torch.equal(first.network.policy.out.weight, other.network.policy.out.weight)


def test_a_task_after_the_other_through_checkpoints(tmp_path):
    chosen, network, state = method(compress_steps=3), columns(1), {}
    for task in range(3):
        network, state = chosen.consolidate(network, state, rollouts(), TaskPosition(task, 3))
        Checkpoint.of(network, TASK, parts={PART: state}).save(tmp_path / str(task))
        source = Checkpoint.load(tmp_path / str(task))
        target = SMALL if task else BOX
        kept, base = network, source.build()
        network, report = chosen.build(source, target, small_config("vector"), task)
        assert not report.partial
        state = chosen.init(network, source)
        assert_same(dict(state), dict(source.parts[PART]))
        assert isinstance(network, ProgressiveNetwork)
        assert_same(weights(network.earlier), weights(base))
        assert_same(weights(base), weights(kept))
        for earlier in range(task + 1):
            assert chosen.view(network, state, earlier) is network.earlier
        assert chosen.view(network, state, task + 1) is network
        assert chosen.view(base, state, 0) is base


def test_importances_move_with_the_names_of_the_observations():
    network, state = after_first()
    source = Checkpoint.of(network, TASK, parts={PART: state})
    target = Schemas(vector(["c", "new", "a"]), ACTIONS)
    chosen = method(new_channels="zero")
    built = chosen.build(source, target, small_config("vector"), 0).network
    moved, stem = omegas(chosen.init(built, source)), "encoder.blocks.0.1.weight"
    old = omegas(state)[stem]
    torch.testing.assert_close(moved[stem], torch.stack([old[:, 2], torch.zeros(len(old)), old[:, 0]], 1))
    assert moved.keys() == omegas(state).keys()
    chosen.consolidate(built, chosen.init(built, source), rollouts(target), SECOND)


def test_a_source_that_nothing_was_learned_about_is_not_held():
    source = Checkpoint.of(columns(1), TASK)
    network = method().build(source, SMALL, small_config("vector"), 0).network
    assert method().init(network, source) == {}
    base, state = method(compress_steps=2).consolidate(network, {}, rollouts(), SECOND)
    assert type(base) is PolicyNetwork
    assert omegas(state)


def test_a_source_of_several_columns_is_refused():
    with pytest.raises(GraftError, match="knowledge base is a plain network, and this source has 2 columns"):
        method().build(Checkpoint.of(columns(2), TASK), SMALL, small_config("vector"), 0)


def test_a_squashed_policy_is_compressed_as_one():
    config = replace(small_config("vector"), distribution="squashed")
    network = columns(2, BOX, config)
    base, _ = method(strength=0.0, compress_steps=200).consolidate(network, {}, rollouts(BOX), SECOND)
    start, _ = method(compress_steps=0).consolidate(network, {}, rollouts(BOX), SECOND)
    assert base.config.distribution == "squashed"
    assert divergence(network, base, BOX) < 0.2 * divergence(network, start, BOX)
