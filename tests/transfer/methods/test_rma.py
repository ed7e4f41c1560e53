"""RMA on a small control task: what each phase trains, what the student learns, and what is left for the target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_tasks import MATCH, assert_same, observations, small_network, small_ppo, weights

from graft import envs
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoders.branches import Branches
from graft.agents.networks.normaliser import normalisers
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import train
from graft.agents.training.backend import Batch, Hooks, TrainJob
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.method import METHODS, PART

DRAWN = {"masscart": {"uniform": [0.2, 5.0]}, "force": {"uniform": [3.0, 20.0]}}
SOURCE = Task("CartPole-v1", {"show": ["state", "dynamics", "history"], "history": 4, **DRAWN})
TARGET = Task("CartPole-v1", {"show": ["state", "history"], "history": 4, "masscart": 6.0})
SMALL = {"options": {"widths": [16, 8], "normalise": True}}
CONFIG = NetworkConfig("branches", {"features": 32, "encoders": dict.fromkeys(("state", "dynamics", "history"), SMALL)})


def fresh() -> PolicyNetwork:
    network = PolicyNetwork(envs.schemas(SOURCE), CONFIG, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network


def block_of(network: PolicyNetwork) -> Branches:
    block = network.encoder.blocks[0]
    assert isinstance(block, Branches)
    return block


def changed(network: PolicyNetwork, obs: torch.Tensor, part: str) -> bool:
    """Whether the policy depends on a part of the observation."""
    schema, other = network.schemas.observation, obs.clone()
    for name, place in zip(schema.names, schema.places, strict=True):
        if name.startswith(f"{part}/"):
            other[:, place] += 1.0
    return not torch.equal(network.eval()(obs).action, network.eval()(other).action)


def test_the_teacher_reads_the_dynamics_and_the_student_the_history():
    network, method = fresh(), METHODS["rma"](teaching=0.5)
    obs = torch.randn(6, *network.schemas.observation.shape)
    state = method.schedule(network, method.init(network, None), 0.0)
    assert (changed(network, obs, "dynamics"), changed(network, obs, "history")) == (True, False)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name, _ in network.named_parameters()} - trained == {
        name for name, _ in network.named_parameters() if ".history." in name
    }
    join = block_of(network).weight("dynamics").clone()
    state = method.schedule(network, state, 0.49)
    assert torch.equal(block_of(network).weight("dynamics"), join)
    method.schedule(network, state, 0.5)
    assert (changed(network, obs, "dynamics"), changed(network, obs, "history")) == (False, True)
    assert torch.equal(block_of(network).weight("history"), join)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("encoder.blocks.0.parts.history.") for name in trained)


def test_the_students_gradient_is_that_of_its_squared_error():
    """By finite differences of mean ||phi(history) - z||^2, in eval mode."""
    network, method = fresh().double(), METHODS["rma"](teaching=0.5)
    obs = torch.randn(6, *network.schemas.observation.shape, dtype=torch.float64)
    state = method.schedule(network, method.schedule(network, method.init(network, None), 0.0), 0.6)
    task = {name: torch.ones_like(p) for name, p in network.named_parameters()}
    grads, _, penalty = method.gradients(task, network, state, Batch(obs, torch.zeros(6)))
    assert set(grads) == {name for name, p in network.named_parameters() if p.requires_grad}

    def error() -> float:
        block = block_of(network.eval())
        with torch.no_grad():
            return float((block.branch("history", obs) - block.branch("dynamics", obs)).square().sum(1).mean())

    assert penalty.item() == pytest.approx(error())
    name = "encoder.blocks.0.parts.history.blocks.1.1.weight"
    parameter = network.get_parameter(name)
    for place in ((0, 0), (3, 7)):
        with torch.no_grad():
            parameter[place] += 1e-6
            above = error()
            parameter[place] -= 2e-6
            below = error()
            parameter[place] += 1e-6
        assert grads[name][place].item() == pytest.approx((above - below) / 2e-6, rel=1e-4)


def test_while_the_teacher_learns_gradients_pass():
    network, method = fresh(), METHODS["rma"]()
    state = method.schedule(network, method.init(network, None), 0.0)
    grads = {"policy.out.bias": torch.ones(2)}
    assert method.gradients(grads, network, state, Batch(torch.zeros(1), torch.zeros(1))).grads is grads


def test_in_training_the_student_comes_to_know_the_dynamics_and_moves_to_the_target():
    network, method, state = fresh(), METHODS["rma"](teaching=0.4), {}
    state = dict(method.init(network, None))
    losses: list[float] = []

    def gradients(grads: Any, network: PolicyNetwork, batch: Batch) -> Any:
        step = method.gradients(grads, network, state, batch)
        if step.penalty is not None:
            losses.append(float(step.penalty))
        return step.grads

    def schedule(network: PolicyNetwork, progress: float) -> None:
        state.update(method.schedule(network, state, progress))

    ppo = small_ppo(num_envs=16, num_steps=32, minibatch=128, epochs=4, learning_rate=2e-3)
    train(TrainJob(network, SOURCE, ppo, 10_000, 0, lambda *_: None, hooks=Hooks(gradients, schedule)))
    assert np.mean(losses[-16:]) < 0.5 * np.mean(losses[:16])
    source = Checkpoint.of(network, SOURCE)
    built = method.build(source, envs.schemas(TARGET), source.network, 1)
    assert method.init(built.network, source) == {}
    assert method.schedule(built.network, {}, 0.9) == {}
    assert all(p.requires_grad for p in built.network.parameters())
    obs = observations(envs.schemas(SOURCE).observation, 5)
    schema = source.schemas.observation
    kept = [place for name, place in zip(schema.names, schema.places, strict=True) if "dynamics/" not in name]
    shown = torch.cat([obs[:, place] for place in kept], 1)
    torch.testing.assert_close(built.network.eval()(shown).action, network.eval()(obs).action)
    before = weights(built.network)
    grads = {"policy.out.bias": torch.ones(2)}
    assert method.gradients(grads, built.network, {}, Batch(shown, torch.zeros(5))).grads is grads
    assert_same(weights(built.network), before)


def test_in_the_second_phase_only_the_historys_statistics_go_on():
    network, method = fresh(), METHODS["rma"](teaching=0.5)
    obs = torch.randn(6, *network.schemas.observation.shape)
    state = method.schedule(network, method.schedule(network, method.init(network, None), 0.0), 0.6)
    network.train()(obs)
    counts = {}
    for part, encoder in block_of(network).parts.items():
        normalisers(encoder)[0].commit_statistics()
        counts[part] = int(normalisers(encoder)[0].running_count[0])
    assert counts == {"dynamics": 0, "history": 6, "state": 0}
    method.finish(network, state)
    network.train()(obs)
    normalisers(block_of(network).parts["state"])[0].commit_statistics()
    assert int(normalisers(block_of(network).parts["state"])[0].running_count[0]) == 6
    assert all(p.requires_grad for p in network.parameters())


def test_a_source_whose_student_never_began_is_refused():
    network, method = fresh(), METHODS["rma"](teaching=0.5)
    state = method.schedule(network, method.init(network, None), 0.4)
    source = Checkpoint.of(network, SOURCE, parts={PART: state})
    with pytest.raises(GraftError, match=r"rma's student never began: no rollout started after 0.5"):
        method.build(source, envs.schemas(TARGET), source.network, 1)


def test_a_source_that_shows_too_little_is_refused():
    with pytest.raises(GraftError, match=r"this one shows vector; give the source show: \[state, dynamics, history\]"):
        METHODS["rma"]().check(MATCH)
    METHODS["rma"]().check(envs.schemas(SOURCE))
    assert METHODS["rma"]().init(small_network(MATCH), None) == {}
    uneven = NetworkConfig("branches", {"encoders": {"history": {"options": {"widths": [7]}}}})
    with pytest.raises(GraftError, match="branches of equal width"):
        METHODS["rma"]().init(PolicyNetwork(envs.schemas(SOURCE), uneven, 0), None)
