"""Replay: its gradient is autograd's of the loss it documents, and it holds the policy where it was."""

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
    small_config,
    small_network,
    some_grads,
)
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch
from graft.envs.core.schema import Schemas
from graft.transfer.method import METHODS, TaskPosition

ACTIONS = {None: discrete("left", "right", "act"), "box": box(["x", "y"]), "squashed": box(["x", "y"])}


def network_of(kind, seed):
    config = replace(small_config("vector"), distribution="squashed" if kind == "squashed" else None)
    network = PolicyNetwork(Schemas(MATCH.observation, ACTIONS[kind]), config, seed)
    with torch.no_grad():
        network.policy.out.weight.mul_(30)  # fresh policies are too alike for single precision
    return network


def remembered(method, network, task=0, state=None, count=50):
    rollouts = Batch(observations(network.schemas.observation, count, seed=task), torch.zeros(count))
    return method.consolidate(network, state or {}, rollouts, TaskPosition(task, 3)).state


def documented_loss(strength, network, state, heads):
    """strength * mean KL over one stored state, under ``heads`` (name -> tensor) in the network's place."""
    functional = torch.func.functional_call(network, heads, (state["memory.0.observations"],))
    then_action, now_action = state["memory.0.action"], functional.action
    if functional.log_std is None:
        then, now = Categorical(logits=then_action), Categorical(logits=now_action)
    else:
        then = Independent(Normal(then_action, state["memory.0.log_std"].exp().expand_as(then_action)), 1)
        now = Independent(Normal(now_action, functional.log_std.exp().expand_as(now_action)), 1)
    return strength * kl_divergence(then, now).mean()


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("shared", [False, True])
def test_gradient_is_autograds_of_the_documented_loss(kind, shared):
    method = METHODS["replay"](strength=2.5, heads="shared" if shared else "fresh", memory=1, batch=4)
    state, network = remembered(method, network_of(kind, 0)), network_of(kind, 1)
    given = some_grads(network)
    step = method.gradients(given, network, state, None)
    start = "heads.0."
    heads = {} if shared else {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
    loss = documented_loss(2.5, network, state, heads)
    check_penalty(step, given, network, loss)
    # Of the value's head there is nothing to replay.
    assert_same(*({n: g for n, g in found.items() if n.startswith("value.")} for found in (step.grads, given)))


def test_strength_zero_is_fine_tuning():
    method = METHODS["replay"](strength=0.0)
    state, network = remembered(method, small_network(MATCH)), small_network(MATCH, seed=1)
    given = some_grads(network)
    step = method.gradients(given, network, state, None)
    assert step.grads is given
    assert step.state is state
    assert step.penalty is None


def test_before_the_first_task_has_ended_it_is_fine_tuning():
    network = small_network(MATCH)
    given = some_grads(network)
    assert METHODS["replay"]().gradients(given, network, {}, None).grads is given


def test_given_gradients_and_the_state_are_not_changed_in_place():
    method = METHODS["replay"]()
    state, network = remembered(method, small_network(MATCH)), small_network(MATCH, seed=1)
    given, kept = some_grads(network), {n: t.clone() for n, t in state.items()}
    before = {n: g.clone() for n, g in given.items()}
    method.gradients(given, network, state, None)
    assert_same(given, before)
    assert_same(dict(state), kept)


def test_frozen_parameters_stay_without_gradient():
    method = METHODS["replay"]()
    state, network = remembered(method, small_network(MATCH)), small_network(MATCH, seed=1)
    network.encoder.freeze()
    given = some_grads(network)
    step = method.gradients(given, network, state, None)
    assert_same(step.grads, given)


def test_descent_brings_the_old_policies_back():
    """Two tasks with heads of their own: following the penalty alone, the encoder serves both again."""
    method = METHODS["replay"](batch=64)
    first = small_network(MATCH)
    second = PolicyNetwork(MATCH, first.config, 0)
    second.policy.load_state_dict(small_network(MATCH, seed=7).policy.state_dict())
    with torch.no_grad():
        for head in (first.policy, second.policy):
            head.out.weight.mul_(100)  # policies that are worth keeping
    state = remembered(method, second, 1, remembered(method, first))
    network = small_network(MATCH, seed=1)
    penalties, state = descended(method, network, state)
    assert penalties[-1] < 0.05 * penalties[0]
    assert state["draws"] == 150
