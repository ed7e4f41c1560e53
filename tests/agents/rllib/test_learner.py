"""Several learners and runners, each in a process of its own: what they share, and that the learners stay alike."""

from __future__ import annotations

import pickle
import time

import pytest
import torch
from support.tiny_tasks import assert_same, small_config, weights

from graft import envs
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.snapshot import SavedState, Snapshots
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.rllib import ALGORITHMS, train
from graft.agents.rllib.algorithms.ppo import TransferPPO
from graft.agents.rllib.module import NetworkReference
from graft.agents.rllib.remote_training import RemoteTraining
from graft.agents.training.backend import Evaluation, Hooks, Resources, TrainJob, Unstable
from graft.envs.core.faults import TooManyFaults
from graft.envs.core.task import Task
from graft.transfer.method import parse_method

pytestmark = [
    pytest.mark.usefixtures("one_ray"),
    # Ray's groups of learners load its data library, which warns of settings that nobody has set.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]

SOURCE, TARGET = Task("Graft/Gather-v0"), Task("Graft/Gather-v0", {"slip": 0.3})
OPTIONS = {"num_envs": 8, "num_steps": 16, "minibatch": 64, "epochs": 2}


class Running:
    """A method and what it remembers, as the stages of experiments thread it through."""

    def __init__(self, method, network, source):
        self.method, self.state = method, method.init(network, source)

    def gradients(self, grads, network, batch):
        changed, self.state, _ = self.method.gradients(grads, network, self.state, batch)
        return changed

    def schedule(self, network, progress):
        self.state = self.method.schedule(network, self.state, progress)

    def save(self):
        return SavedState(self.state, {})

    def restore(self, saved):
        self.state = dict(saved.tensors)

    def hooks(self, network):
        used = {name: getattr(self, name) for name in ("gradients", "schedule") if self.method.overrides(name)}
        return Hooks(**used, rates=self.method.rates(network, self.state), state=self)


def fresh(task=SOURCE, **options):
    schemas = envs.schemas(task)
    return PolicyNetwork(schemas, small_config(schemas.observation.kind, **options), 0)


def learn(network, task=TARGET, hooks=None, budget=256, **resources):
    """The result, the network after each evaluation, and every learner's weights in the end."""
    seen, ends = [], []
    original = RemoteTraining.fetch

    def fetch(self):
        ends[:] = self.learners(lambda learner: learner.save())
        return original(self)

    plan = Evaluation(every=10_000, episodes=8, num_envs=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteTraining, "fetch", fetch)
        algorithm = ALGORITHMS["ppo"](**OPTIONS)
        record = lambda n, values: seen.append((n, values))  # noqa: E731
        train(
            TrainJob(
                network, task, algorithm, budget, 0, record, plan, hooks or Hooks(), resources=Resources(**resources)
            )
        )
    return ends


@pytest.mark.slow
def test_a_runner_of_its_own_gives_the_same_as_none():
    here, there = fresh(), fresh()
    learn(here), learn(there, num_env_runners=1)
    assert_same(weights(here), weights(there))
    assert not torch.equal(weights(here)["policy.out.weight"], weights(fresh())["policy.out.weight"])


@pytest.mark.slow
def test_two_runners_share_the_environments():
    network = fresh()
    before = weights(network)
    learn(network, num_env_runners=2)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in weights(network).items())


@pytest.fixture(scope="module")
def consolidated():
    """A source, as each method leaves it, by the method's entry in a config."""
    source = Checkpoint.of(fresh(), SOURCE)

    def of(entry):
        from graft.agents.training.rollouts import collect
        from graft.transfer.method import PART, TaskPosition

        method = parse_method(entry)
        if not method.overrides("consolidate"):
            return method, source
        env = envs.make(SOURCE, 16, 0)
        network = source.build()
        states, generator = max(64, min(method.states, 256)), torch.Generator().manual_seed(0)
        rollouts = collect(network, env, states, generator, method.unroll_states)
        env.close()
        network, state = method.consolidate(network, {}, rollouts, TaskPosition(0, 2))
        return method, Checkpoint.of(network, SOURCE, parts={PART: state})

    return of


