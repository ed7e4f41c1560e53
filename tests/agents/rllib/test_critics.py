"""Gradients of soft actor-critic by the formulas, and the distribution of its actions."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from support.rllib_sac import algorithm, fresh
from support.tiny_tasks import (
    REACH,
    assert_same,
    observations,
    scrambled,
)
from torch.nn.functional import huber_loss, logsigmoid

from graft import envs
from graft.agents.networks.policy_network import unscale_actions
from graft.agents.rllib import ALGORITHMS
from graft.agents.rllib.backend import build_algorithm
from graft.agents.rllib.module import module_spec
from graft.agents.rllib.runner import RunnerEnvConfig
from graft.agents.training.backend import Hooks, Resources

pytestmark = pytest.mark.usefixtures("tiny_tasks", "one_ray")


@pytest.fixture
def made():
    """Makes learners that stop with the test."""
    found = []

    def learner(network, hooks=None, **options):
        world = RunnerEnvConfig(REACH, network.schemas.observation, 0, 1.0, 1)
        found.append(build_algorithm(algorithm(**options), network, world, hooks or Hooks(), 3, Resources()))
        return found[-1].learner_group._learner

    yield learner
    for built in found:
        built.stop()


def transitions(count, seed=0):
    """Any, as the buffer gives them, with what RLlib's loss wants beside them."""
    rng = np.random.default_rng(seed)
    schema = envs.schemas(REACH).observation
    floats = {"rewards": rng.normal(size=count), "weights": np.ones(count), "n_step": np.ones(count)}
    return {
        "obs": observations(schema, count, 1).numpy(),
        "new_obs": observations(schema, count, 2).numpy(),
        "actions": rng.uniform(-0.5, 0.5, (count, 2)).astype(np.float32),
        "terminateds": rng.random(count) < 0.4,
        **{name: column.astype(np.float32) for name, column in floats.items()},
    }


def learn_from(learner, columns, **more):
    whole = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, len(columns["obs"]))
    return learner.update(training_data=TrainingData(batch=whole), timesteps={}, **more)


def policy_by_hand(network, obs, noise):
    """Actions in [-1, 1], and the logarithm of their density there."""
    outputs = network(obs)
    before = outputs.action + noise * outputs.log_std.exp()
    normal = -0.5 * noise**2 - outputs.log_std - 0.5 * math.log(2 * math.pi)
    # log(1 - tanh(x)^2) = log 4 + log s(2 x) + log s(-2 x), with the logistic function s
    slopes = math.log(4) + logsigmoid(2 * before) + logsigmoid(-2 * before)
    return before.tanh(), (normal - slopes).sum(1)


def critics_by_hand(critics, encoder, obs, actions):
    inputs = torch.cat([encoder(obs), actions], 1)
    return [head(inputs).squeeze(1) for head in critics.heads]


