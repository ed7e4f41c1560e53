"""The Ray launcher on clusters of this machine: nodes that die, drivers that die, and what nobody may leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import processes_of, ray_folder, wait_until
from support.stage_outcomes import assert_same_outcomes
from support.tiny_experiment import write_config

from graft.agents.ray_session import session
from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.launchers import ray as launching
from graft.experiments.launchers.launcher import run_graph
from graft.experiments.launchers.ray import RayLauncher
from graft.experiments.plan.pairs import expand
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store

ROOT = Path(__file__).parents[3]
ROLLOUT = 128


@pytest.fixture(scope="module")
def places():
    with ray_folder() as folder:
        yield folder


@contextlib.contextmanager
def ray_cluster(folder, nodes):
    """A head without cores, which this process is connected to, and nodes with a core and a GPU that does not exist."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
            for _ in range(nodes):
                cluster.add_node(num_cpus=1, num_gpus=1)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture(scope="module")
def cluster(places, no_ray):
    with ray_cluster(places, 2) as made:
        yield made


@pytest.fixture
def eager(monkeypatch):
    """Workers take a snapshot at every rollout, and a tenth of a second for it, so that there is time to kill them."""

    class Eager(launching._Actor):
        def prepare(self, token, file):
            import time

            from graft.agents.checkpoints import snapshotter
            from graft.experiments.stages import resume

            info = super().prepare(token, file)
            snapshotter.LARGEST_SHARE, resume.SECONDS = 1e9, 0.0
            maybe_save = snapshotter.Snapshotter.maybe_save
            snapshotter.Snapshotter.maybe_save = lambda *rest: (maybe_save(*rest), time.sleep(0.1))
            return info

    monkeypatch.setattr(launching, "_Actor", Eager)


class Diary:
    """A `RunListener` that writes down what happens; ``on_progress(stage, env_steps)`` is called on top."""

    def __init__(self, on_progress=lambda stage, env_steps: None):
        self.on_progress = on_progress
        self.starts, self.ends, self.places, self.steps, self.notes = [], {}, {}, {}, []

    def started(self, stage):
        self.starts.append(stage.id)

    def placed(self, stage, where):
        self.places.setdefault(stage.id, []).append(where)
        self.steps.setdefault(stage.id, []).append([])

    def progressed(self, stage, env_steps, values):
        self.steps[stage.id][-1].append(env_steps)
        self.on_progress(stage, env_steps)

    def finished(self, stage, error):
        self.ends[stage.id] = error

    def noted(self, text):
        self.notes.append(text)

    def tick(self):
        pass


def set_up(folder, **changes):
    folder.mkdir(exist_ok=True)
    config = load_config(str(write_config(folder, **{"seeds": 1, **changes})))
    store = Store(folder / "out")
    store.open(config)
    return expand(config), store


class Killer:
    """Takes away the node of a stage that has come to ``at`` env steps, ``times`` times in all."""

    def __init__(self, cluster, diary, at, times):
        self.cluster, self.diary, self.at, self.left, self.killed = cluster, diary, at, times, []

    def __call__(self, stage, env_steps):
        if self.left and env_steps >= self.at and stage.id not in self.killed:
            self.left -= 1
            self.killed.append(stage.id)
            node_id = self.diary.places[stage.id][-1].split(",")[0].split()[-1]
            (node,) = (node for node in self.cluster.worker_nodes if node.node_id.startswith(node_id))
            self.cluster.remove_node(node, allow_graceful=False)


