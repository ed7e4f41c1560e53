"""SAC with gradient hooks; the library's own SAC is the reference."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from handmade import MATCH, REACH, NormEncoder, assert_same, observations, scrambled, small_config, small_ppo, weights
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import envs
from agents.backend import Evaluation, Hooks
from agents.encoder import ENCODERS
from agents.network import NetworkConfig, build_network
from agents.sb3 import ALGORITHMS, architecture_for, train
from agents.sb3.vec_env import BatchVecEnv
from envs.errors import GraftError
from envs.task import Task

pytestmark = pytest.mark.usefixtures("handmade_tasks")

QUIET = Evaluation(every=10_000, episodes=8, num_envs=8)
STEPS = 60
"""Env steps of `learned`: 15 steps of 4 environments, of which those after the fifth are followed by 2 updates."""
UPDATES = 20


def small_sac(**options):
    defaults = {"num_envs": 4, "batch": 16, "buffer": 500, "learning_starts": 20, "gradient_steps": 2, "critic": (16,)}
    return ALGORITHMS["sac"](**(defaults | {"learning_rate": 3e-3} | options))


def network_of(seed=0, config=None):
    return build_network(envs.schemas(REACH), architecture_for(small_sac(), config or small_config("vector")), seed)


def learner_of(network, gradients=None, **options):
    algorithm = small_sac(**options)
    return algorithm.learner(network, BatchVecEnv(envs.make(REACH, algorithm.num_envs, 0)), 3, gradients, "cpu")


def learned(network, gradients=None, **options):
    """The weights after `STEPS` env steps."""
    learner_of(network, gradients, **options).learn(STEPS)
    return weights(network)


def moved(after, before) -> set[str]:
    return {name for name in after if not torch.equal(after[name], before[name])}


def no_gradients(grads, *_):
    return {name: torch.zeros_like(g) for name, g in grads.items()}


# The library's SAC as the reference


def test_actions_and_their_probability_by_hand():
    network = network_of()
    with torch.no_grad():
        network.policy.spread.weight.mul_(20)
        network.policy.out.weight.mul_(20)
    actor = learner_of(network).actor
    obs = observations(network.schemas.observation, 7)
    torch.manual_seed(1)
    actions, log_prob = actor.action_log_prob(obs)
    outputs = network(obs)
    before = torch.atanh(actions.double())
    std = outputs.log_std.double().exp()
    normal = -0.5 * ((before - outputs.action) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
    by_hand = (normal - torch.log(1 - actions.double() ** 2 + 1e-6)).sum(1)
    assert actions.abs().max() < 0.999  # where float32 can still be brought back through the tanh
    torch.testing.assert_close(log_prob.double(), by_hand, rtol=1e-3, atol=1e-3)


class Features(BaseFeaturesExtractor):
    """A copy of an encoder, as the library's policies take it."""

    def __init__(self, space, encoder):
        super().__init__(space, encoder.out_dim)
        self.encoder = copy.deepcopy(encoder)

    def forward(self, obs):
        return self.encoder(obs)


@pytest.mark.parametrize("encoder", ["separate", "shared"])
def test_the_policy_learns_what_the_librarys_own_policy_learns(encoder):
    network = network_of()
    learner = learner_of(network, encoder=encoder)
    options = small_sac()
    reference = SAC(
        "MlpPolicy",
        BatchVecEnv(envs.make(REACH, 4, 0)),
        learning_rate=options.learning_rate,
        buffer_size=options.buffer,
        learning_starts=options.learning_starts,
        batch_size=options.batch,
        gradient_steps=options.gradient_steps,
        policy_kwargs={
            "features_extractor_class": Features,
            "features_extractor_kwargs": {"encoder": network.encoder},
            "share_features_extractor": encoder == "shared",
            "net_arch": {"pi": [8], "qf": [16]},
            "activation_fn": nn.Tanh,
        },
        seed=3,
        device="cpu",
    )
    for q in (*learner.critic.q_networks, *learner.critic_target.q_networks):
        q[1] = nn.Tanh()  # the library has one activation for actor and critics
    actor = reference.actor
    names = {
        "encoder": actor.features_extractor.encoder,
        "policy.hidden.0": actor.latent_pi[0],
        "policy.out": actor.mu,
        "policy.spread": actor.log_std,
    }
    for name, theirs in names.items():
        theirs.load_state_dict(network.get_submodule(name).state_dict())
    for mine, theirs in ((learner.critic, reference.critic), (learner.critic_target, reference.critic_target)):
        theirs.load_state_dict(mine.state_dict())
    before = weights(network)
    for sac in (reference, learner):
        torch.manual_seed(11)
        np.random.seed(11)
        sac.learn(STEPS)
    for name, theirs in names.items():
        for part, parameter in network.get_submodule(name).named_parameters():
            torch.testing.assert_close(parameter, theirs.get_parameter(part), rtol=1e-4, atol=1e-5)
    mine, theirs = learner.critic.state_dict(), reference.critic.state_dict()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-5)
    assert {n.split(".")[0] for n in moved(weights(network), before)} == {"encoder", "policy"}


