"""SAC of RLlib: hooks, what stays, what goes on, and the way to the other backend."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from support import fresh_episodes
from support.off_policy import small_sac
from support.rllib_sac import LEARNT, OPTIONS, QUIET, algorithm, fresh, moved, part, trained
from support.savable_reach import SavableAdapter, SeededAdapter
from support.tiny_tasks import (
    MATCH,
    REACH,
    assert_same,
    observations,
    register_encoder,
    scrambled,
    small_config,
    small_network,
    weights,
)

from graft import envs
from graft.agents import sb3
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.snapshot import Snapshots
from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.agents.rllib import ALGORITHMS, train
from graft.agents.rllib.remote_training import RemoteTraining
from graft.agents.training.algorithm import architecture_for
from graft.agents.training.backend import Evaluation, Hooks, Resources, TrainJob
from graft.envs.core.task import Task
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError

pytestmark = pytest.mark.usefixtures("tiny_tasks", "one_ray")


# Hooks


@pytest.mark.slow
def test_zero_gradients_leave_the_network_as_it_is_while_the_critics_learn():
    network = fresh()
    before, first = weights(network), trained(budget=20).last
    run = trained(network, hooks=Hooks(lambda grads, *_: {n: torch.zeros_like(g) for n, g in grads.items()}))
    assert_same(weights(run.network), before)
    critics = part(run.last, "critics")
    assert moved(critics, part(first, "critics")) == set(critics)


@pytest.mark.slow
def test_what_the_hook_leaves_out_does_not_change():
    network = fresh()
    before = weights(network)
    run = trained(network, hooks=Hooks(lambda g, *_: {name: grad for name, grad in g.items() if "policy" in name}))
    assert moved(weights(run.network), before) == {name for name in before if name.startswith("policy.")}


def test_the_hook_gets_the_minibatch_with_actions_as_the_environment_took_them():
    batches = []
    trained(hooks=Hooks(lambda grads, _, batch: batches.append(batch) or grads))
    assert {(b.observations.shape, b.actions.shape) for b in batches} == {((16, 2), (16, 2))}
    largest = max(batch.actions.abs().max().item() for batch in batches)
    assert 0.4 < largest <= 0.5


@pytest.mark.slow
def test_rates_reach_the_actors_optimiser_only():
    still = dict.fromkeys((n for n, _ in fresh().encoder.named_parameters(prefix="encoder")), 0.0)
    network = fresh()
    before = weights(network)
    run = trained(network, hooks=Hooks(rates=still))
    assert {n.split(".")[0] for n in moved(weights(run.network), before)} == {"policy"}
    encoder = {n: t for n, t in part(run.last, "critics").items() if n.startswith("encoder.")}
    assert moved(encoder, before) == set(encoder)


@pytest.mark.parametrize("encoder", [pytest.param("separate", marks=pytest.mark.slow), "shared"])
def test_only_the_actor_is_trained(encoder):
    network = fresh()
    before = weights(network)
    after = weights(trained(network, encoder=encoder).network)
    assert moved(after, before) == {name for name in before if name.startswith(LEARNT)}


@pytest.mark.parametrize("encoder", ["separate", pytest.param("shared", marks=pytest.mark.slow)])
@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_frozen_tensors_and_buffers_do_not_change(monkeypatch, encoder, depth):
    register_encoder(monkeypatch)
    network = fresh(NetworkConfig("norm", head=(8,)))
    network.encoder.freeze(depth)
    before = weights(network)
    run = trained(network, encoder=encoder)
    after, frozen = weights(run.network), tuple(f"encoder.blocks.{i}." for i in range(depth))
    assert moved(after, before) == {n for n in after if not n.startswith((*frozen, "value."))}
    for name in ("critics", "target"):
        theirs = {n: t for n, t in part(run.last, name).items() if n.startswith("encoder.")}
        assert {n for n in theirs if torch.equal(theirs[n], before[n])} == {n for n in theirs if n.startswith(frozen)}


@pytest.mark.slow
def test_the_critics_encoder_thaws_with_the_networks():
    def schedule(network, progress):
        network.encoder.freeze(0 if progress > 0.5 else 2)

    network = fresh()
    network.encoder.freeze(2)
    before = weights(network)
    run = trained(network, hooks=Hooks(schedule=schedule))
    encoder = {n: t for n, t in part(run.last, "critics").items() if n.startswith("encoder.")}
    assert moved(encoder, before) == set(encoder)


@pytest.mark.slow
def test_statistics_of_observations_are_those_of_the_critics_target():
    network = fresh(NetworkConfig(None, {"widths": [16, 16], "normalise": True}, (8,)))
    run = trained(network)
    counted = {n: t for n, t in weights(run.network).items() if n.endswith("running_count")}
    assert [float(t[0]) for t in counted.values()] == [2 * 16 * 20.0]  # 20 minibatches, each before and after
    for name in ("running_count", "running_mean", "running_var"):
        mine, target = (
            [t for n, t in part(run.last, group).items() if n.endswith(name)] for group in ("critics", "target")
        )
        assert torch.equal(*mine, *target)


# Critics


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["separate", pytest.param("shared", marks=pytest.mark.slow)])
def test_training_starts_from_the_critics_given_and_leaves_its_own(encoder):
    first = trained(budget=40, encoder=encoder).critics
    assert first.keys() >= {"online.heads.1.2.weight", "target.encoder.blocks.0.1.weight", "log_alpha"}
    assert ("online.encoder.blocks.0.1.weight" in first) == (encoder == "separate")
    kept = trained(budget=20, encoder=encoder, more={"critics": dict(first)})  # nothing is learned
    assert_same(dict(kept.critics), first)
    sac = small_sac.learner(fresh(), encoder=encoder)
    sac.critic_state().load(first)
    assert_same(sac.critic_state().save(), first)  # in the other backend under the same names


@pytest.mark.slow
def test_only_critics_train_while_they_warm_up():
    network, seen = fresh(), []
    before = weights(network)
    hooks = Hooks(lambda grads, *_: seen.append(0) or grads, critic_warmup=0.5)
    run = trained(network, budget=80, hooks=hooks)  # held up to 60
    assert len(seen) == 2 * 5
    assert moved(weights(run.network), before) == {name for name in before if name.startswith(LEARNT)}
    network = fresh()
    run = trained(network, budget=60, hooks=Hooks(hooks.gradients, critic_warmup=40))
    assert len(seen) == 2 * 5
    assert_same(weights(run.network), before)
    assert float(part(run.last, "entropy")["log"]) == 0
    first = trained(budget=20).last
    assert moved(part(run.last, "critics"), part(first, "critics")) == set(part(first, "critics"))


# Options


def test_options_are_those_of_the_other_backend():
    others = asdict(sb3.ALGORITHMS["sac"]())
    del others["keep_transitions"]  # of its own replay buffer
    assert asdict(ALGORITHMS["sac"]()) == others


def test_what_it_cannot_train_is_refused():
    with pytest.raises(GraftError, match=r"'sac' needs box actions.*discrete \(north.*allowed here: .*ppo"):
        algorithm().check(MATCH)
    plain = small_network(envs.schemas(REACH))
    with pytest.raises(GraftError, match=r"'default'.*plays 'squashed'"):
        trained(plain)
    with pytest.raises(GraftError, match=r"batch=16 can't be shared out evenly among 3"):
        algorithm().config(3)


@pytest.mark.parametrize("entropy", [0.2, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_fixed_entropy_coefficient_stays(entropy):
    run = trained(entropy=entropy)
    same = pytest.approx(entropy, rel=1e-6, abs=1e-20)
    assert float(part(run.last, "entropy")["log"].exp()) == same
    known = [values["train/ent_coef"] for _, values in run.records if "train/ent_coef" in values]
    assert known[-1] == same


# The whole of `train`


@pytest.mark.slow
def test_same_seed_same_weights_bit_for_bit_however_often_it_is_evaluated():
    first, again, other = trained(seed=5), trained(seed=5, evaluation=Evaluation(1, 8, 8)), trained(seed=6)
    assert_same(weights(first.network), weights(again.network))
    assert not torch.equal(first.network.policy.out.weight, other.network.policy.out.weight)


@pytest.mark.slow
def test_evaluations_records_and_the_schedule_come_regularly():
    """Budget 202 in steps of 4, records every 202 // 100 = 2: at each of them; it ends at 204."""
    seen = []
    hooks = Hooks(schedule=lambda network, progress: seen.append(progress), report=lambda _: {"x/y": 1.0})
    run = trained(budget=202, evaluation=Evaluation(100, 8, 8), hooks=hooks, learning_starts=100)
    assert run.result.env_steps == 204
    assert [n for n, values in run.records if "eval/return_mean" in values] == [0, 100, 200, 204]
    assert [n for n, values in run.records if "x/y" in values] == [0, 100, 200, 204]
    assert [n for n, values in run.records if "time/env_steps_per_s" in values] == [*range(4, 205, 4)]
    assert seen == [n / 202 for n in range(0, 204, 4)]
    learned_at = [n for n, values in run.records if "train/actor_loss" in values]
    assert learned_at == [*range(104, 205, 4)]
    tags = {"train/critic_loss", "train/ent_coef", "train/ent_coef_loss", "rollout/return_mean"}
    assert tags < set(run.records[-2][1])


