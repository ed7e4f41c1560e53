"""PPO with gradient hooks and frozen blocks; the library's own PPO is the reference, to rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from support.tiny_tasks import (
    EVALUATION,
    MATCH,
    REACH,
    TASK,
    NormEncoder,
    assert_same,
    box,
    discrete,
    multi,
    observations,
    planes,
    scrambled,
    small_config,
    small_network,
    small_ppo,
    vector,
    weights,
)
from support.trainings import learning_rates

from graft import envs
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.sb3.baseline_ppo import arguments, baseline_ppo
from graft.agents.sb3.policy import NetworkPolicy
from graft.agents.sb3.ppo_loss import draw
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.backend import Hooks, TrainJob
from graft.envs.core.schema import Schemas, masked
from graft.envs.core.task import Task, TaskVectorEnv

pytestmark = pytest.mark.usefixtures("tiny_tasks")

UPDATES = 8
"""Minibatches of `small_ppo` per rollout of 128 env steps."""

PLAIN_ADAM = {"fused": False, "foreach": False, "eps": 1e-5}
"""The library's optimiser."""


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5)


def norm_network(monkeypatch: pytest.MonkeyPatch, depth: int) -> PolicyNetwork:
    """Batch normalisation in both blocks, of which the first ``depth`` are frozen."""
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = PolicyNetwork(MATCH, NetworkConfig("norm", head=(8,)), 0)
    network.encoder.freeze(depth)
    return network


def learner_of(network, gradients=None, task=TASK, seed=3, **options):
    algorithm = small_ppo(**options)
    return algorithm.learner(network, BatchVecEnv(envs.make(task, algorithm.num_envs, 0)), seed, gradients, "cpu")


def learned(network, gradients=None, steps=256, **options) -> dict[str, torch.Tensor]:
    """The weights after ``steps`` env steps."""
    learner_of(network, gradients, **options).learn(steps)
    return weights(network)


def plain_ppo(network, task=TASK, **changed):
    """The library's own PPO with the options of `small_ppo`."""
    options, kwargs = small_ppo(), {"network": network, "optimizer_kwargs": PLAIN_ADAM}
    env = BatchVecEnv(envs.make(task, options.num_envs, 0))
    return PPO(NetworkPolicy, env, policy_kwargs=kwargs, seed=3, device="cpu", **(arguments(options) | changed))


def gradients_before_steps(learner) -> list[list[torch.Tensor]]:
    """Fills up, while ``learner`` learns, with the gradients that its optimiser uses."""
    seen: list[list[torch.Tensor]] = []
    parameters = list(learner.policy.network.parameters())
    learner.policy.optimizer.register_step_pre_hook(lambda *_: seen.append([p.grad.clone() for p in parameters]))
    return seen


# The library's PPO as the reference


def test_without_a_hook_it_is_the_librarys_ppo():
    reference = small_network(MATCH)
    plain_ppo(reference).learn(256)
    network = small_network(MATCH)
    before = weights(network)
    after = learned(network)
    assert_near(after, weights(reference))
    assert [name for name in after if torch.equal(after[name], before[name])] == []


