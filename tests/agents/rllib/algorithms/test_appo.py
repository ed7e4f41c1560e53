"""APPO of RLlib: its gradient by the formulas of V-trace, hooks, what stays and goes on, runners that don't wait."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from support.tiny_tasks import (
    EVALUATION,
    MATCH,
    REACH,
    TASK,
    assert_same,
    register_encoder,
    small_config,
    small_network,
    weights,
)

from graft import envs
from graft.agents.checkpoints.snapshot import SavedState, Snapshots
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.rllib import ALGORITHMS, train
from graft.agents.rllib.algorithms import appo
from graft.agents.rllib.backend import build_algorithm
from graft.agents.rllib.rollout_collector import Rollout
from graft.agents.rllib.runner import RunnerEnvConfig
from graft.agents.rllib.trajectories import IGNORED_LOGP, trajectory_columns
from graft.agents.training.backend import Evaluation, Hooks, Resources, TrainJob, Unstable
from graft.envs.core.faults import TooManyFaults
from graft.envs.core.task import Task
from graft.errors import GraftError

pytestmark = [
    pytest.mark.usefixtures("tiny_tasks", "one_ray"),
    # Ray's groups of learners load its data library, which warns of settings that nobody has set.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]

GATHER = Task("Graft/Gather-v0")
TINY = {"num_envs": 8, "num_steps": 16, "minibatch": 32, "epochs": 2}
"""4 * 2 updates per 128 env steps."""


def algorithm(**options):
    return ALGORITHMS["appo"](**(TINY | options))


def trained(network=None, task=TASK, budget=300, seed=0, hooks=None, evaluation=EVALUATION, more=None, **options):
    """The network, what `train` returned, what it recorded as (env_steps, values), and the first learner's states."""
    network, records, ends = network or small_network(envs.schemas(task)), [], []
    with pytest.MonkeyPatch.context() as patch:
        original = appo.TransferAPPOLearner.save
        patch.setattr(appo.TransferAPPOLearner, "save", lambda self: ends.append(copied(original(self))) or ends[-1])
        record = lambda n, values: records.append((n, dict(values)))  # noqa: E731
        given = network, task, algorithm(**options), budget, seed, record, evaluation, hooks or Hooks()
        result = train(TrainJob(*given, **(more or {})))
    return SimpleNamespace(network=network, result=result, records=records, ends=ends)


def copied(saved):
    return SavedState({name: tensor.clone() for name, tensor in saved.tensors.items()}, copy.deepcopy(saved.values))


def moved(after, before):
    return {name for name in after if not torch.equal(after[name], before[name])}


# The formulas


def some_steps(network, length=6, count=4, seed=0):
    """Steps of a player that was not the network: row 1 is truncated twice, row 2 terminates, row 3 is out of play."""
    rng = np.random.default_rng(seed)
    steps = Rollout.empty(length, np.zeros((count, 4), np.float32), network)
    steps.obs[:] = rng.normal(size=steps.obs.shape)
    steps.actions[:] = rng.integers(4, size=steps.actions.shape)
    steps.logp[:] = -rng.uniform(0.3, 2.5, steps.logp.shape)
    steps.rewards[:] = rng.normal(size=steps.rewards.shape)
    steps.acted[:] = True
    steps.dones[[1, 4], 1] = steps.dones[2, 2] = steps.dones[1, 3] = True
    steps.last[[1, 4], 1] = 0.7, -1.2
    steps.acted[2:4, 3] = False
    steps.rewards[2:4, 3] = 0.0
    return steps, rng.normal(size=(count, 4)).astype(np.float32)