@pytest.mark.parametrize("encoder", ["separate", "shared"])
def test_gradients_and_targets_by_hand(made, encoder):
    """Of the actor (eq. 7 of Haarnoja et al. 2018), the critics (Huber's loss), the coefficient, and the target."""
    seen = []
    network = fresh()
    with torch.no_grad():
        network.policy.spread.weight.mul_(20)
        network.policy.out.weight.mul_(20)
    hooks = Hooks(lambda grads, *_: seen.append({n: g.clone() for n, g in grads.items()}) or grads)
    learner = made(network, hooks, encoder=encoder, entropy="auto", gamma=0.9, tau=0.25)
    twin, critics = copy.deepcopy(learner.network), copy.deepcopy(learner.sac_module.critics)
    target, columns = copy.deepcopy(learner.sac_module.target), transitions(32)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(1.3)
        learner.curr_log_alpha[DEFAULT_MODULE_ID].fill_(math.log(0.3))
        learner.sac_module.target.load_state_dict(target.state_dict())
    torch.manual_seed(11)
    learn_from(learner, columns)

    torch.manual_seed(11)
    now, later = (torch.normal(torch.zeros(32, 2), torch.ones(32, 2)) for _ in range(2))
    given = {name: torch.as_tensor(column) for name, column in columns.items()}
    reads = twin.encoder if encoder == "shared" else critics.encoder
    drawn, logp = policy_by_hand(twin, given["obs"], now)
    actor = (0.3 * logp - torch.minimum(*critics_by_hand(critics, reads, given["obs"], drawn))).mean()
    if encoder == "shared":  # the critics' features are not the actor's to change
        inputs = torch.cat([reads(given["obs"]).detach(), drawn], 1)
        actor = (0.3 * logp - torch.minimum(*(head(inputs).squeeze(1) for head in critics.heads))).mean()
    names = [name for name, _ in twin.named_parameters() if not name.startswith("value.")]
    by_name = [twin.get_parameter(name) for name in names]
    expected = dict(zip(names, torch.autograd.grad(actor, by_name, retain_graph=True), strict=True))

    with torch.no_grad():
        after, logp_after = policy_by_hand(twin, given["new_obs"], later)
        value = torch.minimum(*critics_by_hand(target, target.encoder, given["new_obs"], after)) - 0.3 * logp_after
        goal = given["rewards"] + 0.9 * ~given["terminateds"] * value
    taken = given["actions"] * 2  # from [-0.5, 0.5] to [-1, 1]
    loss = sum(huber_loss(q, goal) for q in critics_by_hand(critics, reads, given["obs"], taken))
    if encoder == "shared":  # the critics' loss alone trains it
        own = dict(twin.encoder.named_parameters(prefix="encoder"))
        expected |= dict(zip(own, torch.autograd.grad(loss, list(own.values()), retain_graph=True), strict=True))
    assert set(seen[0]) == set(names)
    for name, wanted in expected.items():
        torch.testing.assert_close(seen[0][name], wanted, rtol=1e-4, atol=1e-6)
    trains = dict(critics.heads.named_parameters(prefix="heads") if encoder == "shared" else critics.named_parameters())
    for name, wanted in zip(trains, torch.autograd.grad(loss, list(trains.values())), strict=True):
        found = learner.sac_module.critics.get_parameter(name).grad
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    alpha = learner.curr_log_alpha[DEFAULT_MODULE_ID].grad
    torch.testing.assert_close(alpha, -(logp.detach() - 2).mean().reshape(1), rtol=1e-4, atol=1e-6)
    after, moves = learner.sac_module.critics.state_dict(), learner.sac_module.target.state_dict()
    for name, before in target.state_dict().items():
        torch.testing.assert_close(moves[name], 0.75 * before + 0.25 * after[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_several_minibatches_at_once_are_the_same_as_one_after_the_other(made):
    columns, twins = transitions(32), [made(fresh()) for _ in range(2)]
    torch.manual_seed(5)
    learn_from(twins[0], columns, minibatch_size=16)
    torch.manual_seed(5)
    for half in (slice(0, 16), slice(16, 32)):
        learn_from(twins[1], {name: column[half] for name, column in columns.items()})
    first, second = (dict(learner.save().tensors) for learner in twins)
    assert_same(first, second)


def test_both_backends_play_the_same_distribution():
    network = scrambled(fresh())
    obs = observations(network.schemas.observation, 5)
    spec = module_spec(network)
    spec.module_class = ALGORITHMS["sac"].module
    played = spec.build().policy(obs)
    outputs = network(obs)
    torch.manual_seed(2)
    actions, logp = played.rsample_and_logp()
    torch.manual_seed(2)
    noise = torch.normal(torch.zeros(5, 2), torch.ones(5, 2))
    by_hand, logp_by_hand = policy_by_hand(network, obs, noise)
    torch.testing.assert_close(actions, by_hand)
    torch.testing.assert_close(logp, logp_by_hand, rtol=1e-4, atol=1e-4)
    assert outputs.log_std.shape == (5, 2)
    torch.testing.assert_close(unscale_actions(actions, network.schemas.action), actions * 0.5)