def test_the_network_is_used_as_it_came():
    network = scrambled(network_of())
    before = weights(network)
    learner = learner_of(network)
    assert learner.actor.network is network
    assert_same(weights(network), before)


# Gradient hooks


def test_the_identity_hook_is_no_hook_bit_for_bit():
    calls = []
    with_hook = learned(network_of(), lambda grads, *_: calls.append(1) or grads)
    assert_same(with_hook, learned(network_of()))
    assert len(calls) == UPDATES


def test_the_hook_sees_the_gradients_of_the_actors_loss():
    seen, expected = [], []
    network = network_of()
    learned(network, lambda grads, *_: seen.append({n: g.clone() for n, g in grads.items()}) or grads)
    twin = network_of()
    reference = learner_of(twin)
    reference.actor.optimizer.register_step_pre_hook(
        lambda *_: expected.append({n: p.grad.clone() for n, p in twin.named_parameters() if p.grad is not None})
    )
    reference.learn(STEPS)
    assert len(seen) == len(expected) == UPDATES
    for found, wanted in zip(seen, expected, strict=True):
        assert_same(found, wanted)
    assert set(seen[0]) == {n for n, _ in network.named_parameters() if not n.startswith("value.")}
    assert all(g.any() for g in seen[0].values())


def test_zero_gradients_leave_the_network_as_it_is_while_the_critics_learn():
    network = network_of()
    before, learner = weights(network), learner_of(network, no_gradients)
    critic = {n: t.clone() for n, t in learner.critic.state_dict().items()}
    learner.learn(STEPS)
    assert_same(weights(network), before)
    assert moved(learner.critic.state_dict(), critic) == set(critic)


def test_what_the_hook_returns_is_the_step():
    network = network_of()
    before = weights(network)
    after = learned(network, lambda grads, *_: {n: g for n, g in grads.items() if n.startswith("policy.spread")})
    assert moved(after, before) == {"policy.spread.weight", "policy.spread.bias"}


def test_the_hook_gets_the_minibatch_with_actions_as_the_environment_took_them():
    batches, taken = [], []
    network = network_of()
    learner = learner_of(network, lambda grads, _, batch: batches.append(batch) or grads)
    step = learner.env.step_async
    learner.env.step_async = lambda actions: taken.append(actions) or step(actions)
    learner.learn(STEPS)
    assert {(b.observations.shape, b.actions.shape) for b in batches} == {((16, 2), (16, 2))}
    played = torch.as_tensor(np.concatenate(taken))
    for batch in batches:
        assert (batch.actions[:, None] - played).abs().amax(2).amin(1).max() < 1e-6


# Encoders of the critics


def test_separate_critics_start_from_the_networks_encoder_and_go_their_own_way():
    network = scrambled(network_of())
    learner = learner_of(network, no_gradients)
    mine = learner.critic.features_extractor.encoder
    assert mine is not network.encoder
    assert_same(mine.state_dict(), network.encoder.state_dict())
    assert_same(learner.critic_target.features_extractor.encoder.state_dict(), network.encoder.state_dict())
    learner.learn(STEPS)
    assert moved(mine.state_dict(), network.encoder.state_dict()) == set(mine.state_dict())


def test_shared_critics_read_the_actors_encoder_and_do_not_train_it():
    network = network_of()
    learner = learner_of(network, no_gradients, encoder="shared")
    assert learner.critic.features_extractor.encoder is network.encoder
    assert learner.critic_target.features_extractor.encoder is not network.encoder
    before = weights(network)
    learner.learn(STEPS)
    assert_same(weights(network), before)
    trained_by_actor = moved(learned(network_of(), encoder="shared"), before)
    assert trained_by_actor == {name for name in before if not name.startswith("value.")}


@pytest.mark.parametrize("encoder", ["separate", "shared"])
@pytest.mark.parametrize("depth", [1, 2])
def test_frozen_tensors_and_buffers_do_not_change(monkeypatch, encoder, depth):
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = network_of(config=NetworkConfig("norm", head=(8,)))
    network.encoder.freeze(depth)
    before, learner = weights(network), learner_of(network, encoder=encoder)
    learner.learn(STEPS)
    after = weights(network)
    frozen = tuple(f"encoder.blocks.{i}." for i in range(depth))
    assert moved(after, before) == {n for n in after if not n.startswith((*frozen, "value."))}
    critic = {f"encoder.{n}": t for n, t in learner.critic.features_extractor.encoder.state_dict().items()}
    assert {n for n in critic if torch.equal(critic[n], before[n])} == {n for n in critic if n.startswith(frozen)}


