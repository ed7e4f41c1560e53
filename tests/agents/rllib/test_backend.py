"""Training with RLlib in one process: its update and the library's, hooks, and that it goes on where it was stopped."""

from __future__ import annotations

import math
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets
from ray.util.placement_group import placement_group, remove_placement_group
from support import fresh_episodes, trainings
from support.savable_reach import SeededAdapter
from support.tiny_tasks import (
    EVALUATION,
    MATCH,
    REACH,
    TASK,
    TINY,
    assert_same,
    observations,
    scrambled,
    small_network,
    small_ppo,
    weights,
)
from support.trainings import learning_rates, recorded

from graft import envs
from graft.agents import sb3
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.snapshot import Snapshots
from graft.agents.ray_session import session
from graft.agents.rllib import ALGORITHMS, train
from graft.agents.rllib.module import distribution_class, distribution_inputs, module_spec
from graft.agents.rllib.rollout_collector import advantages
from graft.agents.training.backend import Evaluation, Hooks, Resources, TrainJob, Unstable
from graft.envs.core.task import Task
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError

pytestmark = pytest.mark.usefixtures("tiny_tasks", "one_ray")

GATHER = Task("Graft/Gather-v0")

trained = partial(trainings.trained, "rllib")


def test_advantages_are_those_of_rllib():
    """RLlib appends a step to each episode, whose value is what a truncated one is bootstrapped from."""
    rng = np.random.default_rng(0)
    rewards, values, last = rng.normal(size=(3, 40, 3)).astype(np.float32)
    following = rng.normal(size=3).astype(np.float32)
    terminated = rng.random((40, 3)) < 0.1
    truncated = (rng.random((40, 3)) < 0.1) & ~terminated
    dones = terminated | truncated
    after = np.where(dones, np.where(truncated, last, 0.0), np.concatenate([values[1:], following[None]]))
    found = advantages(rewards, values, after.astype(np.float32), dones, 0.9, 0.8)
    for env in range(3):
        starts = [0, *(np.flatnonzero(dones[:, env]) + 1)]
        for begin, end in zip(starts, [*starts[1:], 40], strict=True):
            if begin == end:
                continue
            ended, by_time = terminated[end - 1, env], truncated[end - 1, env]
            final = last[end - 1, env] if by_time else following[env]
            terminateds, truncateds = np.zeros((2, end - begin + 1), np.bool_)
            terminateds[-2], truncateds[-2] = ended, not ended
            targets = compute_value_targets(
                values=np.append(values[begin:end, env], final),
                rewards=np.append(rewards[begin:end, env], 0.0),
                terminateds=terminateds,
                truncateds=truncateds,
                gamma=0.9,
                lambda_=0.8,
            )
            np.testing.assert_allclose(found[begin:end, env], targets[:-1] - values[begin:end, env], atol=1e-5)


def test_an_update_is_the_same_as_with_stable_baselines3():
    """One minibatch of a whole rollout, from the same weights: the two libraries take the same step.

    Their samples differ, so the expectation is compared: over many states the mean of the steps points the same way.
    """
    options = {"num_envs": 256, "num_steps": 16, "minibatch": 4096, "epochs": 1, "learning_rate": 1e-3}
    moves = []
    for kind in ("sb3", "rllib"):
        network = small_network(MATCH)
        before = weights(network)
        if kind == "sb3":
            sb3.train(TrainJob(network, TASK, small_ppo(**options), 1, 0, lambda *_: None, EVALUATION, device="cpu"))
        else:
            network = trained(network, budget=1, **options).network
        after = weights(network)
        moves.append(torch.cat([(after[name] - before[name]).flatten() for name in after]))
    likeness = torch.nn.functional.cosine_similarity(*moves, dim=0)
    assert likeness > 0.8, likeness
    assert 0.9 < moves[0].norm() / moves[1].norm() < 1.1