@pytest.mark.slow
def test_a_record_is_of_many_rollouts_where_the_budget_is_large(monkeypatch):
    monkeypatch.setattr("graft.agents.training.periodic_evaluation.LOG_PERIOD", 12)
    run = trained(budget=5000, more={"snapshots": None}, learning_starts=10_000)
    steps = [n for n, values in run.records if "time/env_steps_per_s" in values]
    assert steps == [*range(12, 5000, 12), 5000]
    assert sum(n for n, values in run.records if values.get("rollout/length_mean", 5) != 5) == 0


@pytest.mark.slow
def test_a_tiny_box_task_is_learned():
    """The best is -5 / 12 per episode, doing nothing -10 / 3 (see `test_backend` of the other backend)."""
    run = trained(budget=700, learning_starts=100, batch=64, gamma=0.0, learning_rate=0.02, entropy=0.02)
    assert run.records[0][1]["eval/return_mean"] < -10 / 3
    assert np.mean(run.result.final_returns) > -1.5


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["separate", pytest.param("shared", marks=pytest.mark.slow)])
def test_a_stopped_training_ends_as_if_it_had_not_been(tmp_path, monkeypatch, encoder):
    class Stopped(Exception):
        pass

    def record(env_steps, values):
        if env_steps >= 60 and "train/loss" in values:
            raise Stopped

    monkeypatch.setitem(ADAPTERS._entries, "tiny", SavableAdapter())
    options = {"budget": 100, "encoder": encoder, "buffer": 40}
    whole, kept = trained(**options), Snapshots(tmp_path, env_steps=4)
    with pytest.raises(Stopped):
        train(TrainJob(fresh(), REACH, algorithm(encoder=encoder, buffer=40), 100, 0, record, QUIET, snapshots=kept))
    assert kept.latest().env_steps == 56
    run = trained(scrambled(fresh()), more={"snapshots": kept}, **options)
    assert run.records[0][0] == 60
    assert_same(weights(run.network), weights(whole.network))
    assert_same(dict(run.last.tensors), dict(whole.last.tensors))
    assert run.result.final_returns == whole.result.final_returns
    late = [(n, {k: v for k, v in values.items() if k[:4] != "time"}) for n, values in run.records]
    early = [(n, {k: v for k, v in values.items() if k[:4] != "time"}) for n, values in whole.records]
    assert late == early[-len(late) :]


