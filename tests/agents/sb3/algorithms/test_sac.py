"""SAC with gradient hooks; the library's own SAC is the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from support.off_policy import STEPS, UPDATES, Features, moved
from support.off_policy import small_sac as small
from support.tiny_tasks import (
    MATCH,
    REACH,
    assert_same,
    observations,
    register_encoder,
    scrambled,
    small_config,
    small_ppo,
    weights,
)
from torch import nn

from graft import envs
from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.agents.sb3 import ALGORITHMS, architecture_for, train
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.backend import Evaluation, Hooks, TrainJob
from graft.envs.core.task import Task
from graft.errors import GraftError

pytestmark = pytest.mark.usefixtures("tiny_tasks")


def no_gradients(grads, *_):
    return {name: torch.zeros_like(g) for name, g in grads.items()}


# The library's SAC as the reference


def test_actions_and_their_probability_by_hand():
    network = small.network()
    with torch.no_grad():
        network.policy.spread.weight.mul_(20)
        network.policy.out.weight.mul_(20)
    actor = small.learner(network).actor
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


def test_the_policy_learns_what_the_librarys_own_policy_learns():
    network = small.network()
    learner = small.learner(network)
    options = small.algorithm()
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
            "share_features_extractor": False,
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
    network = scrambled(small.network())
    before = weights(network)
    learner = small.learner(network)
    assert learner.actor.network is network
    assert_same(weights(network), before)


# Gradient hooks


def test_the_hook_sees_the_gradients_of_the_actors_loss():
    seen, expected = [], []
    network = small.network()
    small.learned(network, lambda grads, *_: seen.append({n: g.clone() for n, g in grads.items()}) or grads)
    twin = small.network()
    reference = small.learner(twin)
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
    network = small.network()
    before, learner = weights(network), small.learner(network, no_gradients)
    critic = {n: t.clone() for n, t in learner.critic.state_dict().items()}
    learner.learn(STEPS)
    assert_same(weights(network), before)
    assert moved(learner.critic.state_dict(), critic) == set(critic)


def test_the_hook_gets_the_minibatch_with_actions_as_the_environment_took_them():
    batches, taken = [], []
    network = small.network()
    learner = small.learner(network, lambda grads, _, batch: batches.append(batch) or grads)
    step = learner.env.step_async
    learner.env.step_async = lambda actions: taken.append(actions) or step(actions)
    learner.learn(STEPS)
    assert {(b.observations.shape, b.actions.shape) for b in batches} == {((16, 2), (16, 2))}
    played = torch.as_tensor(np.concatenate(taken))
    for batch in batches:
        assert (batch.actions[:, None] - played).abs().amax(2).amin(1).max() < 1e-6


# Encoders of the critics


def test_separate_critics_start_from_the_networks_encoder_and_go_their_own_way():
    network = scrambled(small.network())
    learner = small.learner(network, no_gradients)
    mine = learner.critic.features_extractor.encoder
    assert mine is not network.encoder
    assert_same(mine.state_dict(), network.encoder.state_dict())
    assert_same(learner.critic_target.features_extractor.encoder.state_dict(), network.encoder.state_dict())
    learner.learn(STEPS)
    assert moved(mine.state_dict(), network.encoder.state_dict()) == set(mine.state_dict())


def test_shared_critics_read_the_actors_encoder_and_go_with_what_a_method_leaves_of_it():
    network = small.network()
    learner = small.learner(network, no_gradients, encoder="shared")
    assert learner.critic.features_extractor.encoder is network.encoder
    assert learner.critic_target.features_extractor.encoder is not network.encoder
    before = weights(network)
    learner.learn(STEPS)
    assert_same(weights(network), before)
    trained = moved(small.learned(small.network(), encoder="shared"), before)
    assert trained == {name for name in before if not name.startswith("value.")}


@pytest.mark.parametrize("encoder", ["separate", "shared"])
@pytest.mark.parametrize("depth", [1, 2])
def test_frozen_tensors_and_buffers_do_not_change(monkeypatch, encoder, depth):
    register_encoder(monkeypatch)
    network = small.network(config=NetworkConfig("norm", head=(8,)))
    network.encoder.freeze(depth)
    before, learner = weights(network), small.learner(network, encoder=encoder)
    learner.learn(STEPS)
    after = weights(network)
    frozen = tuple(f"encoder.blocks.{i}." for i in range(depth))
    assert moved(after, before) == {n for n in after if not n.startswith((*frozen, "value."))}
    critic = {f"encoder.{n}": t for n, t in learner.critic.features_extractor.encoder.state_dict().items()}
    assert {n for n in critic if torch.equal(critic[n], before[n])} == {n for n in critic if n.startswith(frozen)}


def test_the_critics_encoder_thaws_with_the_networks():
    network = small.network()
    network.encoder.freeze()
    learner = small.learner(network)
    learner.learn(STEPS)
    critic = learner.critic.features_extractor.encoder
    assert_same(critic.state_dict(), network.encoder.state_dict())
    network.encoder.freeze(1)
    learner.learn(STEPS, reset_num_timesteps=False)
    assert {n.split(".")[1] for n in moved(critic.state_dict(), network.encoder.state_dict())} == {"1"}


# Options and tasks


def test_tasks_and_networks_that_it_cannot_play():
    with pytest.raises(GraftError, match=r"'sac' needs box actions.*discrete \(north.*allowed here: dqn, ppo"):
        small.algorithm().check(MATCH)
    plain = build_network(envs.schemas(REACH), small_config("vector"), 0)
    with pytest.raises(GraftError, match=r"'default'.*plays 'squashed'"):
        small.learner(plain)
    with pytest.raises(GraftError, match=r"'squashed'.*plays 'default'"):
        train(TrainJob(small.network(), REACH, small_ppo(), 1, 0, lambda *_: None))


def test_a_fixed_entropy_coefficient_stays():
    learner = small.learner(small.network(), entropy=0.2)
    learner.learn(STEPS)
    assert learner.ent_coef_optimizer is None
    assert learner.ent_coef_tensor.item() == pytest.approx(0.2)


# The whole of `train`


@pytest.mark.slow
def test_evaluations_logs_and_the_schedule_come_regularly():
    """Budget 2002 in steps of 4: it ends at 2004; logs are due every 2002 // 100 = 20 env steps."""
    seen = []
    hooks = Hooks(schedule=lambda network, progress: seen.append(progress))
    plan = Evaluation(every=500, episodes=8, num_envs=8)
    run = small.trained(2002, evaluation=plan, hooks=hooks, learning_starts=1000, gradient_steps=1)
    result, records = run.result, run.records
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


@pytest.mark.slow
def test_a_tiny_box_task_is_learned():
    """The best is -5 / 12 per episode, doing nothing -10 / 3 (see `test_backend`)."""
    run = small.trained(1500, learning_starts=200, gradient_steps=4, batch=64, gamma=0.0)
    assert run.records[0][1]["eval/return_mean"] < -10 / 3
    assert np.mean(run.result.final_returns) > -1.0


@pytest.mark.slow
def test_pendulum_is_learned_within_5000_steps():
    algorithm = ALGORITHMS["sac"]()
    task = Task("Pendulum-v1")
    network = build_network(envs.schemas(task), architecture_for(algorithm, NetworkConfig()), 0)
    plan = Evaluation(episodes=20, num_envs=20)
    result = train(TrainJob(network, task, algorithm, 5000, 0, lambda *_: None, plan, device="cpu"))
    assert np.mean(result.final_returns) > -500