def test_rows_by_hand():
    network = small_network(MATCH)
    steps, following = some_steps(network)
    steps.acted[:, 0] = False  # nobody was ever there
    found = trajectory_columns(steps, following, 0.9)
    assert {len(column) for column in found.values()} == {3 * 7}
    assert found["loss_mask"].reshape(3, 7).tolist() == [
        [True] * 6 + [False],
        [True] * 6 + [False],
        [True, True, False, False, True, True, False],
    ]
    np.testing.assert_array_equal(found["obs"].reshape(3, 7, 4)[:, 6], following[1:])
    np.testing.assert_array_equal(found["obs"].reshape(3, 7, 4)[1, :6], steps.obs[:, 2])
    expected = steps.rewards[:, 1] + 0.9 * np.array([0, 0.7, 0, 0, -1.2, 0], np.float32)
    np.testing.assert_allclose(found["rewards"].reshape(3, 7)[0], [*expected, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(found["rewards"].reshape(3, 7)[1, :6], steps.rewards[:, 2])
    assert (found["action_logp"] == IGNORED_LOGP).tolist() == (~found["loss_mask"]).tolist()
    assert np.flatnonzero(found["terminateds"].reshape(3, 7)[0]).tolist() == [1, 4]


def by_hand(network, old, steps, following, options):
    """The loss, with V-trace's returns by equation 1 of Espeholt et al. 2018 as it stands, a sum over later steps."""
    total, count, gamma = torch.zeros(()), 0, options.gamma
    for row in range(steps.rewards.shape[1]):
        obs = torch.as_tensor(np.concatenate([steps.obs[:, row], following[row : row + 1]]))
        outputs, taken = network(obs), torch.as_tensor(steps.actions[:, row])[:, None]
        logp = outputs.action.log_softmax(-1)[:-1]
        mine = logp.gather(1, taken)[:, 0]
        theirs, values = torch.as_tensor(steps.logp[:, row]), outputs.value
        aged = old(obs[:-1]).action.log_softmax(-1).gather(1, taken)[:, 0]
        rho = (aged - theirs).exp().clamp(max=options.rho).detach()
        c = (aged - theirs).exp().clamp(max=1.0).detach()
        held = values.detach()

        def value_after(t, row=row, held=held):
            return steps.last[t, row] if steps.dones[t, row] else held[t + 1]

        def traced(start, row=row, held=held, rho=rho, c=c, after=value_after):
            found, factor = held[start].clone(), 1.0
            for t in range(start, len(rho)):
                found += factor * rho[t] * (steps.rewards[t, row] + gamma * after(t) - held[t])
                if steps.dones[t, row]:
                    break
                factor = factor * gamma * c[t]
            return found

        for t in np.flatnonzero(steps.acted[:, row]):
            ended = steps.dones[t, row]
            after = value_after(t) if ended else traced(t + 1) if t + 1 < len(rho) else held[t + 1]
            gained = rho[t] * (steps.rewards[t, row] + gamma * after - held[t])
            ratio = (theirs[t] - aged[t]).exp().clamp(max=2.0).detach() * (mine[t] - theirs[t]).exp()
            clipped = ratio.clamp(1 - options.clip, 1 + options.clip)
            total = total - torch.minimum(gained * ratio, gained * clipped)
            total = total + options.value * 0.5 * (values[t] - traced(t)).square()
            total = total + options.entropy * (logp[t].exp() * logp[t]).sum()
            count += 1
    return total / count


def test_the_gradient_by_hand():
    """That of RLlib's loss, as the hook sees it, for a batch with every kind of end, from an older copy."""
    seen, network = [], small_network(MATCH)
    with torch.no_grad():
        network.policy.out.weight.mul_(100)
    options = algorithm(num_envs=4, num_steps=6, minibatch=24, epochs=1, gamma=0.9, value=0.7, entropy=0.03)
    hooks = Hooks(lambda grads, *_: seen.append({n: g.clone() for n, g in grads.items()}) or grads)
    made = build_algorithm(options, network, RunnerEnvConfig(TASK, MATCH.observation, 0, 1.0, 1), hooks, 3, Resources())
    try:
        learner = made.learner_group._learner
        with torch.no_grad():
            for parameter in learner.target_module.target.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        twin, old = copy.deepcopy(learner.network), copy.deepcopy(learner.target_module.target)
        steps, following = some_steps(network)
        columns = trajectory_columns(steps, following, options.gamma)
        batch = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, len(columns["obs"]))
        measured = learner.update(TrainingData(batch=batch), timesteps={}, num_epochs=1, minibatch_size=24)
    finally:
        made.stop()
    loss = by_hand(twin, old, steps, following, options)
    assert measured[DEFAULT_MODULE_ID]["total_loss"].peek() == pytest.approx(loss.item(), rel=1e-4)
    named = dict(twin.named_parameters())
    assert set(seen[0]) == set(named)
    for name, wanted in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
        torch.testing.assert_close(seen[0][name], wanted, rtol=1e-3, atol=1e-6)


def test_minibatches_are_whole_rows_of_each_epoch(monkeypatch):
    """3 rows of 5 steps and one more in a minibatch of 15 states; 8 rows make 3 minibatches."""
    sizes, seen = [], []

    def gradients(grads, network, batch):
        sizes.append(len(batch.observations))
        seen.append(batch.observations.reshape(-1, 6, 4))
        return grads

    trained(budget=1, hooks=Hooks(gradients), num_steps=5, minibatch=15)
    assert sizes == [18, 18, 12] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not torch.equal(first, second)
    assert sorted(map(str, first.tolist())) == sorted(map(str, second.tolist()))


def test_the_older_copy_is_renewed_when_it_is_due():
    """Batches of 128 env steps, a renewal after every second of them."""
    network = small_network(MATCH)
    before = weights(network)
    saved = trained(network, budget=384, evaluation=Evaluation(1, 8, 8), target_update=2).ends

    def old(state):
        return {name.removeprefix("old/"): t for name, t in state.tensors.items() if name.startswith("old/")}

    def mine(state):
        return {name.removeprefix("network/"): t for name, t in state.tensors.items() if name.startswith("network/")}

    assert [state.values["renewed"] for state in saved] == [0, 0, 256, 256]
    assert_same(old(saved[1]), before)
    assert moved(mine(saved[1]), before) == set(before)
    assert_same(old(saved[2]), mine(saved[2]))
    assert_same(old(saved[3]), mine(saved[2]))


# Hooks, and what stays


@pytest.mark.slow
def test_what_is_frozen_stays_bit_for_bit(monkeypatch):
    register_encoder(monkeypatch)
    network = PolicyNetwork(MATCH, NetworkConfig("norm", head=(8,)), 0)
    network.encoder.freeze(1)
    before = weights(network)
    after = weights(trained(network).network)
    still = {name for name in after if torch.equal(after[name], before[name])}
    assert still == {name for name in after if name.startswith("encoder.blocks.0.")}


@pytest.mark.slow
def test_frozen_blocks_that_run_once_per_batch_give_the_same():
    def run(hooks):
        network = small_network(MATCH)
        network.encoder.freeze(1)
        return weights(trained(network, hooks=hooks).network)

    once, always = run(None), run(Hooks(lambda grads, *_: grads))
    for name, tensor in always.items():
        torch.testing.assert_close(once[name], tensor, rtol=1e-4, atol=1e-5)


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
    assert seen == [(2 * 17, 2 * 17, names)] * 24
    assert [n for n, values in run.records if "x/y" in values] == [0, 256, 384]


@pytest.mark.slow
def test_rates_reach_the_optimiser():
    still = dict.fromkeys((n for n, _ in small_network(MATCH).encoder.named_parameters(prefix="encoder")), 0.0)
    network = small_network(MATCH)
    before = weights(network)
    after = weights(trained(network, hooks=Hooks(rates=still)).network)
    assert {n for n in after if torch.equal(after[n], before[n])} == set(still)


@pytest.mark.slow
def test_a_schedule_can_thaw():
    def schedule(network, progress):
        network.encoder.freeze(0 if progress > 0.5 else 2)

    network = small_network(MATCH)
    network.encoder.freeze(2)
    before = weights(network)
    after = weights(trained(network, hooks=Hooks(schedule=schedule)).network)
    assert not any(torch.equal(after[n], before[n]) for n in after)


def test_a_loss_that_is_not_finite_is_unstable():
    with pytest.raises(Unstable, match="smaller learning rate"):
        trained(task=Task("tiny/Match-v0", {"reward": math.nan}), budget=256)


# The whole of `train`


@pytest.mark.slow
def test_same_seed_same_weights_bit_for_bit_however_often_it_is_evaluated():
    first, again, other = trained(seed=5), trained(seed=5, evaluation=Evaluation(1, 8, 8)), trained(seed=6)
    assert_same(weights(first.network), weights(again.network))
    assert not torch.equal(first.network.policy.out.weight, other.network.policy.out.weight)


def test_metrics_and_their_env_steps():
    run = trained()

    def recorded(tag):
        return {n: values[tag] for n, values in run.records if tag in values}

    assert list(recorded("eval/return_mean")) == [0, 256, 384]
    assert recorded("rollout/length_mean") == {128: 8, 256: 8, 384: 8}
    for tag in ("loss", "entropy", "value_loss", "policy_gradient_loss", "importance"):
        assert list(recorded(f"train/{tag}")) == [128, 256, 384]
        assert all(map(math.isfinite, recorded(f"train/{tag}").values()))
    assert run.result.env_steps == 384


@pytest.mark.slow
@pytest.mark.parametrize(("task", "least", "most"), [(TASK, 8 * 0.5, 8 * 0.9), (REACH, -10 / 3, -1.3)], ids=str)
def test_tiny_tasks_are_learned(task, least, most):
    run = trained(task=task, budget=4000, learning_rate=0.01, epochs=4, evaluation=Evaluation(every=10_000))
    assert run.records[0][1]["eval/return_mean"] < least
    assert np.mean(run.result.final_returns) > most


def test_rows_out_of_play_are_not_learned_from():
    seen = []

    def gradients(grads, network, batch):
        seen.append(batch.observations)
        return grads

    task = Task("Graft/Pursuit-v0", {"team": "prey"})
    run = trained(task=task, num_envs=32, num_steps=8, minibatch=256, epochs=1, budget=1500, hooks=Hooks(gradients))
    assert run.result.env_steps == 1536
    assert len(seen) == 6
    assert min(len(batch) for batch in seen) < 32 * 9, "rows that were out of play all the time are left out"
    assert all(math.isfinite(values["train/loss"]) for _, values in run.records if "train/loss" in values)


@pytest.mark.slow
def test_a_stopped_training_ends_as_if_it_had_not_been(tmp_path):
    class Stopped(Exception):
        pass

    def record(env_steps, values):
        if env_steps >= 512 and "train/loss" in values:
            raise Stopped

    options = {"task": GATHER, "budget": 1024, "evaluation": Evaluation(256, 8, 8), "target_update": 3}
    whole, kept = trained(**options), Snapshots(tmp_path, env_steps=128)
    given = GATHER, algorithm(target_update=3), 1024, 0, record, options["evaluation"]
    with pytest.raises(Stopped):
        train(TrainJob(small_network(envs.schemas(GATHER)), *given, snapshots=kept))
    assert kept.latest().env_steps == 384
    run = trained(**options, more={"snapshots": kept})
    assert run.records[0][0] == 512
    assert_same(weights(run.network), weights(whole.network))
    assert_same(dict(run.ends[-1].tensors), dict(whole.ends[-1].tensors))
    assert run.result.final_returns == whole.result.final_returns
    late = [(n, {k: v for k, v in values.items() if k[:4] != "time"}) for n, values in run.records]
    early = [(n, {k: v for k, v in values.items() if k[:4] != "time"}) for n, values in whole.records]
    assert late == early[-len(late) :]


# Runners that don't wait


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_runners_of_their_own_play_on(monkeypatch, count):
    """Counters, records and episodes are as without; which fragments meet is left to time."""
    asked, ask = [], appo.TransferAPPO._request
    monkeypatch.setattr(appo.TransferAPPO, "_request", lambda self, which: asked.append(which) or ask(self, which))
    network = small_network(envs.schemas(GATHER))
    before = weights(network)
    run = trained(network, GATHER, 600, more={"resources": Resources(num_env_runners=count)})
    assert 600 <= run.result.env_steps < 600 + 2 * 128
    assert asked[0] == [*range(1, count + 1)]
    assert len(asked) > 4
    assert all(len(which) == 1 for which in asked[1:])
    assert moved(weights(network), before) == set(before)
    played = [n for n, values in run.records if "train/loss" in values]
    assert played == sorted(set(played))
    assert played[-1] == run.result.env_steps


@pytest.mark.slow
def test_what_a_runner_raises_is_raised_here():
    task = Task("support.failing_env:FailsSoon-v0", {"faults": {"limit": 1}})
    network = PolicyNetwork(envs.schemas(task), small_config(envs.schemas(task).observation.kind), 0)
    with pytest.raises(TooManyFaults, match="a bug") as caught:
        trained(network, task, more={"resources": Resources(num_env_runners=1)})
    assert caught.value.faults["raised"] > 1


@pytest.mark.slow
def test_two_learners_stay_equal_to_the_bit(monkeypatch):
    from graft.agents.rllib.remote_training import RemoteTraining

    ends, original = [], RemoteTraining.fetch

    def fetch(self):
        ends[:] = self.learners(lambda learner: learner.save())
        return original(self)

    monkeypatch.setattr(RemoteTraining, "fetch", fetch)
    network = PolicyNetwork(envs.schemas(GATHER), small_config(envs.schemas(GATHER).observation.kind), 0)
    before = weights(network)
    plan, resources = Evaluation(10_000, 8, 8), Resources(num_learners=2, num_env_runners=2)
    train(TrainJob(network, GATHER, algorithm(), 512, 0, lambda *_: None, plan, resources=resources))
    first, second = ends
    assert_same(dict(first.tensors), dict(second.tensors))
    assert moved(weights(network), before) == set(before)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(GraftError, match="evenly among 3"):
        trained(more={"resources": Resources(num_env_runners=3)})