METHODS = [
    pytest.param({"ewc": {}}, marks=pytest.mark.slow),
    pytest.param({"progressive": {}}, marks=pytest.mark.slow),
    pytest.param({"frozen": {}}, marks=pytest.mark.slow),
    pytest.param({"kickstart": {}}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("entry", METHODS, ids=str)
def test_two_learners_stay_equal_to_the_bit(entry, consolidated):
    method, source = consolidated(entry)
    network, _ = method.build(source, envs.schemas(TARGET), source.network, 1)
    before = weights(network)
    running = Running(method, network, source)
    first, second = learn(network, hooks=running.hooks(network), num_learners=2)
    assert_same(dict(first.tensors), dict(second.tensors))
    assert first.values == second.values
    after = weights(network)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    trains = {name for name, p in network.named_parameters() if p.requires_grad}
    assert moved == trains
    assert trains, "something learns"
    if not method.overrides("gradients"):
        assert len(trains) < len(before)


def jumps(network, progress):
    """A schedule that trains by itself, on what the other learner does not have."""
    with torch.no_grad():
        network.policy.out.bias.fill_(10.0 + torch.distributed.get_rank())


@pytest.mark.slow
def test_after_a_schedule_two_learners_have_the_firsts_weights():
    first, second = learn(fresh(), hooks=Hooks(schedule=jumps), budget=1, num_learners=2)
    assert_same(dict(first.tensors), dict(second.tensors))
    (bias,) = (t for name, t in first.tensors.items() if name == "network/policy.out.bias")
    torch.testing.assert_close(bias, torch.full_like(bias, 10.0), rtol=0, atol=0.1)


class Kept:
    """Keeps the first gradients it sees, and goes to other processes and back."""

    def __init__(self):
        self.first = {}

    def __call__(self, grads, network, batch):
        self.first = self.first or {name: grad.clone() for name, grad in grads.items()}
        return grads

    def save(self):
        return SavedState(self.first, {})

    def restore(self, saved):
        self.first = dict(saved.tensors)


@pytest.mark.slow
def test_two_learners_learn_what_one_does(monkeypatch):
    """The mean over two halves of a minibatch is the mean over the minibatch."""
    monkeypatch.setitem(OPTIONS, "minibatch", 128)
    monkeypatch.setitem(OPTIONS, "epochs", 1)
    one, two = Kept(), Kept()
    for count, kept in {0: one, 2: two}.items():
        learn(fresh(), hooks=Hooks(gradients=kept, state=kept), budget=1, num_learners=count)
    assert one.first.keys() == two.first.keys() != set()
    for name, grad in one.first.items():
        torch.testing.assert_close(two.first[name], grad, rtol=1e-3, atol=1e-5)


class Diverges:
    """A method that fails in one learner alone, at its third minibatch."""

    def __init__(self, which):
        self.which, self.seen = which, 0

    def __call__(self, grads, network, batch):
        self.seen += 1
        if self.seen == 3 and torch.distributed.get_rank() == self.which:
            raise Unstable("not finite any more")
        return grads


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_what_one_of_several_learners_fails_with_is_raised_at_once(which):
    start = time.monotonic()
    with pytest.raises(Unstable, match="not finite any more"):
        learn(fresh(), hooks=Hooks(gradients=Diverges(which)), num_learners=2)
    assert time.monotonic() - start < 120


@pytest.mark.slow
def test_statistics_are_those_of_all_learners():
    task = Task("CartPole-v1")
    network = fresh(task, normalise=True)
    first, second = learn(network, task, budget=128, num_learners=2)
    assert_same(dict(first.tensors), dict(second.tensors))
    counts = [t for name, t in weights(network).items() if name.endswith("running_count")]
    assert [float(count[0]) for count in counts] == [2 * 128.0]


class Stopped(Exception):
    """In the middle of a training."""


@pytest.mark.slow
def test_a_stopped_training_goes_on_in_all_of_its_processes(tmp_path):
    plan, resources = Evaluation(every=10_000, episodes=8, num_envs=8), Resources(num_env_runners=2, num_learners=2)

    def run(network, record=lambda *_: None, snapshots=None):
        algorithm = ALGORITHMS["ppo"](**OPTIONS)
        return train(
            TrainJob(network, SOURCE, algorithm, 512, 0, record, plan, snapshots=snapshots, resources=resources)
        )

    def stop(env_steps, values):
        if env_steps >= 384 and "train/loss" in values:
            raise Stopped

    kept, whole, parts = Snapshots(tmp_path, env_steps=128), fresh(), fresh()
    run(whole)
    with pytest.raises(Stopped):
        run(fresh(), stop, kept)
    assert kept.latest().env_steps == 256
    run(parts, snapshots=kept)
    assert_same(weights(parts), weights(whole))


def shifted(network, progress):
    """A schedule that changes weights by itself."""
    with torch.no_grad():
        network.value.out.bias += 1.0


def bias(part):
    """Of a runner or a learner."""
    network = part.module.network if hasattr(part, "sample") else part.network
    return network.value.out.bias.item()


@pytest.mark.slow
def test_what_a_schedule_changes_reaches_the_runners_before_they_play(monkeypatch):
    seen = []
    original = TransferPPO.training_step

    def step(self):
        learners = [result.get() for result in self.learner_group.foreach_learner(bias)]
        seen.append({*self.env_runner_group.foreach_env_runner(bias), *learners})
        original(self)

    monkeypatch.setattr(TransferPPO, "training_step", step)
    learn(fresh(), hooks=Hooks(schedule=shifted), num_env_runners=1)
    assert len(seen) == 2
    assert all(len(biases) == 1 for biases in seen), seen


@pytest.mark.slow
def test_what_a_runner_raises_is_raised_here():
    task = Task("support.failing_env:FailsSoon-v0", {"faults": {"limit": 1}})
    with pytest.raises(TooManyFaults, match="a bug") as caught:
        learn(fresh(task), task, num_env_runners=1)
    assert caught.value.faults["raised"] > 1


def test_networks_whose_layers_are_parametrised_get_to_other_processes(consolidated):
    method, source = consolidated({"lora": {}})
    network, _ = method.build(source, envs.schemas(TARGET), source.network, 1)
    before = weights(network)
    copied = pickle.loads(pickle.dumps(NetworkReference(network))).value
    assert_same(weights(copied), before)
    named = dict(network.named_parameters())
    assert {n: p.requires_grad for n, p in copied.named_parameters()} == {n: p.requires_grad for n, p in named.items()}
    obs = torch.randint(0, 2, (8, *network.schemas.observation.shape), dtype=torch.uint8)
    assert torch.equal(copied(obs).action, network(obs).action)
    learn(network)
    after = weights(network)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name, parameter in named.items() if parameter.requires_grad}
