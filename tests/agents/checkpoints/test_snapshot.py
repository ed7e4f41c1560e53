"""Training that is stopped anywhere and goes on from its snapshot ends like training that was never stopped."""

from __future__ import annotations

import errno
import json
import random
import uuid
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.savable_reach import SavableAdapter, SeededAdapter
from support.tiny_tasks import REACH, ClockEnv, NormEncoder, TinyTaskAdapter, scrambled, small_network

from graft import envs
from graft.agents.checkpoints.checkpoint import sealed
from graft.agents.checkpoints.snapshot import SavedState, Snapshot, Snapshots
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig
from graft.agents.sb3 import ALGORITHMS, backend, train
from graft.agents.sb3.learner_state import SavableLearner
from graft.agents.training.algorithm import architecture_for
from graft.agents.training.backend import Evaluation, Hooks, TrainJob
from graft.envs.adapters.mixture import mixture
from graft.envs.core.faults import Faults
from graft.envs.core.task import Task
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError

DODGE = Task("Graft/Dodge-v0", {"slip": 0.2})
BUDGET = 600
EVALUATION = Evaluation(every=200, episodes=8, num_envs=8)
PPO = ALGORITHMS["ppo"](num_envs=8, num_steps=16, minibatch=32, epochs=2)
REPLAY = {"num_envs": 4, "buffer": 480, "batch": 16, "learning_starts": 100, "train_freq": 4, "gradient_steps": 2}
CLOCK = ("start_time", "_num_timesteps_at_start")


class Stop(Exception):
    """As sudden as a kill, for whoever trains."""


class Trainer:
    """A caller of `train` that can be stopped at a metric; it keeps records, and the state of a method."""

    def __init__(self, folder, algorithm=PPO, task=DODGE, network=None, hooks=None, **plan):
        self.algorithm, self.task, self.hooks = algorithm, task, hooks
        self.network = network or (lambda: small_network(envs.schemas(task)))
        self.plan = {"folder": folder, "seconds": 1e9, "env_steps": 1, **plan}
        self.kept = []

    def run(self, monkeypatch, stop_at=None, snapshots=True, spoil=False):
        """Train until the budget; or until the record ``stop_at``, which gives None.

        ``spoil`` starts from other weights, which a snapshot must replace.
        """
        self.records, self.resumed_at = [], None
        self.state = {"calls": torch.zeros((), dtype=torch.int64)}
        learners = []
        make = type(self.algorithm).learner
        with monkeypatch.context() as patch:
            patch.setattr(type(self.algorithm), "learner", lambda *a: learners.append(make(*a)) or learners[0])
            network = scrambled(self.network(), 9) if spoil else self.network()
            try:
                result = train(
                    TrainJob(
                        network,
                        self.task,
                        self.algorithm,
                        BUDGET,
                        5,
                        lambda env_steps, values: self._record(stop_at, env_steps, values),
                        EVALUATION,
                        self.hooks(self) if self.hooks else Hooks(),
                        "cpu",
                        self.snapshots() if snapshots else None,
                    )
                )
            except Stop:
                self.kept = self.records
                return None
        return SimpleNamespace(result=result, learner=learners[0], records=self.records, state=self.state)

    def snapshots(self):
        return Snapshots(**self.plan, save=self._save, restore=self._restore)

    def _record(self, stop_at, env_steps, values):
        if len(self.records) == stop_at:
            raise Stop
        self.records.append((env_steps, {tag: v for tag, v in values.items() if not tag.startswith("time/")}))

    def _save(self):
        return SavedState(self.state, {"records": len(self.records)})

    def _restore(self, saved, env_steps):
        self.state, self.resumed_at = dict(saved.tensors), env_steps
        self.records = self.kept[: saved.values["records"]]