def sweep_with_nodes_that_die(cluster, tmp_path, times, count, **changes):
    """Stages on a cluster that loses nodes leave what they leave in this process where nothing disturbs them.

    Args:
        times: so many nodes are lost. count: stages of the experiment that are run, those that need each other first.
    """
    changes = {
        "sources": {"id": "Graft/Gather-v0"},
        "targets": [{"id": "Graft/Gather-v0", "kwargs": {"slip": 0.3}}],
        "evaluation": {"every": 5000, "episodes": 8, "num_envs": 8},
        **changes,
    }
    graph, store = set_up(tmp_path / "killed", **changes)
    todo = sorted(graph.stages, key=lambda stage_id: graph.stages[stage_id].method is not None)
    todo = sorted(todo, key=lambda i: graph.stages[i].method is not None and graph.stages[i].source is None)[:count]
    assert len(todo) == count
    stages = [graph.stages[stage_id] for stage_id in todo]
    diary = Diary()
    diary.on_progress = killer = Killer(cluster, diary, 5 * ROLLOUT, times)
    assert run_graph(RayLauncher(gpus=0.5), graph, todo, store, diary) == {}

    assert len(killer.killed) == times
    for stage_id in killer.killed:
        before, after = diary.steps[stage_id][:2]
        assert after[0] >= max(before) - ROLLOUT, "more than what came after the last snapshot was done again"
        assert diary.places[stage_id][1].endswith("try 2")
    assert sorted(diary.starts) == sorted(todo)
    lost = [note for note in diary.notes if note.startswith("lost")]
    assert len(lost) == times, lost

    _, undisturbed = set_up(tmp_path / "undisturbed", **changes)
    for stage in stages:
        run_stage(stage, undisturbed, lambda env_steps, values: None)
    assert_same_outcomes(stages, store, undisturbed)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_stages_whose_node_dies_end_with_the_same_results(cluster, tmp_path):
    budgets = {"pretrain": {"steps": 40 * ROLLOUT}, "transfer": {"steps": 2 * ROLLOUT}}
    sweep_with_nodes_that_die(cluster, tmp_path, 1, 2, methods="finetune", **budgets)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("eager")
def test_twelve_stages_whose_nodes_die_twice_end_with_the_same_results(cluster, tmp_path):
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=1)
    methods = ["frozen", "finetune", {"finetune": {"heads": "by_name"}}]
    budgets = {"pretrain": {"steps": 60 * ROLLOUT}, "transfer": {"steps": 30 * ROLLOUT}}
    sweep_with_nodes_that_die(cluster, tmp_path, 2, 12, methods=methods, seeds=[0, 1], **budgets)


@pytest.mark.slow
def test_a_stage_that_fails_is_not_tried_again_and_its_record_has_the_traceback(cluster, tmp_path):
    graph, store = set_up(tmp_path, methods="frozen", algorithm={"num_envs": 8, "num_steps": 16, "learning_rate": 1e30})
    diary = Diary()
    pretrain, *_, frozen = graph.stages
    failed = run_graph(RayLauncher(), graph, [pretrain, frozen], store, diary)
    assert "learning rate" in failed[pretrain]
    assert failed[frozen] == "its source failed"
    assert "Traceback" in store.record(pretrain)["error"]
    assert len(diary.places[pretrain]) == 1


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_fails_its_stage(cluster, tmp_path, monkeypatch):
    class Dying(launching._Actor):
        def run(self, stage):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(launching, "_Actor", Dying)
    graph, store = set_up(tmp_path)
    first = next(iter(graph.stages))
    diary = Diary()
    failed = run_graph(RayLauncher(jobs=1, retries=1), graph, [first], store, diary)
    assert "its worker died 2 times" in failed[first]
    assert store.record(first)["status"] == "failed"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"cpus": 4},
            "A stage needs 4 CPUs, and no node has that; there are",
        ),
        ({"gpus": 2}, "A stage needs 1 CPU and 2 GPUs"),
    ],
)
def test_a_stage_that_fits_on_no_node_is_an_error_at_once(cluster, tmp_path, options, words):
    graph, store = set_up(tmp_path)
    with pytest.raises(GraftError) as caught:
        run_graph(RayLauncher(**options), graph, list(graph.stages), store, Diary())
    assert words in str(caught.value)