class Unplayed(TaskVectorEnv):
    """A batch that has spaces alone."""

    def __init__(self, schemas: Schemas, num_envs: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self._set_schemas(num_envs, *schemas)


FLAGGED = masked(planes("ab", 6, 6), ("stay", "jump"))
CASES = {
    "discrete": MATCH,
    "two choices": Schemas(vector(["x", "y"]), multi(move=3, fire=2)),
    "box": Schemas(vector(["x", "y"]), box(["move_x", "move_y"], -0.5, 2.0)),
    "board": Schemas(planes("ab", 6, 6), MATCH.action),
    "flags": Schemas(FLAGGED, discrete("stay", "jump", "run")),
}


def random_rollout(learner, network: PolicyNetwork, seed: int) -> None:
    """Fill the learner's buffer with random states, the network's actions and random numbers."""
    buffer, rng = learner.rollout_buffer, np.random.default_rng(seed)
    buffer.reset()
    torch.manual_seed(seed)
    for _ in range(buffer.buffer_size):
        obs = observations(network.schemas.observation, buffer.n_envs, int(rng.integers(1 << 30)))
        seen = buffer.begin_step(obs.numpy(), rng.random(buffer.n_envs) < 0.1)
        with torch.no_grad():
            outputs = network(seen)
            actions, log_probs = draw(outputs, network.schemas.action.sizes)
        # Other probabilities than now: ratios lie on both sides of the bounds.
        old = log_probs + torch.from_numpy(rng.normal(0, 0.3, buffer.n_envs).astype(np.float32))
        buffer.end_step(actions, rng.normal(size=buffer.n_envs).astype(np.float32), outputs.value, old)
    buffer.compute_returns_and_advantage(outputs.value, np.zeros(buffer.n_envs, np.bool_))


@pytest.mark.parametrize("schemas", CASES.values(), ids=CASES)
def test_an_update_is_the_librarys_own(schemas):
    config = small_config(schemas.observation.plain.kind)
    network, twin = (scrambled(PolicyNetwork(schemas, config, 0)) for _ in range(2))
    options = small_ppo(entropy=0.05, minibatch=24, num_steps=10)  # the last minibatch is smaller
    learner = options.learner(network, BatchVecEnv(Unplayed(schemas, 8)), 0, None, "cpu")
    random_rollout(learner, network, 1)
    env = BatchVecEnv(Unplayed(schemas, 8))
    env.play_as(twin)
    kwargs = {"network": twin, "optimizer_kwargs": PLAIN_ADAM}
    with pytest.warns(UserWarning, match="mini-batch size of 24"):
        reference = PPO(NetworkPolicy, env, policy_kwargs=kwargs, seed=0, device="cpu", **arguments(options))
    for name in ("observations", "actions", "rewards", "episode_starts", "values", "log_probs"):
        setattr(reference.rollout_buffer, name, getattr(learner.rollout_buffer, name).copy())
    reference.rollout_buffer.full = True
    last = learner.rollout_buffer.values[-1]
    reference.rollout_buffer.compute_returns_and_advantage(torch.from_numpy(last), np.zeros(8, np.bool_))
    assert np.array_equal(reference.rollout_buffer.advantages, learner.rollout_buffer.advantages)
    assert np.array_equal(reference.rollout_buffer.returns, learner.rollout_buffer.returns)
    logged = []
    for each in (reference, learner):
        np.random.seed(5)
        each.set_logger(Logger(None, []))
        each.train()
        logged.append({k: v for k, v in each.logger.name_to_value.items() if k.startswith("train/")})
    assert_near(weights(network), weights(twin))
    assert logged[1] == pytest.approx(logged[0], rel=1e-3, abs=1e-5)
    assert logged[1]["train/clip_fraction"] > 0.1


def test_episodes_that_a_time_limit_cuts_count_what_would_have_come():
    """As the library's, which runs the network for each of them."""
    task = Task("CartPole-v1", {"max_episode_steps": 7})
    network, twin = (scrambled(small_network(envs.schemas(task))) for _ in range(2))
    learner, reference = learner_of(network, task=task), plain_ppo(twin, task=task)
    for each in (learner, reference):
        each.learn(128)
    ours, theirs = learner.rollout_buffer, reference.rollout_buffer
    assert (ours.rewards != 1).sum() >= 10
    for name in ("values", "advantages", "returns"):  # the library's are in the order of minibatches by now
        by_row = getattr(ours, name).T.flatten()
        np.testing.assert_allclose(by_row, getattr(theirs, name).flatten(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.rewards, theirs.rewards, rtol=1e-5)


def test_the_policy_learns_what_the_librarys_own_policy_learns():
    network, twin = small_network(MATCH), small_network(MATCH)
    env = BatchVecEnv(envs.make(TASK, 8, 0))
    reference = baseline_ppo(twin, env, small_ppo(), 3)
    with torch.no_grad():
        names = {
            "features_extractor.encoder": "encoder",
            "mlp_extractor.policy_net": "policy.hidden",
            "mlp_extractor.value_net": "value.hidden",
            "action_net": "policy.out",
            "value_net": "value.out",
        }
        theirs = {}
        for prefix, ours in names.items():
            for name, parameter in reference.policy.get_submodule(prefix).named_parameters():
                parameter.copy_(network.get_parameter(f"{ours}.{name}"))
                theirs[f"{ours}.{name}"] = parameter
    learner = learner_of(network)
    for ppo in (reference, learner):
        torch.manual_seed(11)
        np.random.seed(11)
        ppo.learn(128)
    assert theirs.keys() == dict(network.named_parameters()).keys()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-5, atol=1e-6)


def test_box_policies_give_the_normal_distribution_by_hand():
    schemas = Schemas(vector(["x", "y"]), box(["move_x", "move_y"], -0.5, 0.5))
    network = scrambled(small_network(schemas))
    policy = learner_of(network, task=REACH).policy
    obs, actions = observations(schemas.observation, 7), torch.linspace(-1, 1, 14).view(7, 2)
    values, log_prob, entropy = policy.evaluate_actions(obs, actions)
    outputs = network(obs)
    mean, log_std = outputs.action, outputs.log_std
    by_hand = -0.5 * ((actions - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(log_prob, by_hand.sum(1))
    torch.testing.assert_close(entropy, (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(7))
    assert torch.equal(values, outputs.value.unsqueeze(1))
    assert torch.equal(policy.predict_values(obs), values)


def test_weights_survive_the_librarys_orthogonal_initialisation():
    network = scrambled(small_network(MATCH))
    before = weights(network)
    learner = learner_of(network)
    assert learner.policy.network is network
    assert_same(weights(network), before)
    assert {id(p) for p in learner.policy.parameters()} == {id(p) for p in network.parameters()}


# Gradient hooks


def test_the_hook_sees_the_gradients_of_the_loss_before_clipping():
    seen = []

    def watch(grads, network, batch):
        seen.append({name: g.clone() for name, g in grads.items()})
        return grads

    network = small_network(MATCH)
    learned(network, watch, max_grad_norm=0.001)
    reference = plain_ppo(small_network(MATCH), max_grad_norm=math.inf)
    unclipped = gradients_before_steps(reference)
    reference.learn(128)
    names = [name for name, _ in network.named_parameters()]
    assert_near(seen[0], dict(zip(names, unclipped[0], strict=True)))
    assert math.sqrt(sum(float(g.square().sum()) for g in unclipped[0])) > 0.01


def test_the_learning_rate_is_annealed_over_the_budget():
    with learning_rates() as rates:
        learned(small_network(MATCH), steps=384, learning_rate=0.01, anneal_lr=True)
    assert rates == pytest.approx([0.01] * UPDATES + [0.01 * 2 / 3] * UPDATES + [0.01 / 3] * UPDATES)


def test_what_the_hook_returns_is_clipped():
    huge = {name: torch.full_like(p, 1e6) for name, p in small_network(MATCH).named_parameters()}

    def enlarge(*_):
        return {name: g.clone() for name, g in huge.items()}

    learner = learner_of(small_network(MATCH), enlarge, max_grad_norm=0.5)
    used = gradients_before_steps(learner)
    learner.learn(128)
    count = sum(g.numel() for g in huge.values())
    assert len(used) == UPDATES
    for grads in used:
        assert math.sqrt(sum(float(g.double().square().sum()) for g in grads)) == pytest.approx(0.5, rel=1e-5)
        for g in grads:
            torch.testing.assert_close(g, torch.full_like(g, 0.5 / math.sqrt(count)))


def test_small_gradients_are_not_clipped():
    learner = learner_of(
        small_network(MATCH), lambda grads, *_: {name: torch.full_like(g, 1e-3) for name, g in grads.items()}
    )
    used = gradients_before_steps(learner)
    learner.learn(128)
    assert all(torch.equal(g, torch.full_like(g, 1e-3)) for grads in used for g in grads)


def test_zero_gradients_leave_the_weights_as_they_are():
    network = small_network(MATCH)
    before = weights(network)
    after = learned(network, lambda grads, *_: {name: torch.zeros_like(g) for name, g in grads.items()})
    assert_same(after, before)


def test_a_gradient_that_the_hook_leaves_out_moves_nothing():
    network = small_network(MATCH)
    before = weights(network)
    after = learned(network, lambda grads, *_: {n: g for n, g in grads.items() if n.startswith("value.")})
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name in after if name.startswith("value.")
    }


def test_frozen_parameters_have_no_gradient_to_see():
    network = small_network(MATCH)
    network.encoder.freeze(1)
    seen = []
    learned(network, lambda grads, *_: seen.append(set(grads)) or grads, steps=128)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert seen == [trained] * UPDATES


def test_the_hook_sees_raw_observations_even_with_frozen_blocks():
    network = small_network(MATCH)
    network.encoder.freeze()
    seen = []
    learned(network, lambda grads, _, batch: seen.append(batch.observations) or grads, steps=128)
    rows = torch.cat(seen)
    assert rows.shape == (2 * 128, 4)
    assert (rows.sum(1) == 1).all()  # states are unit vectors


def test_box_actions_reach_the_hook_as_they_were_taken():
    network = small_network(Schemas(vector(["x", "y"]), box(["move_x", "move_y"], -0.5, 0.5)))
    seen = []
    learned(network, lambda grads, _, batch: seen.append(batch.actions) or grads, steps=128, task=REACH)
    assert {actions.shape for actions in seen} == {(32, 2)}


# Frozen blocks


@pytest.mark.parametrize("depth", [1, 2])
def test_frozen_tensors_and_buffers_do_not_change(monkeypatch, depth):
    network = norm_network(monkeypatch, depth)
    before, after = weights(network), learned(network)
    frozen = tuple(f"encoder.blocks.{i}." for i in range(depth))
    same = {name for name in after if torch.equal(after[name], before[name])}
    assert same == {name for name in after if name.startswith(frozen)}


@pytest.mark.parametrize("depth", [1, 2])
def test_computing_frozen_blocks_once_changes_nothing_but_rounding(monkeypatch, depth):
    once = learned(norm_network(monkeypatch, depth))
    each_time = learned(norm_network(monkeypatch, depth), lambda grads, *_: grads)
    assert once.keys() == each_time.keys()
    for name in once:
        torch.testing.assert_close(once[name], each_time[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("gradients", [None, lambda grads, *_: grads])
def test_frozen_blocks_run_in_the_rollout_alone(gradients):
    network = small_network(MATCH)
    network.encoder.freeze(1)
    learner = learner_of(network, gradients)
    sizes = []
    network.encoder.blocks[0].register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    learner.learn(128)
    assert sizes == [8] * 17  # 16 steps and the value of what comes next


def test_pixels_are_cached_as_well():
    """Observations of another shape and type than what leaves the frozen blocks."""
    task = Task("tiny/Match-v0", {"kind": "pixels"})
    results = []
    for gradients in (None, lambda grads, *_: grads):
        network = small_network(envs.schemas(task))
        network.encoder.freeze(3)
        results.append(learned(network, gradients, steps=32, task=task, num_envs=4, num_steps=8, minibatch=16))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=1e-6)


def test_blocks_may_thaw_between_rollouts():
    network = small_network(MATCH)
    network.encoder.freeze()
    before = weights(network)

    def thaw(network, progress):
        if progress > 0:
            network.encoder.freeze(1)

    train(TrainJob(network, TASK, small_ppo(), 256, 0, lambda *_: None, EVALUATION, Hooks(schedule=thaw), "cpu"))
    after = weights(network)
    still = {name for name in after if torch.equal(after[name], before[name])}
    assert still == {name for name in after if name.startswith("encoder.blocks.0.")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "steps"), [(Task("CartPole-v1"), 32_768), (Task("Graft/Gather-v0", {"view": "ego"}), 40_960)], ids=str
)
def test_curves_are_those_of_the_librarys_ppo(task, steps):
    """Areas under the curves of training returns over 5 seeds: their difference is within its 99 % interval."""
    areas = []
    for seed in range(5):
        algorithm = ALGORITHMS["ppo"](num_envs=32)
        network, twin = (PolicyNetwork(envs.schemas(task), NetworkConfig(), seed) for _ in range(2))
        ours = algorithm.learner(network, BatchVecEnv(envs.make(task, 32, seed)), seed, None, "cpu")
        env = BatchVecEnv(envs.make(task, 32, seed))
        kwargs = {"network": twin, "optimizer_kwargs": PLAIN_ADAM}
        theirs = PPO(NetworkPolicy, env, policy_kwargs=kwargs, seed=seed, device="cpu", **arguments(algorithm))
        found = []
        for learner in (ours, theirs):
            returns = []
            for _ in range(steps // 2048):
                learner.learn(2048, reset_num_timesteps=False)
                returns.append(np.mean([episode["r"] for episode in learner.ep_info_buffer]))
            found.append((np.mean(returns), returns[0], returns[-1]))
        areas.append(found)
    area = np.array(areas)  # (seeds, ours and theirs, area and first and last)
    print(
        task, "areas of ours and theirs", area[:, :, 0].T.round(3).tolist(), "last", area[:, :, 2].T.round(3).tolist()
    )
    difference = area[:, 0, 0] - area[:, 1, 0]
    spread = difference.std(ddof=1) / math.sqrt(5)
    assert abs(difference.mean()) < 4.604 * spread + 1e-6  # Student's t, 4 degrees of freedom
    assert (area[:, :, 2] > area[:, :, 1]).all()  # both learn