def test_from_one_backend_to_the_other_and_back(tmp_path):
    """Stable-Baselines3 -> checkpoint -> RLlib -> checkpoint -> Stable-Baselines3: the same features and actions."""
    network = small_network(MATCH)
    sb3.train(TrainJob(network, TASK, small_ppo(), 300, 0, lambda *_: None, EVALUATION, device="cpu"))
    obs = observations(MATCH.observation, 32, seed=1)
    Checkpoint.of(network, TASK).save(tmp_path / "one")
    module = module_spec(Checkpoint.load(tmp_path / "one").build()).build()
    assert torch.equal(module.network.encoder(obs), network.encoder(obs))
    out = module.forward_inference({"obs": obs})
    assert torch.equal(out["action_dist_inputs"], network(obs).action)
    played = [n.act(obs, torch.Generator().manual_seed(3)) for n in (network, module.network)]
    assert torch.equal(*played)

    run = trained(module.network)
    Checkpoint.of(run.network, TASK).save(tmp_path / "two")
    back = Checkpoint.load(tmp_path / "two").build()
    assert torch.equal(back.encoder(obs), run.network.encoder(obs))
    assert torch.equal(back.act(obs, None, deterministic=True), run.network.act(obs, None, deterministic=True))
    assert not torch.equal(back.encoder(obs), network.encoder(obs))
    sb3.train(TrainJob(back, TASK, small_ppo(), 1, 0, lambda *_: None, EVALUATION, device="cpu"))


@pytest.mark.parametrize("task", [TASK, REACH], ids=str)
def test_distributions_are_the_networks_own(task):
    schemas = envs.schemas(task)
    network = small_network(schemas)
    obs = observations(schemas.observation, 5)
    outputs = network(obs)
    found = distribution_class(schemas.action).from_logits(distribution_inputs(outputs))
    if schemas.action.kind == "box":
        expected = torch.distributions.Normal(outputs.action, outputs.log_std.exp())
        actions = network.draw(outputs, None)
        torch.testing.assert_close(found.logp(actions), expected.log_prob(actions).sum(-1))
    else:
        expected = torch.distributions.Categorical(logits=outputs.action)
        actions = network.draw(outputs, None)
        torch.testing.assert_close(found.logp(actions), expected.log_prob(actions))


def test_what_is_frozen_stays_bit_for_bit():
    network = small_network(MATCH)
    network.encoder.freeze(1)
    before = weights(network)
    after = weights(trained(network).network)
    still = {name for name in after if torch.equal(after[name], before[name])}
    assert still == {name for name in after if name.startswith("encoder.blocks.0.")}


def test_hooks_are_called_where_they_belong():
    seen, progress = [], []

    def gradients(grads, network, batch):
        seen.append((len(batch.observations), len(batch.actions), sorted(grads)))
        return {name: torch.zeros_like(grad) for name, grad in grads.items() if name.startswith("policy.")}

    network = small_network(MATCH)
    before, names = weights(network), sorted(name for name, _ in network.named_parameters())
    hooks = Hooks(gradients=gradients, schedule=lambda _, share: progress.append(share), report=lambda _: {"x/y": 1.0})
    run = trained(network, hooks=hooks)
    assert_same(weights(run.network), before)
    assert progress == [0, 128 / 300, 256 / 300]
    assert seen == [(32, 32, names)] * 24
    assert list(recorded(run.records, "x/y")) == [0, 256, 384]


def test_rates_and_schedules_reach_the_optimiser():
    still = dict.fromkeys((n for n, _ in small_network(MATCH).encoder.named_parameters(prefix="encoder")), 0.0)
    network = small_network(MATCH)
    before = weights(network)
    after = weights(trained(network, hooks=Hooks(rates=still)).network)
    assert {n for n in after if torch.equal(after[n], before[n])} == set(still)


def test_the_learning_rate_is_annealed_over_the_budget():
    with learning_rates() as rates:
        trained(small_network(MATCH), learning_rate=0.01, anneal_lr=True)
    assert rates == pytest.approx([0.01] * 8 + [0.01 * (1 - 128 / 300)] * 8 + [0.01 * (1 - 256 / 300)] * 8)


def test_a_schedule_can_thaw():
    def schedule(network, progress):
        network.encoder.freeze(0 if progress > 0.5 else 2)

    network = small_network(MATCH)
    network.encoder.freeze(2)
    before = weights(network)
    after = weights(trained(network, hooks=Hooks(schedule=schedule)).network)
    assert not any(torch.equal(after[n], before[n]) for n in after)


def test_statistics_of_observations_are_counted_in_the_learner():
    network = small_network(MATCH, normalise=True)
    run = trained(network, epochs=1)
    counted = {n: t for n, t in weights(run.network).items() if n.endswith("running_count")}
    assert [float(t[0]) for t in counted.values()] == [384.0]


def test_a_loss_that_is_not_finite_is_unstable():
    with pytest.raises(Unstable, match="smaller learning rate") as caught:
        trained(task=Task("tiny/Match-v0", {"reward": math.nan}), budget=256)
    assert caught.value.env_steps == 128
    assert np.isnan(caught.value.batch["default_policy/advantages"]).sum() == TINY["minibatch"]