@pytest.mark.slow
def test_where_environments_cannot_be_saved_the_buffer_goes_on_with_fresh_episodes(monkeypatch, tmp_path):
    class Stopped(Exception):
        pass

    def record(env_steps, values):
        if env_steps >= 60 and "train/loss" in values:
            raise Stopped

    monkeypatch.setitem(ADAPTERS._entries, "tiny", SeededAdapter())
    kept, held = Snapshots(tmp_path, env_steps=4), fresh_episodes.watch(monkeypatch)
    with pytest.raises(Stopped):
        train(TrainJob(fresh(), REACH, algorithm(), 100, 0, record, QUIET, snapshots=kept))
    found = kept.latest()
    run = trained(scrambled(fresh()), budget=100, more={"snapshots": kept})
    (saved,) = held
    assert_same(dict(saved.tensors), dict(found.parts["training"].tensors))
    assert len(saved.tensors["memory/rewards"]) == found.env_steps
    assert run.result.fresh_at == (found.env_steps,)
    assert run.result.env_steps == 100
    assert {values["rollout/length_mean"] for _, values in run.records if "rollout/length_mean" in values} == {5.0}


def test_from_one_backend_to_the_other_and_back(tmp_path):
    """Stable-Baselines3 -> checkpoint -> RLlib -> checkpoint -> Stable-Baselines3: the same features and actions."""

    def with_sb3(network):
        sb3.train(
            TrainJob(network, REACH, sb3.ALGORITHMS["sac"](**OPTIONS), 60, 0, lambda *_: None, QUIET, device="cpu")
        )

    def there(network, folder):
        Checkpoint.of(network, REACH).save(folder)
        back = Checkpoint.load(folder).build()
        assert_same(weights(back), weights(network))
        assert back.config.distribution == "squashed"
        obs = observations(back.schemas.observation, 32, seed=1)
        assert torch.equal(back.encoder(obs), network.encoder(obs))
        played = [n.act(obs, torch.Generator().manual_seed(3)) for n in (back, network)]
        assert torch.equal(*played)
        assert played[0].abs().max() <= 0.5
        return back

    network = fresh()
    with_sb3(network)
    network = there(network, tmp_path / "one")
    before = weights(network)
    network = there(trained(network).network, tmp_path / "two")
    assert moved(weights(network), before) == {name for name in before if name.startswith(LEARNT)}
    before = weights(network)
    with_sb3(network)
    assert moved(weights(network), before) == {name for name in before if name.startswith(LEARNT)}


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context")
@pytest.mark.parametrize("encoder", ["separate", "shared"])
def test_two_learners_and_two_runners_stay_equal_to_the_bit(monkeypatch, encoder):
    ends, original = [], RemoteTraining.fetch

    def fetch(self):
        ends[:] = self.learners(lambda learner: learner.save())
        return original(self)

    monkeypatch.setattr(RemoteTraining, "fetch", fetch)
    task, options = Task("Pendulum-v1"), algorithm(encoder=encoder)
    network = build_network(envs.schemas(task), architecture_for(options, small_config("vector")), 0)
    before = weights(network)
    resources = Resources(num_learners=2, num_env_runners=2)
    train(TrainJob(network, task, options, 60, 0, lambda *_: None, QUIET, resources=resources))
    first, second = ends
    assert_same(dict(first.tensors), dict(second.tensors))
    assert moved(weights(network), before) == {name for name in before if name.startswith(LEARNT)}
