"""RMA on a small control task: what each phase trains, what the student learns, and what is left for the target."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.tiny_tasks import MATCH, assert_same, observations, scrambled, small_network, weights
from support.trainings import recorded, trained

from graft import envs
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.snapshot import SavedState, Snapshot
from graft.agents.networks.encoders.branches import Branches
from graft.agents.networks.normaliser import normalisers
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.backend import Batch, Evaluation
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.method import METHODS, PART
from graft.transfer.methods.rma import STREAM, squared_error
from graft.transfer.session import TransferSession

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


def student(**options: Any) -> tuple[PolicyNetwork, Any, Any]:
    """A network whose second phase has begun, the method and its state."""
    network, method = fresh(), METHODS["rma"](teaching=0.5, **options)
    state = method.schedule(network, method.init(network, None), 0.0)
    return network, method, method.schedule(network, state, 0.5)


def seen(network: PolicyNetwork, method: Any, state: Any, obs: torch.Tensor, epochs: int = 2) -> Any:
    """The state after an update by the algorithm from a rollout of these states, in shuffled minibatches."""
    for epoch in range(epochs):
        order = torch.randperm(len(obs), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(16):
            task = {name: torch.ones_like(p) for name, p in network.named_parameters() if p.requires_grad}
            grads, state, _ = method.gradients(task, network, state, Batch(obs[rows], torch.zeros(len(rows))))
            assert grads == {}
    return state


def states(count: int, seed: int = 0) -> torch.Tensor:
    """Of another distribution in every feature."""
    generator = torch.Generator().manual_seed(seed)
    width = envs.schemas(SOURCE).observation.shape[0]
    return torch.randn(count, width, generator=generator) * torch.linspace(0.5, 2, width)


def test_the_students_error_is_the_squared_distance_to_the_latent():
    network, _, _ = student()
    obs, block, network = states(5), block_of(network), network.eval()
    for one, error in zip(obs, squared_error(block, obs), strict=True):
        phi, z = (block.branch(part, one[None])[0].tolist() for part in ("history", "dynamics"))
        assert error.item() == pytest.approx(sum((a - b) ** 2 for a, b in zip(phi, z, strict=True)), rel=1e-4)
    block.requires_grad_(True)
    slopes = torch.autograd.grad(squared_error(block, obs).sum(), list(block.parameters()), allow_unused=True)
    moved = {n for (n, _), slope in zip(block.named_parameters(), slopes, strict=True) if slope is not None}
    assert moved == {name for name, _ in block.named_parameters() if name.startswith("parts.history.")}


def test_the_student_learns_by_an_adam_of_its_own_that_goes_on_from_rollout_to_rollout():
    """As a plain loop does, over the minibatches that the method draws."""
    network, method, state = student(updates=9, learning_rate=0.01)
    plain = copy.deepcopy(network).eval()
    branch = block_of(plain).parts["history"]
    optimiser, drawn = torch.optim.Adam(branch.parameters(), lr=0.01), states(40)
    kept, done = drawn, 0
    for progress, due in ((2 / 3, 3), (0.7, 4), (0.99, 9)):
        state = method.schedule(network, seen(network, method, state, drawn), progress)
        generator = torch.Generator().manual_seed(STREAM + done)
        buffered = state["buffer.states"]
        assert {tuple(row) for row in buffered.tolist()} == {tuple(row) for row in kept.tolist()}
        for _ in range(done, due):
            rows = torch.randint(len(buffered), (256,), generator=generator)
            optimiser.zero_grad()
            squared_error(block_of(plain), buffered[rows]).mean().backward()
            optimiser.step()
        done, drawn = due, states(40, seed=due)
        kept = torch.cat([kept, drawn])
        assert int(state["updates"]) == due
        assert_same(weights(network), weights(plain))


def test_each_state_of_the_phase_is_kept_once_and_of_more_than_the_buffer_holds_a_fair_sample():
    network, method, state = student(updates=1, buffer=300)
    marks = torch.arange(1000.0)
    for rollout in marks.split(100):
        obs = states(100, seed=int(rollout[0]))
        obs[:, 0] = rollout
        again = method.schedule(network, seen(network, method, state, obs, epochs=3), 0.6)
        state = method.schedule(network, seen(network, method, again, obs, epochs=1), 0.6)
        assert len(state["buffer.states"]) == min(300, int(rollout[-1]) + 1)
    kept = state["buffer.states"][:, 0]
    assert len(kept.unique()) == len(kept) == len(state["buffer.hashes"].unique())
    counts = torch.histc(kept, 10, 0, 1000)
    assert 10 < counts.min() <= counts.max() < 55, "each tenth of the phase has 30 in the mean, deviation 4.6"


def test_r2_is_that_of_states_before_the_student_learns_from_them():
    """With the mean latent of the whole phase; older rollouts count less."""
    network, method, state = student(updates=40, learning_rate=0.01)
    assert method.measures(state) == {}
    errors = spreads = 0.0
    block, kept = block_of(network), torch.zeros(0, *states(1).shape[1:])
    for seed, progress in enumerate((0.6, 0.7, 0.8)):
        new = states(30, seed=seed)
        kept = torch.cat([kept, new])
        with torch.no_grad():
            z, phi = block.eval().branch("dynamics", kept).double(), block.branch("history", new).double()
        errors = 0.8 * errors + float((phi - z[-30:]).square().sum())
        spreads = 0.8 * spreads + float((z[-30:] - z.mean(0)).square().sum())
        state = method.schedule(network, seen(network, method, state, new), progress)
        assert method.measures(state) == {"transfer/latent_r2": pytest.approx(1 - errors / spreads, rel=1e-5)}


def test_a_student_that_knows_little_is_remarked_on():
    method, phase = METHODS["rma"](), {"student": torch.tensor(True), "spread": torch.tensor(1.0)}
    (little,) = method.remarks({**phase, "error": torch.tensor(0.8)})
    assert "R2 = 0.20 of the latent" in little
    assert method.remarks({**phase, "error": torch.tensor(0.6)}) == []
    (unknown,) = method.remarks({"student": torch.tensor(True)})
    assert "could not be measured" in unknown
    assert method.remarks({"student": torch.tensor(False)}) == method.remarks({}) == []


@pytest.mark.parametrize("chained", [False, True])
def test_a_second_phase_that_was_stopped_goes_on_to_the_bit(chained, tmp_path):
    """Between two rollouts, by a snapshot with the buffer; the checkpoint at the end has none of it."""

    def run(stop: int | None) -> TransferSession:
        method = METHODS["rma"](teaching=0.5, updates=12, buffer=70)
        if chained:
            method = METHODS["chain"](methods=(method,))
        network = fresh()
        session = TransferSession(method, network, method.init(network, None))
        for rollout, progress in enumerate((0.0, 0.5, 0.6, 0.75, 0.9)):
            session.schedule(network, progress)
            if rollout == stop:
                parts = {"method": session.save(), "network": SavedState(network.state_dict(), {})}
                Snapshot(0, 0.0, parts).write(tmp_path, {})
                read = Snapshot.read(tmp_path, {})
                assert read is not None
                session = TransferSession(method, network, {})
                session.restore(read.parts["method"])
                scrambled(network).load_state_dict(read.parts["network"].tensors)
            for rows in states(40, seed=rollout).split(16):
                grads = {name: torch.ones_like(p) for name, p in network.named_parameters() if p.requires_grad}
                session.gradients(grads, network, Batch(rows, torch.zeros(len(rows))))
        return session

    straight = run(None)
    assert any("buffer" in name for name in straight.state)
    for stop in (1, 2, 3):
        resumed = run(stop)
        assert_same(weights(resumed.network), weights(straight.network))
        assert_same(dict(resumed.state), dict(straight.state))
    kept = straight.finish().state
    assert not [name for name in kept if "buffer" in name or "moments" in name]
    assert straight.method.measures(kept) == straight.method.measures(straight.state) != {}


def test_while_the_teacher_learns_gradients_pass():
    network, method = fresh(), METHODS["rma"]()
    state = method.schedule(network, method.init(network, None), 0.0)
    grads = {"policy.out.bias": torch.ones(2)}
    assert method.gradients(grads, network, state, Batch(torch.zeros(1), torch.zeros(1))).grads is grads


def in_training(by: str, teaching: float, budget: int, **options: Any) -> tuple[TransferSession, list[float]]:
    """The end of a training by a backend, and R2 as its evaluations recorded it."""
    method, network = METHODS["rma"](teaching=teaching, **options), fresh()
    session = TransferSession(method, network, method.init(network, None))
    plan = Evaluation(every=1_000, episodes=1, num_envs=1)
    ppo = {"num_envs": 16, "num_steps": 32, "minibatch": 128, "epochs": 2, "learning_rate": 2e-3}
    run = trained(by, network, SOURCE, budget, hooks=session.hooks(), evaluation=plan, **ppo)
    return session, list(recorded(run.records, "transfer/latent_r2").values())


@pytest.mark.slow
def test_in_training_the_student_comes_to_know_the_dynamics_and_moves_to_the_target():
    session, found = in_training("sb3", 0.2, 5_000, updates=1_500)
    assert 1 - found[-1] < 0.5 * (1 - found[0]), "it is recorded with the evaluations of the second phase"
    method, network = session.method, session.network
    method.finish(network, session.state)
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


@pytest.mark.slow
@pytest.mark.parametrize("by", ["sb3", pytest.param("rllib", marks=pytest.mark.xdist_group("ray"))])
def test_with_its_defaults_the_student_knows_much_of_the_latent(by, request):
    """By either backend. One that learned by the algorithm's optimiser, from the latest rollout, had less than 0."""
    if by == "rllib":
        request.getfixturevalue("one_ray")
    _, found = in_training(by, 0.4, 20_000)
    assert found[-1] > 0.3


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