def assert_equal_runs(run, reference):
    """Bit-equal learners, records and results."""
    mine, theirs = SavableLearner(run.learner).save(), SavableLearner(reference.learner).save()
    assert mine.tensors.keys() == theirs.tensors.keys()
    assert [n for n in mine.tensors if not torch.equal(mine.tensors[n], theirs.tensors[n])] == []
    for saved in (mine, theirs):
        for name in CLOCK:
            del saved.values["numbers"][name]
        for episode in saved.values["episodes"]:
            episode["t"] = 0
    assert mine.values == theirs.values
    assert [json.dumps(record) for record in run.records] == [json.dumps(record) for record in reference.records]
    assert run.result.final_returns == reference.result.final_returns
    assert run.result.env_steps == reference.result.env_steps
    assert run.state.keys() == reference.state.keys()
    assert all(torch.equal(run.state[n], reference.state[n]) for n in run.state)


def disturb():
    """What a process does to random numbers before it goes on with a training."""
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)


def compare(trainer, monkeypatch, stops, spoil=True):
    """Stop at each of ``stops`` records, go on, and compare with a run without snapshots."""
    reference = trainer.run(monkeypatch, snapshots=False)
    resumed = []
    for stop in stops:
        assert trainer.run(monkeypatch, stop_at=stop) is None
        disturb()
        found = trainer.snapshots().latest()
        run = trainer.run(monkeypatch, spoil=spoil and found is not None)
        assert_equal_runs(run, reference)
        assert trainer.resumed_at == (found.env_steps if found else None)
        resumed.append(trainer.resumed_at)
        for path in trainer.plan["folder"].glob("*"):
            path.unlink()
    return reference, resumed


@pytest.mark.slow
def test_stopped_at_any_metric_it_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    # 5 rollouts of 128 env steps. Records: evaluations at 0, 256, 512 and 640; and for each rollout its episodes, and
    # its update's losses, which come at the next rollout's start, after the snapshot.
    reference, resumed = compare(Trainer(tmp_path / "s"), monkeypatch, [1, 2, 5, 6, 13])
    assert len(reference.records) == 14
    assert resumed == [None, 128, 256, 256, 512]


@pytest.mark.slow
def test_a_mixture_goes_on_in_all_of_its_tasks(tmp_path, monkeypatch):
    trainer = Trainer(tmp_path / "s", task=mixture([DODGE, "Graft/Shoot-v0"], show_task=True))
    reference, resumed = compare(trainer, monkeypatch, [5, 13])
    assert "rollout/return_mean/Dodge(slip=0.2)" in reference.records[-2][1] | reference.records[-3][1]
    assert resumed == [256, 512]


