"""DQN with gradient hooks; the library's own DQN is the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from support.off_policy import STEPS, UPDATES, Features, moved
from support.off_policy import small_dqn as small
from support.tiny_tasks import (
    MATCH,
    REACH,
    TASK,
    assert_same,
    observations,
    register_encoder,
    scrambled,
    small_config,
    weights,
)
from torch import nn

from graft import envs
from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.agents.sb3 import ALGORITHMS, architecture_for, train
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.backend import Evaluation, Hooks, TrainJob, Unstable
from graft.envs.core.task import Task
from graft.errors import GraftError

pytestmark = pytest.mark.usefixtures("tiny_tasks")


def gradients_before_steps(learner):
    """Fills up, while ``learner`` learns, with the gradients that its optimiser uses."""
    seen = []
    parameters = dict(learner.q_net.network.named_parameters())
    learner.policy.optimizer.register_step_pre_hook(
        lambda *_: seen.append({n: p.grad.clone() for n, p in parameters.items() if p.grad is not None})
    )
    return seen


# The library's DQN as the reference


def test_the_policy_learns_what_the_librarys_own_policy_learns():
    network = small.network()
    learner, options = small.learner(network), small.algorithm()
    reference = DQN(
        "MlpPolicy",
        BatchVecEnv(envs.make(TASK, 4, 0)),
        learning_rate=options.learning_rate,
        buffer_size=options.buffer,
        learning_starts=options.learning_starts,
        batch_size=options.batch,
        gamma=options.gamma,
        train_freq=1,
        gradient_steps=options.gradient_steps,
        target_update_interval=options.target_update,
        exploration_fraction=options.exploration_fraction,
        policy_kwargs={
            "features_extractor_class": Features,
            "features_extractor_kwargs": {"encoder": network.encoder},
            "net_arch": [8],
            "activation_fn": nn.ReLU,
        },
        seed=3,
        device="cpu",
    )
    layers = {"policy.hidden.0": 0, "policy.out": 2}
    for q in (reference.q_net, reference.q_net_target):
        for name, index in layers.items():
            q.q_net[index].load_state_dict(network.get_submodule(name).state_dict())
    before = weights(network)
    for dqn in (reference, learner):
        torch.manual_seed(11)
        np.random.seed(11)
        dqn.learn(STEPS)
    for mine, theirs in ((network, reference.q_net), (learner.q_net_target.network, reference.q_net_target)):
        modules = {"encoder": theirs.features_extractor.encoder, **{n: theirs.q_net[i] for n, i in layers.items()}}
        for name, module in modules.items():
            for part, parameter in mine.get_submodule(name).named_parameters():
                torch.testing.assert_close(parameter, module.get_parameter(part), rtol=1e-4, atol=1e-5)
    assert moved(weights(network), before) == {n for n in before if not n.startswith("value.")}


def test_the_network_is_used_as_it_came_and_the_target_network_is_a_copy():
    network = scrambled(small.network())
    before = weights(network)
    learner = small.learner(network)
    assert learner.q_net.network is network
    assert_same(weights(network), before)
    assert learner.q_net_target.network is not network
    assert_same(weights(learner.q_net_target.network), before)
    obs = observations(MATCH.observation, 5)
    assert torch.equal(learner.q_net(obs), network(obs).action)
    assert torch.equal(learner.policy._predict(obs), network.act(obs, None))


# Gradient hooks


def test_the_hook_gets_the_minibatch():
    seen = []
    small.learned(small.network(), lambda grads, _, batch: seen.append(batch) or grads)
    assert {(b.observations.shape, b.actions.shape, b.actions.dtype) for b in seen} == {((16, 4), (16,), torch.int64)}
    assert all((b.observations.sum(1) == 1).all() for b in seen)  # states are unit vectors


def test_the_hook_sees_the_gradients_before_clipping_and_the_step_uses_them_clipped():
    seen = []
    learner = small.learner(
        small.network(),
        lambda grads, *_: seen.append({n: g.clone() for n, g in grads.items()}) or grads,
        max_grad_norm=1e-3,
    )
    used = gradients_before_steps(learner)
    learner.learn(STEPS)
    unclipped_learner = small.learner(small.network(), max_grad_norm=1e9)
    unclipped = gradients_before_steps(unclipped_learner)
    unclipped_learner.learn(24)
    assert_same(seen[0], unclipped[0])
    assert set(seen[0]) == {n for n in weights(small.network()) if not n.startswith("value.")}
    assert len(used) == UPDATES
    for grads in used:
        assert math.sqrt(sum(float(g.double().square().sum()) for g in grads.values())) == pytest.approx(1e-3, rel=1e-3)


def test_zero_gradients_leave_the_network_as_it_is():
    network = small.network()
    before = weights(network)
    after = small.learned(network, lambda grads, *_: {n: torch.zeros_like(g) for n, g in grads.items()})
    assert_same(after, before)


@pytest.mark.parametrize("depth", [1, 2])
def test_frozen_tensors_and_buffers_do_not_change(monkeypatch, depth):
    register_encoder(monkeypatch)
    network = small.network(config=NetworkConfig("norm", head=(8,)))
    network.encoder.freeze(depth)
    before, after = weights(network), small.learned(network)
    frozen = tuple(f"encoder.blocks.{i}." for i in range(depth))
    assert moved(after, before) == {n for n in after if not n.startswith((*frozen, "value."))}


# The replay buffer, options and tasks


@pytest.mark.parametrize("kind", ["planes", "pixels"])
def test_bytes_stay_bytes_in_the_buffer_and_in_the_batch(kind):
    task = Task("tiny/Match-v0", {"kind": kind})
    seen = []
    learner = small.learner(
        small.network(task=task), lambda grads, _, batch: seen.append(batch.observations) or grads, task=task
    )
    learner.learn(28)
    assert learner.replay_buffer.observations.dtype == learner.replay_buffer.next_observations.dtype == np.uint8
    assert {(obs.dtype, obs.shape[1:]) for obs in seen} == {(torch.uint8, envs.schemas(task).observation.shape)}


def test_the_target_network_follows_every_target_update():
    learner = small.learner(small.network(), learning_starts=0, target_update=16)
    behind = []
    original = learner._on_step

    def watch():
        original()
        same = torch.equal(learner.q_net.network.policy.out.bias, learner.q_net_target.network.policy.out.bias)
        behind.append(not same)

    learner._on_step = watch
    learner.learn(STEPS)
    assert [i + 1 for i, is_behind in enumerate(behind) if not is_behind] == [1, 4, 8, 12]  # nothing learned before 1


def test_the_target_network_cannot_follow_more_often_than_every_step_of_the_environments():
    with pytest.raises(GraftError, match="4 env steps"):
        small.algorithm(target_update=3)


def test_tasks_and_networks_that_it_cannot_play():
    with pytest.raises(GraftError, match=r"'dqn' needs discrete actions.*box \(move_x.*allowed here: ppo, sac"):
        small.algorithm().check(envs.schemas(REACH))
    with pytest.raises(GraftError, match=r"'default'.*plays 'greedy'"):
        small.learner(build_network(MATCH, small_config("vector"), 0))


# The whole of `train`


def test_evaluations_logs_and_the_schedule_come_regularly():
    """Budget 302 in steps of 12: it ends at 312; logs are due every 302 // 100 = 3 env steps, so at every rollout."""
    seen = []
    hooks = Hooks(schedule=lambda network, progress: seen.append(progress))
    run = small.trained(302, evaluation=Evaluation(every=100, episodes=8, num_envs=8), hooks=hooks, train_freq=3)
    result, records = run.result, run.records
    assert result.env_steps == 312
    assert [n for n, values in records if "eval/return_mean" in values] == [0, 108, 204, 300, 312]
    assert [n for n, values in records if "train/loss" in values] == list(range(24, 313, 12))
    assert [n for n, values in records if "rollout/length_mean" in values] == list(range(36, 313, 12))
    assert seen == [n / 302 for n in range(0, 301, 12)]


@pytest.mark.slow
def test_a_tiny_task_is_solved():
    run = small.trained(1600, gamma=0.0, batch=32, learning_starts=100)
    assert run.records[0][1]["eval/return_mean"] < 8 * 0.6
    assert np.mean(run.result.final_returns) > 8 * 0.95


@pytest.mark.parametrize("budget", [24, 300])
def test_a_loss_that_is_not_finite_is_unstable(budget):
    with pytest.raises(Unstable, match="smaller learning rate"):
        small.trained(budget, task=Task("tiny/Match-v0", {"reward": math.nan}))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_defaults_learn_cartpole(seed):
    """Within 50,000 env steps some evaluation passes 195, CartPole-v0's threshold; a random player's return is 22."""
    task, algorithm, returns = Task("CartPole-v1"), ALGORITHMS["dqn"](), []
    network = build_network(envs.schemas(task), architecture_for(algorithm, NetworkConfig()), seed)
    evaluation = Evaluation(every=5000, episodes=20, num_envs=20)

    def record(_, values):
        returns.extend(value for tag, value in values.items() if tag == "eval/return_mean")

    train(TrainJob(network, task, algorithm, 50_000, seed, record, evaluation, device="cpu"))
    assert len(returns) == 11
    assert max(returns) >= 195
