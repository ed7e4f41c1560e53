"""Kickstarting: the loss by hand, who the teacher is, and that it retires."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny_tasks import (
    MATCH,
    assert_same,
    box,
    check_penalty,
    descended,
    discrete,
    observations,
    register_encoder,
    small_config,
    some_grads,
    vector,
    weights,
)
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.backend import Batch
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.method import METHODS

TASK = Task("tiny/Match-v0")
OTHER = NetworkConfig("mlp", {"widths": [3]}, ())
"""Of fresh networks in the experiment: the student follows its source instead."""


def source_of(schemas=MATCH, config=None, seed=5):
    network = PolicyNetwork(schemas, config or small_config("vector"), seed)
    with torch.no_grad():
        network.policy.out.weight.mul_(100)  # fresh policies are too alike to tell
    return Checkpoint.of(network, TASK)


def started(method, source, target=MATCH):
    architecture = replace(OTHER, distribution=source.network.distribution)
    student = method.build(source, target, architecture, 1).network
    return student, method.init(student, source)


def batch_of(schemas, count=6):
    return Batch(observations(schemas.observation, count, seed=3), torch.zeros(count))


def check_gradient(method, network, state, batch, loss):
    given = some_grads(network)
    check_penalty(method.gradients(given, network, state, batch), given, network, loss)


def test_the_student_is_a_fresh_network_of_the_sources_architecture():
    source = source_of()
    built = METHODS["kickstart"]().build(source, MATCH, OTHER, 1)
    assert built.report is None
    assert built.network.config == source.network
    assert_same(weights(built.network), weights(PolicyNetwork(MATCH, source.network, 1)))


def test_the_teacher_is_the_source_by_name():
    source = source_of()
    target = Schemas(vector(["d", "c", "new", "b", "a"]), discrete("west", "jump", "north", "south", "east"))
    _, state = started(METHODS["kickstart"](new_channels="zero"), source, target)
    teacher = PolicyNetwork(target, source.network, 0)
    teacher.load_exactly({n.removeprefix("teacher."): t for n, t in state.items() if n.startswith("teacher.")})
    seen = observations(target.observation, 5)
    wanted = source.build()(seen[:, [4, 3, 1, 0]]).action
    torch.testing.assert_close(teacher(seen).action[:, [2, 3, 4, 0]], wanted)
    assert state["shared"].tolist() == [True, False, True, True, True]


def test_loss_with_equal_actions():
    source, batch = source_of(), batch_of(MATCH)
    method = METHODS["kickstart"](strength=3.0)
    student, state = started(method, source)
    state = method.schedule(student, state, 0.125)
    then = Categorical(logits=source.build()(batch.observations).action.detach())
    now = Categorical(logits=student(batch.observations).action)
    check_gradient(method, student, state, batch, 3.0 * 0.75 * kl_divergence(then, now).mean())


def test_loss_with_actions_that_the_teacher_lacks():
    """Teacher: north, south, east, west; it has nothing to say of jump, and the student has no east."""
    source = source_of()
    target = Schemas(MATCH.observation, discrete("west", "jump", "go_north", "south"))
    method = METHODS["kickstart"](rename={"go_north": "north"})
    student, state = started(method, source, target)
    batch = batch_of(target)
    then = source.build()(batch.observations).action.detach()[:, [3, 0, 1]].softmax(-1)
    now = student(batch.observations).action.softmax(-1)[:, [0, 2, 3]]
    check_gradient(method, student, state, batch, (then * (then / now).log()).sum(-1).mean())


@pytest.mark.parametrize("distribution", [None, "squashed"])
def test_loss_of_boxes_over_shared_dimensions(distribution):
    config = replace(small_config("vector"), distribution=distribution)
    source = source_of(Schemas(MATCH.observation, box(["x", "y"])), config)
    target = Schemas(MATCH.observation, box(["new", "y"]))
    method = METHODS["kickstart"]()
    student, state = started(method, source, target)
    batch = batch_of(target)

    def second(network):
        found = network(batch.observations)
        spread = found.log_std.exp().expand_as(found.action)
        return Independent(Normal(found.action[:, 1:], spread[:, 1:]), 1)

    with torch.no_grad():
        then = second(source.build())
    check_gradient(method, student, state, batch, kl_divergence(then, second(student)).mean())


def test_loss_of_q_values():
    source = source_of(config=replace(small_config("vector"), distribution="greedy"))
    method, batch = METHODS["kickstart"](), batch_of(MATCH)
    student, state = started(method, source)
    then = source.build()(batch.observations).action.detach()
    loss = 0.5 * (then - student(batch.observations).action).square().sum(-1).mean()
    check_gradient(method, student, state, batch, loss)


@pytest.mark.parametrize(
    ("share", "progress", "factor"),
    [(0.5, 0.0, 1.0), (0.5, 0.25, 0.5), (0.5, 0.5, 0.0), (0.2, 0.9, 0.0), (1, 0.9, 0.1)],
)
def test_annealing_by_hand(share, progress, factor):
    method = METHODS["kickstart"](share=share)
    student, state = started(method, source_of())
    assert state["factor"] == 1
    assert method.schedule(student, state, progress)["factor"].item() == pytest.approx(factor)


@pytest.mark.parametrize("off", [{"strength": 0.0}, {}])
def test_without_weight_the_teacher_is_not_asked(off, monkeypatch):
    method = METHODS["kickstart"](**off)
    student, state = started(method, source_of())
    if not off:
        state = method.schedule(student, state, 0.5)
    given = some_grads(student)
    monkeypatch.setattr(student, "forward", None)
    step = method.gradients(given, student, state, batch_of(MATCH))
    assert step.grads is given
    assert step.state is state
    assert step.penalty is None


def test_statistics_and_the_teacher_do_not_drift(monkeypatch):
    register_encoder(monkeypatch)
    method = METHODS["kickstart"]()
    student, state = started(method, source_of(config=NetworkConfig("norm", {}, (4,))))
    student.train()
    before, kept = weights(student), {n: t.clone() for n, t in state.items()}
    step = method.gradients(some_grads(student.eval()), student.train(), state, batch_of(MATCH))
    assert_same(weights(student), before)
    assert_same(dict(step.state), kept)
    assert student.encoder.training


def test_descent_makes_the_student_its_teacher():
    method, batch = METHODS["kickstart"](), batch_of(MATCH, 64)
    student, state = started(method, source_of())
    penalties, _ = descended(method, student, state, batch)
    assert penalties[-1] < 0.05 * penalties[0]


def test_a_teacher_of_other_actions():
    for actions in (discrete("jump", "duck"), box(["x"])):
        with pytest.raises(GraftError, match="Heads cannot be carried by name"):
            METHODS["kickstart"]().build(source_of(), Schemas(MATCH.observation, actions), OTHER, 1)
    with pytest.raises(GraftError, match="Heads of one algorithm cannot serve another"):
        METHODS["kickstart"]().build(source_of(), MATCH, replace(OTHER, distribution="greedy"), 1)
    with pytest.raises(GraftError, match="strict=true"):
        started(METHODS["kickstart"](strict=True), source_of(), Schemas(vector("abcde"), MATCH.action))


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.1}, {"strength": -1.0}])
def test_options(options):
    with pytest.raises(GraftError, match=f"Kickstart: {next(iter(options))}=.* is not allowed"):
        METHODS["kickstart"](**options)
