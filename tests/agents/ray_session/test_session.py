"""A Ray that a training has started for itself: it goes when the training does, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from graft.agents.ray_session import session
from graft.agents.ray_session.session import connected, join
from graft.agents.training.backend import Resources
from graft.errors import GraftError

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs a system that shows processes")

ROOT = Path(__file__).parents[3]
MARK = "GRAFT_TEST_OF_CLUSTER"
"""In the environment of a process, and so of all that it starts."""

LINES = """
import sys
from graft import envs
from graft.agents.training.backend import Evaluation, Resources, TrainJob
from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.agents.rllib import ALGORITHMS, train
from graft.envs.core.task import Task

task = Task("Graft/Gather-v0")
network = build_network(envs.schemas(task), NetworkConfig(), 0)
algorithm = ALGORITHMS["ppo"](num_envs=8, num_steps=16, minibatch=64, epochs=1)
plan = Evaluation(every=10**9, episodes=8, num_envs=8)

def record(env_steps, values):
    if "train/loss" in values:
        print("trains", flush=True)

job = TrainJob(
    network, task, algorithm, int(sys.argv[1]), 0, record, plan, resources=Resources(num_env_runners=2)
)
train(job)
print("done", flush=True)
"""


@pytest.mark.parametrize("start", [lambda: join(Resources()), lambda: connected("local", 1).__enter__()])
def test_a_ray_that_takes_too_long_to_start_is_said_in_a_sentence(monkeypatch, start):
    def slow(*_, **__):
        raise Exception("The current node timed out during startup. This could happen because of an overload.\nMore")

    monkeypatch.setattr(session.ray, "init", slow)
    monkeypatch.setattr(session, "cleaned_up", lambda: contextlib.nullcontext("mark"))
    with pytest.raises(GraftError) as caught:
        start()
    assert str(caught.value) == (
        "Ray can't be started on this machine: The current node timed out during startup, 3 times; where the "
        "machine is overloaded, run fewer stages at once (--jobs) or try again."
    )
    assert not session.OWN_CLUSTERS
    assert not session.ray.is_initialized()


@pytest.mark.parametrize(
    ("said", "starts"), [("The current node timed out during startup.", 2), ("No room in /dev/shm", 1)]
)
def test_only_a_ray_that_takes_too_long_is_started_again(monkeypatch, said, starts):
    tried = []

    def slow_once(*_, **__):
        tried.append(said)
        if len(tried) == 1:
            raise RuntimeError(said)

    monkeypatch.setattr(session.ray, "init", slow_once)
    monkeypatch.setattr(session, "cleaned_up", lambda: contextlib.nullcontext("mark"))
    refused = pytest.raises(GraftError, match="machine: No room in /dev/shm; where")
    with contextlib.nullcontext() if starts == 2 else refused, connected("local", 1):
        pass
    assert len(tried) == starts


def started(budget):
    """A process that trains with two runners, once it does, and its mark."""
    mark = uuid.uuid4().hex
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-c", LINES, str(budget)],
        stdout=subprocess.PIPE,
        text=True,
        env=variables | {"PYTHONPATH": str(ROOT), MARK: mark},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "trains\n"
    return process, mark


def running(mark):
    """Command lines of the processes that have the mark."""
    wanted, lines = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                lines.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["killed", "done"])
def test_no_process_of_rays_outlives_the_training(ends):
    process, mark = started(budget=10**9 if ends == "killed" else 512)
    with process:
        before = running(mark)
        if ends == "killed":
            process.send_signal(signal.SIGKILL)
        assert process.wait(60) == (-signal.SIGKILL if ends == "killed" else 0)
    assert any("raylet" in line for line in before)
    until = time.monotonic() + 5
    while (left := running(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