def test_a_stopped_training_ends_as_if_it_had_not_been(tmp_path):
    class Stopped(Exception):
        pass

    def record(env_steps, values):
        if env_steps >= 512 and "train/loss" in values:
            raise Stopped

    options = {"task": GATHER, "budget": 1024, "evaluation": Evaluation(every=256, episodes=8, num_envs=8)}
    whole = trained(**options)
    kept = Snapshots(tmp_path, env_steps=128)
    with pytest.raises(Stopped):
        train(TrainJob(
            small_network(envs.schemas(GATHER)), GATHER, ALGORITHMS["ppo"](**TINY), 1024, 0, record,
            options["evaluation"], snapshots=kept,
        ))  # fmt: skip
    assert kept.latest().env_steps == 384
    run = trained(**options, more={"snapshots": kept})
    assert run.records[0][0] == 512
    assert_same(weights(run.network), weights(whole.network))
    assert run.result.final_returns == whole.result.final_returns
    late = [(n, {k: v for k, v in values.items() if k[:4] != "time"}) for n, values in run.records]
    assert (
        late == [(n, {k: v for k, v in values.items() if k[:4] != "time"}) for n, values in whole.records][-len(late) :]
    )


@pytest.mark.slow
def test_where_environments_cannot_be_saved_all_else_goes_on_with_fresh_episodes(tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def record(env_steps, values):
        if env_steps >= 512 and "train/loss" in values:
            raise Stopped

    monkeypatch.setitem(ADAPTERS._entries, "tiny", SeededAdapter())
    held = fresh_episodes.watch(monkeypatch)
    given = small_network(envs.schemas(REACH)), REACH, ALGORITHMS["ppo"](**TINY), 1024, 0, record, EVALUATION
    kept = Snapshots(tmp_path / "s", env_steps=128)
    with pytest.raises(Stopped):
        train(TrainJob(*given, snapshots=kept))
    found = kept.latest()
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    first, again = (
        trained(
            network=scrambled(small_network(envs.schemas(REACH)), 9),
            task=REACH,
            budget=1024,
            more={"snapshots": Snapshots(tmp_path / folder, env_steps=128)},
        )
        for folder in ("s", "copy")
    )
    assert_same(dict(held[0].tensors), dict(found.parts["training"].tensors))
    assert first.result.fresh_at == again.result.fresh_at == (found.env_steps,) == (384,)
    assert (first.records[0][0], first.result.env_steps) == (512, 1024)
    assert set(recorded(first.records, "rollout/length_mean").values()) == {5.0}, "an episode went on across the gap"
    assert_same(weights(first.network), weights(again.network))
    assert first.result.final_returns == again.result.final_returns


def test_rows_out_of_play_are_not_learned_from():
    task = Task("Graft/Pursuit-v0", {"team": "prey"})
    seen = []

    def gradients(grads, network, batch):
        seen.append(batch.observations)
        return grads

    run = trained(task=task, num_envs=32, num_steps=32, minibatch=1024, epochs=1, budget=1, hooks=Hooks(gradients))
    assert run.result.env_steps == 1024
    assert all(batch.flatten(1).any(1).all() for batch in seen), "an agent in play sees something"
    assert sum(map(len, seen)) < 1024


def test_what_the_cluster_lacks_is_said_at_once():
    with pytest.raises(GraftError, match="need 400 CPUs"):
        trained(more={"resources": Resources(num_env_runners=400)}, num_envs=400)
    with pytest.raises(GraftError, match="need 1 GPUs"):
        trained(more={"resources": Resources(num_gpus_per_learner=1)})
    with pytest.raises(GraftError, match="evenly among 3"):
        trained(more={"resources": Resources(num_env_runners=3)})


def test_a_cluster_that_others_fill_is_waited_for_but_not_for_ever(monkeypatch, caplog):
    monkeypatch.setattr(session, "QUIET_WAIT", 0.5)
    monkeypatch.setattr(session, "ROOM_TIMEOUT", 0.5)
    network, one_runner = small_network(MATCH), {"resources": Resources(num_env_runners=1)}
    others = placement_group([{"CPU": 4.0}])
    assert others.wait(60)
    try:
        with pytest.raises(GraftError, match="no room for 1 env runners and 0 learners for"):
            trained(network, more=one_runner)
        assert "Waiting for room" in caplog.text
        trained(network, budget=1)  # in this process alone
    finally:
        remove_placement_group(others)
    monkeypatch.setattr(session, "ROOM_TIMEOUT", 60.0)
    session.join(one_runner["resources"])