@pytest.mark.slow
def test_workers_that_see_another_folder_are_an_error(cluster, tmp_path, monkeypatch):
    class Impatient(launching._Actor):
        def prepare(self, token, file):
            from graft.experiments.launchers import worker

            worker.SHARED_SECONDS = 0.0
            return super().prepare(token, file)

    monkeypatch.setattr(launching, "_Actor", Impatient)
    plain = launching._RayCluster.__init__
    monkeypatch.setattr(launching._RayCluster, "__init__", lambda self, launcher, out: plain(self, launcher, out / "x"))
    graph, store = set_up(tmp_path)
    with pytest.raises(GraftError, match=r"does not see .*; give an --out on a path that all nodes share"):
        run_graph(RayLauncher(), graph, list(graph.stages), store, Diary())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jobs": 0}, "--jobs 0 is not allowed"),
        ({"cpus": 0}, "--cpus 0 is not allowed"),
        ({"gpus": 1.5}, "--gpus 1.5 is not allowed"),
        ({"gpus": -1}, "--gpus -1 is not allowed"),
        ({"gpus": float("nan")}, "--gpus nan is not allowed"),
        ({"retries": -1}, "--retries -1 is not allowed"),
        ({"wait": -1}, "--wait -1 is not allowed"),
        ({"address": "head"}, "--address head is not allowed"),
        ({"address": "ray://head:10001"}, "--address ray://head:10001 is not allowed"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(GraftError) as caught:
        RayLauncher(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("gpus", "has", "fit"),
    [
        (0, {"CPU": 8}, 4),
        (0.3, {"CPU": 16, "GPU": 2}, 6),
        (1, {"CPU": 16, "GPU": 2}, 2),
        (2, {"CPU": 16, "GPU": 5}, 2),
        (0.5, {"CPU": 16}, 0),
        (0, {}, 0),
    ],
)
def test_how_many_stages_fit_on_a_node(gpus, has, fit):
    cluster = launching._RayCluster(RayLauncher(cpus=2, gpus=gpus), Path())
    assert cluster._fits(has) == fit


def test_no_cluster_is_an_error_and_comes_quickly(monkeypatch, tmp_path):
    from ray._private import services

    def nothing(address, folder):
        raise ConnectionError("no Ray")

    monkeypatch.setattr(services, "get_ray_address_from_environment", nothing)
    start = time.monotonic()
    with pytest.raises(GraftError, match="No Ray cluster runs on this machine"):
        session.resolve_address("auto")
    monkeypatch.setattr(services, "get_ray_address_from_environment", lambda address, folder: "127.0.0.1:1")
    for address in ("auto", "127.0.0.1:1", "127.0.0.1:99999"):
        with pytest.raises(GraftError, match=r"No Ray cluster answers at 127\.0\.0\.1:"):
            session.resolve_address(address)
    assert time.monotonic() - start < 10


EAGER_RUN = """
import sys

import graft.agents.checkpoints.snapshotter
import graft.experiments.launchers.ray as launching
import graft.experiments.stages.resume
from graft.experiments.run import main

class Eager(launching._Actor):
    def prepare(self, token, file):
        info = super().prepare(token, file)
        graft.agents.checkpoints.snapshotter.LARGEST_SHARE, graft.experiments.stages.resume.SECONDS = 1e9, 0.0
        return info

launching._Actor = Eager
if __name__ == "__main__":
    sys.exit(main())
"""
"""The command line, with a snapshot at every rollout."""


@pytest.fixture
def own_ray(tmp_path):
    """Starts the command line with a Ray of its own, and tells the folder of its processes."""
    script = tmp_path / "eager_run.py"
    script.write_text(EAGER_RUN)
    started = []

    def start(*arguments):
        started.append(
            subprocess.Popen(
                [sys.executable, str(script), *map(str, arguments), "--launcher", "ray", "--address", "local"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        )
        return started[-1]

    with ray_folder() as folder:
        yield start, folder
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.mark.slow
def test_ctrl_c_stops_all_that_writes_and_says_how_to_go_on(tmp_path, own_ray):
    start, folder = own_ray
    config = write_config(tmp_path, seeds=1, pretrain={"steps": 10**6})
    process = start(config, "--out", tmp_path / "out")
    wait_until(lambda: list(tmp_path.glob("out/stages/*/snapshot/snapshot.json")), 120, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, which Ray's own processes hear as well
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert "the same command goes on from there" in printed
    assert "Traceback" not in printed
    assert "raylet" not in printed, "Ray's own words"
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    wait_until(lambda: not processes_of(folder), 15)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == left


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_driver_leaves_nothing_running_and_the_same_command_goes_on(tmp_path, own_ray):
    start, folder = own_ray
    changes = {"methods": "finetune", "pretrain": {"steps": 60 * ROLLOUT}}
    graph, store = set_up(tmp_path / "killed", **changes)
    process = start(tmp_path / "killed" / "tiny.yaml", "--out", store.out)
    pretrain = next(iter(graph.stages))
    wait_until(lambda: (store.folder(pretrain) / "snapshot" / "snapshot.json").exists(), 120, process)
    os.kill(process.pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: not processes_of(folder), 30)
    print(f"its processes were gone after {time.monotonic() - killed:.1f} s")
    assert store.record(pretrain)["status"] == "running"

    process = start(tmp_path / "killed" / "tiny.yaml", "--out", store.out)
    printed = process.communicate(timeout=200)[0]
    assert process.returncode == 0, printed
    _, undisturbed = set_up(tmp_path / "undisturbed", **changes)
    for stage in graph.stages.values():
        run_stage(stage, undisturbed, lambda env_steps, values: None)
    assert_same_outcomes(graph.stages.values(), store, undisturbed)