def test_the_critics_encoder_thaws_with_the_networks():
    network = network_of()
    network.encoder.freeze()
    learner = learner_of(network)
    learner.learn(STEPS)
    critic = learner.critic.features_extractor.encoder
    assert_same(critic.state_dict(), network.encoder.state_dict())
    network.encoder.freeze(1)
    learner.learn(STEPS, reset_num_timesteps=False)
    assert {n.split(".")[1] for n in moved(critic.state_dict(), network.encoder.state_dict())} == {"1"}


# Options and tasks


def test_tasks_and_networks_that_it_cannot_play():
    with pytest.raises(GraftError, match=r"'sac' needs box actions.*discrete \(north.*allowed here: dqn, ppo"):
        small_sac().check(MATCH)
    plain = build_network(envs.schemas(REACH), small_config("vector"), 0)
    with pytest.raises(GraftError, match=r"'default'.*plays 'squashed'"):
        learner_of(plain)
    with pytest.raises(GraftError, match=r"'squashed'.*plays 'default'"):
        train(network_of(), REACH, small_ppo(), 1, 0, lambda *_: None)


@pytest.mark.parametrize(("options", "message"), [({"gradient_steps": 0}, "-1"), ({"buffer": 3}, "4 environments")])
def test_options_that_make_no_sense(options, message):
    with pytest.raises(GraftError, match=message):
        small_sac(**options)


def test_a_fixed_entropy_coefficient_stays():
    learner = learner_of(network_of(), entropy=0.2)
    learner.learn(STEPS)
    assert learner.ent_coef_optimizer is None
    assert learner.ent_coef_tensor.item() == pytest.approx(0.2)


# The whole of `train`


def trained(budget=300, seed=0, evaluation=QUIET, hooks=None, network=None, **options):
    network, records = network or network_of(), []
    result = train(
        network,
        REACH,
        small_sac(**options),
        budget,
        seed,
        lambda n, values: records.append((n, dict(values))),
        evaluation,
        hooks,
        "cpu",
    )
    return network, result, records


def test_same_seed_same_weights_bit_for_bit():
    (first, one, _), (again, two, _), (other, _, _) = (trained(seed=s) for s in (5, 5, 6))
    assert_same(weights(first), weights(again))
    assert one.final_returns == two.final_returns
    assert not torch.equal(first.policy.out.weight, other.policy.out.weight)


def test_how_often_it_is_evaluated_does_not_change_the_training():
    rare, often = (trained(evaluation=Evaluation(every=e, episodes=8, num_envs=8))[0] for e in (10_000, 1))
    assert_same(weights(rare), weights(often))


def test_evaluations_logs_and_the_schedule_come_regularly():
    """Budget 2002 in steps of 4: it ends at 2004; logs are due every 2002 // 100 = 20 env steps."""
    seen = []
    hooks = Hooks(schedule=lambda network, progress: seen.append(progress))
    plan = Evaluation(every=500, episodes=8, num_envs=8)
    _, result, records = trained(2002, evaluation=plan, hooks=hooks, learning_starts=1000, gradient_steps=1)
    assert result.env_steps == 2004
    evaluated = [n for n, values in records if "eval/return_mean" in values]
    assert evaluated == [0, 500, 1000, 1500, 2000, 2004]
    logged = [n for n, values in records if "rollout/return_mean" in values]
    assert logged == [*range(20, 2001, 20), 2004]
    assert seen == [n / 2002 for n in range(0, 2001, 20)]
    trained_at = [n for n, values in records if "train/actor_loss" in values]
    assert trained_at == [*range(1020, 2001, 20), 2004]
    last = {tag for n, values in records if n == 2004 for tag in values}
    assert {"train/critic_loss", "train/ent_coef", "train/n_updates", "time/env_steps_per_s"} < last


def test_a_tiny_box_task_is_learned():
    """The best is -5 / 12 per episode, doing nothing -10 / 3 (see `test_backend`)."""
    _, result, records = trained(1500, learning_starts=200, gradient_steps=4, batch=64, gamma=0.0)
    assert records[0][1]["eval/return_mean"] < -10 / 3
    assert np.mean(result.final_returns) > -1.0


@pytest.mark.slow
def test_pendulum_is_learned_within_5000_steps():
    algorithm = ALGORITHMS["sac"]()
    task = Task("Pendulum-v1")
    network = build_network(envs.schemas(task), architecture_for(algorithm, NetworkConfig()), 0)
    plan = Evaluation(episodes=20, num_envs=20)
    result = train(network, task, algorithm, 5000, 0, lambda *_: None, plan, None, "cpu")
    assert np.mean(result.final_returns) > -500