@pytest.mark.parametrize(
    "task",
    [
        Task("Graft/Pursuit-v0", {"team": "prey", "prey": [1, 3], "max_steps": 20}),
        pytest.param(
            Task("Graft/TeamGather-v0", {"team": "all", "reds": [1, 2], "blues": 2, "max_steps": 10}),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_squads_go_on_with_who_is_in_play(task, tmp_path, monkeypatch):
    assert compare(Trainer(tmp_path / "s", task=task), monkeypatch, [6, 13])[1] == [256, 512]


def noisy(trainer):
    """Gradients with noise whose seed is counted in the method's state."""

    def gradients(grads, network, batch):
        generator = torch.Generator().manual_seed(int(trainer.state["calls"]))
        trainer.state = {"calls": trainer.state["calls"] + 1}
        return {name: g + 0.1 * torch.randn(g.shape, generator=generator) for name, g in grads.items()}

    return Hooks(gradients=gradients, rates={"policy.out.weight": 0.5, "value.out.bias": 0.0})


def test_the_state_of_a_method_goes_on_with_it(tmp_path, monkeypatch):
    reference, _ = compare(Trainer(tmp_path / "s", hooks=noisy), monkeypatch, [6])
    assert int(reference.state["calls"]) == 5 * 8


def frozen(depth):
    network = small_network(envs.schemas(DODGE))
    network.encoder.freeze(depth)
    return network


@pytest.mark.parametrize("depth", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_frozen_blocks_stay_frozen(tmp_path, monkeypatch, depth):
    compare(Trainer(tmp_path / "s", network=lambda: frozen(depth)), monkeypatch, [6], spoil=False)


def thawing(trainer):
    """Freezes all at the start, and thaws once, when 0.4 of the budget has been spent."""

    def schedule(network, progress):
        if progress == 0:
            network.encoder.freeze()
        if progress > 0.4 and "thawed" not in trainer.state:
            trainer.state = {**trainer.state, "thawed": torch.tensor(1)}
            network.encoder.freeze(1)

    return Hooks(schedule=schedule)


@pytest.mark.parametrize("stop", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 11))])
def test_what_a_schedule_froze_or_thawed_goes_on(tmp_path, monkeypatch, stop):
    compare(Trainer(tmp_path / "s", hooks=thawing), monkeypatch, [stop])


@pytest.mark.parametrize("depth", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_running_statistics_go_on(tmp_path, monkeypatch, depth):
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)

    def network():
        made = small_network(envs.schemas(DODGE)).__class__(envs.schemas(DODGE), NetworkConfig("norm", head=(8,)), 0)
        made.encoder.freeze(depth)
        return made

    compare(Trainer(tmp_path / "s", network=network), monkeypatch, [6], spoil=False)


@pytest.fixture
def savable_reach(monkeypatch):
    list(ADAPTERS)
    monkeypatch.setitem(ADAPTERS._entries, "tiny", SavableAdapter())


def network_for(algorithm, task):
    plain = small_network(envs.schemas(task))
    return lambda: type(plain)(plain.schemas, architecture_for(algorithm, plain.config), 0)


@pytest.mark.parametrize(("buffer", "stops"), [(480, [3, 40]), pytest.param(100_000, [25], marks=pytest.mark.slow)])
def test_dqn_goes_on_with_its_target_network_and_replay_buffer(tmp_path, monkeypatch, buffer, stops):
    algorithm = ALGORITHMS["dqn"](**{**REPLAY, "buffer": buffer}, target_update=50, exploration_fraction=0.8)
    trainer = Trainer(tmp_path / "s", algorithm, network=network_for(algorithm, DODGE), hooks=noisy)
    _, resumed = compare(trainer, monkeypatch, stops)
    assert all(resumed)
    assert len(set(resumed)) == len(stops)


@pytest.mark.usefixtures("savable_reach")
@pytest.mark.parametrize(
    ("encoder", "stops"), [("separate", [40]), pytest.param("shared", [3, 40], marks=pytest.mark.slow)]
)
def test_sac_goes_on_with_its_critics_and_entropy_coefficient(tmp_path, monkeypatch, encoder, stops):
    algorithm = ALGORITHMS["sac"](**REPLAY, encoder=encoder, critic=(16,))
    trainer = Trainer(tmp_path / "s", algorithm, REACH, network_for(algorithm, REACH), noisy)
    _, resumed = compare(trainer, monkeypatch, stops)
    assert all(resumed)


def offer(monkeypatch, adapter):
    list(ADAPTERS)
    monkeypatch.setitem(ADAPTERS._entries, "tiny", adapter)


def stopped_and_resumed(trainer, monkeypatch, stop):
    """The run that goes on, with what its learner held just before its fresh episodes, and the snapshot.

    Where episodes have one length, fresh ones are played to where the old ones were.
    """
    assert trainer.run(monkeypatch, stop_at=stop) is None
    disturb()
    found, held = trainer.snapshots().latest(), []
    begin = backend._begin_episodes

    def watched(learner, env, *given):
        held.append({name: tensor.clone() for name, tensor in SavableLearner(learner).save().tensors.items()})
        before = env.lengths.copy()
        begin(learner, env, *given)
        np.testing.assert_array_equal(env.lengths, before)
        np.testing.assert_array_equal(learner._last_episode_starts, before == 0)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_begin_episodes", watched)
        run = trainer.run(monkeypatch, spoil=True)
    for path in trainer.plan["folder"].glob("*"):
        path.unlink()
    return run, held, found


@pytest.mark.parametrize(("name", "stop"), [("ppo", 8), pytest.param("sac", 40, marks=pytest.mark.slow)])
def test_where_environments_cannot_be_saved_all_else_goes_on_with_fresh_episodes(tmp_path, monkeypatch, name, stop):
    offer(monkeypatch, SeededAdapter())
    algorithm = PPO if name == "ppo" else ALGORITHMS["sac"](**REPLAY, critic=(16,))
    trainer = Trainer(tmp_path / "s", algorithm, REACH, network_for(algorithm, REACH), noisy, env_steps=100)
    reference = trainer.run(monkeypatch, snapshots=False)
    run, (held,), found = stopped_and_resumed(trainer, monkeypatch, stop)
    theirs = found.parts["learner"].tensors
    assert held.keys() == theirs.keys()
    assert [n for n in held if not torch.equal(held[n], theirs[n])] == []
    at = found.env_steps
    assert run.result.fresh_at == (at,)
    assert reference.result.fresh_at == ()
    assert run.result.env_steps == reference.result.env_steps
    early = [record for record in run.records if record[0] < at]
    assert early
    assert early == [record for record in reference.records if record[0] < at]
    assert len(run.records) == len(reference.records)
    assert run.records != reference.records, "episodes that nobody could save went on"
    again, _, _ = stopped_and_resumed(trainer, monkeypatch, stop)
    assert_equal_runs(again, run)


class FaultyClock(ClockEnv):
    """Episodes of 7 steps; fails once, in its third step."""

    def __init__(self, num_envs):
        super().__init__([7] * num_envs)
        self._faults = Faults()

    @property
    def faults(self):
        return self._faults

    def step(self, actions):
        if len(self.played) == 2:
            self._faults.add("raised", "it failed")
        return super().step(actions)


class ClockAdapter(TinyTaskAdapter):
    def make(self, task, options):
        return FaultyClock(options.num_envs)


@pytest.mark.parametrize("name", ["ppo", pytest.param("dqn", marks=pytest.mark.slow)])
def test_no_episode_goes_on_across_the_gap_and_faults_are_those_of_both_parts(tmp_path, monkeypatch, name):
    offer(monkeypatch, ClockAdapter())
    task = Task("tiny/Clock-v0")
    algorithm = PPO if name == "ppo" else ALGORITHMS["dqn"](**{**REPLAY, "buffer": 100_000})
    trainer = Trainer(tmp_path / "s", algorithm, task, network_for(algorithm, task), env_steps=64)
    run, _, found = stopped_and_resumed(trainer, monkeypatch, 12)
    each = found.env_steps // algorithm.num_envs
    assert each % 7, "it was stopped between two episodes"
    assert {episode["l"] for episode in run.learner.ep_info_buffer} == {7}
    assert {values["rollout/length_mean"] for _, values in run.records if "rollout/length_mean" in values} == {7.0}
    counts = [values["env/faults"] for _, values in run.records if "env/faults" in values]
    assert (counts, counts[-1]) == (sorted(counts), 4)
    assert run.result.faults == {"raised": 4}
    if name == "dqn":
        buffer = run.learner.replay_buffer
        times, following = (a[: buffer.size(), :, 1] for a in (buffer.observations, buffer.next_observations))
        assert np.array_equal(following, times + 1), "a transition leads from one episode to another"
        assert np.all(times[each - 1] == each % 7 - 1)
        assert np.all(times[each] == each % 7)
        ended = buffer.dones[: buffer.size()].astype(bool)
        assert np.array_equal(ended, times == 6)


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A trainer that left a snapshot at 256 env steps."""
    trainer = Trainer(tmp_path / "s", identity={"stage": "a", "versions": {"torch": "1"}})
    trainer.run(monkeypatch, stop_at=6)
    return trainer


def test_seconds_are_those_of_all_runs(stopped, monkeypatch):
    found = stopped.snapshots().latest()
    assert found.env_steps == 256
    assert found.seconds > 0
    longer = Snapshot(found.env_steps, 1000.0, found.parts)
    longer.write(stopped.plan["folder"], stopped.plan["identity"])
    assert 1000 < stopped.run(monkeypatch).result.seconds < 1100


@pytest.mark.parametrize("identity", [{}, {"stage": "b", "versions": {"torch": "1"}}, {"stage": "a", "versions": {}}])
def test_a_snapshot_of_something_else_is_ignored(stopped, identity):
    folder = stopped.plan["folder"]
    assert Snapshots(folder, stopped.plan["identity"]).latest() is not None
    assert Snapshots(folder, identity).latest() is None


@pytest.mark.parametrize("pattern", ["*.json", "*.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered", "empty"])
def test_a_damaged_snapshot_is_ignored(stopped, pattern, damage):
    (path,) = stopped.plan["folder"].glob(pattern)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "missing": path.unlink,
        "truncated": lambda: path.write_bytes(data[: len(data) // 3]),
        "altered": lambda: path.write_bytes(data),
        "empty": lambda: path.write_bytes(b""),
    }[damage]()
    assert stopped.snapshots().latest() is None


def test_one_that_does_not_fit_is_removed_and_an_error(stopped, monkeypatch):
    stopped.network = lambda: small_network(envs.schemas(DODGE), features=8)
    with pytest.raises(GraftError, match="does not fit"):
        stopped.run(monkeypatch)
    stopped.run(monkeypatch)
    assert stopped.resumed_at is None


@pytest.mark.parametrize("fault", [TypeError, AttributeError, IndexError, torch.OutOfMemoryError])
def test_a_fault_of_a_restore_leaves_the_snapshot(stopped, monkeypatch, fault):
    def restore(*_):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(SavableLearner, "restore", restore)
        with pytest.raises(fault):
            stopped.run(monkeypatch)
    assert stopped.snapshots().latest().env_steps == 256


def test_a_snapshot_for_a_device_that_is_missing_is_kept_and_an_error(tmp_path, monkeypatch):
    Snapshot(8, 1.0, {"a": SavedState({"x": torch.ones(3)}, {})}).write(tmp_path / "s", {})
    path = tmp_path / "s" / "snapshot.json"
    path.write_bytes(sealed({**json.loads(path.read_bytes()), "devices": {"a/x": "cuda:99"}})[1])
    with pytest.raises(GraftError, match=r"does not fit on cuda:99 \(.*remove the snapshot to start again"):
        Snapshot.read(tmp_path / "s", {})
    path.write_bytes(sealed({**json.loads(path.read_bytes()), "devices": {"a/x": "nothing"}})[1])
    assert Snapshot.read(tmp_path / "s", {}) is None


def test_a_snapshot_that_the_machine_cannot_read_is_not_damaged(stopped, monkeypatch):
    def fails(path):
        raise OSError(errno.EIO, "it is the disk", str(path))

    monkeypatch.setattr("graft.agents.checkpoints.snapshot.read_file", fails)
    with pytest.raises(OSError, match="it is the disk"):
        stopped.snapshots().latest()


def test_a_kill_while_a_snapshot_is_written_leaves_the_one_before(stopped, monkeypatch):
    before = stopped.snapshots().latest()
    for name in ("write_durably", "replace_file"):
        with monkeypatch.context() as patch:
            patch.setattr(
                f"graft.agents.checkpoints.snapshot.{name}",
                lambda path, data: path.with_suffix(".tmp").touch() or 1 / 0,
            )
            with pytest.raises(ZeroDivisionError):
                stopped.run(monkeypatch)
        assert stopped.snapshots().latest().env_steps == before.env_steps
    stopped.run(monkeypatch)
    assert len(list(stopped.plan["folder"].iterdir())) == 2, "what the kills left is still there"


def test_the_plan_says_how_often(tmp_path, monkeypatch):
    taken = []
    original = Snapshot.write
    monkeypatch.setattr(Snapshot, "write", lambda self, *a: taken.append(self.env_steps) or original(self, *a))

    def steps(**plan):
        taken.clear()
        trainer = Trainer(tmp_path / uuid.uuid4().hex, **plan)
        trainer.run(monkeypatch)
        return list(taken)

    assert steps() == [128, 256, 384, 512]
    assert steps(env_steps=200) == [256, 512]
    assert steps(env_steps=None) == []
    monkeypatch.setattr("graft.agents.checkpoints.snapshotter.LARGEST_SHARE", 1e9)
    assert steps(env_steps=None, seconds=0) == [128, 256, 384, 512]
    monkeypatch.setattr("graft.agents.checkpoints.snapshotter.LARGEST_SHARE", 1e-9)
    assert steps(env_steps=None, seconds=0) == [128], "the second would have taken too large a share of the time"
