"""Scaling is measured on equal work per worker, with as many workers as the table says."""

from __future__ import annotations

import contextlib
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from rich.console import Console
from support.batches import make

from graft.agents.networks.encoder import default_encoder
from graft.envs.builtin.engine.game import GAMES
from graft.envs.builtin.engine.view import VIEWS
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.experiments import bench
from graft.experiments.benchmarks import backends, scaling
from graft.experiments.benchmarks.scaling import SLEEPING, Compared, Scaled, Sleeping
from graft.experiments.benchmarks.timing import interleaved


def test_numbers_of_workers_double_up_to_the_most():
    assert [scaling.counts(n) for n in (1, 2, 5, 16)] == [(1,), (1, 2), (1, 2, 4, 5), (1, 2, 4, 8, 16)]


def test_efficiency_is_the_share_of_what_one_makes_alone():
    found = scaling.scaled({1: [1.0, 2.0, 2.0], 4: [2.0, 2.5, 4.0]}, steps=100)
    assert found == {1: Scaled(50.0, 1.0), 4: Scaled(160.0, 0.5)}


def test_subjects_take_turns_there_and_back_by_the_clock_given():
    order, now = [], [0.0]

    def play(name, seconds):
        order.append(name)
        now[0] += seconds

    found = interleaved({1: lambda: play("a", 1.0), 2: lambda: play("b", 3.0)}, rounds=2, clock=lambda: now[0])
    assert "".join(order) == "ab" + "abba" * 2  # after warming up
    assert found == {1: [1.0, 1.0], 2: [3.0, 3.0]}


def test_the_sleeping_environment_sleeps_once_a_step_and_is_no_game(monkeypatch):
    slept = []
    monkeypatch.setattr(scaling.time, "sleep", slept.append)
    check_env(Sleeping(), skip_render_check=True)
    slept.clear()
    assert SLEEPING.id not in GAMES
    env = make(SLEEPING.id)
    env.reset()
    for _ in range(3):
        _, rewards, terminated, truncated, _ = env.step(np.zeros(1, np.int64))
        assert not np.concatenate([rewards, terminated, truncated]).any()
    assert slept == [0.02] * 3


def printed(monkeypatch, show, *arguments):
    """What is printed where joining Ray does nothing."""
    monkeypatch.setattr("graft.agents.ray_session.session.join", lambda resources: None)
    console = Console(record=True, width=120, file=io.StringIO())
    show(console, *arguments)
    return console.export_text()


def test_the_tables_say_what_was_measured_and_what_not(monkeypatch):
    asked = []

    def of_runners(task, numbers, rounds, share):
        asked.append((task.id, numbers, rounds, share, torch.get_num_threads()))
        return tuple({n: Scaled(rate * n, 1 - n / 100) for n in numbers} for rate in (1000.0, 500.0))

    monkeypatch.setattr(scaling, "of_runners", of_runners)
    monkeypatch.setattr(scaling, "of_learners", lambda task, numbers, *_: {n: Scaled(7, 0.75) for n in numbers})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = printed(monkeypatch, scaling.bench_scaling, 3, 16)
    assert asked == [("Graft/Gather-v0", (1, 2), 3, 64, 1), (SLEEPING.id, (1, 2, 4, 8, 16), 3, 1, 1)]
    assert re.search(r"│ +2 │ +2,000 │ +0.98 │ +1,000 │ +0.98 │ +7 │ +0.75 │", text)
    assert re.search(r"│ +16 │ +16,000 │ +0.84 │ +8,000 │ +0.84 │\n", text)
    assert "An environment that sleeps 20 ms a step" in text
    assert text.endswith("GPU: not measured (no GPU here)\n")


def test_the_table_of_a_gpu_has_the_usual_and_the_largest_encoder(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(scaling, "encoders", lambda: {"small": Task("A-v0"), "large": Task("B-v0")})
    monkeypatch.setattr(scaling, "of_gpu", lambda *_: Compared((1000.0, 2500.0), (0.1, 0.25)))
    text = printed(monkeypatch, scaling.bench_gpu, 3)
    assert "(Some GPU; environments in the same process, 3 interleaved rounds)" in text
    for row in (r"small +│ A", r"large +│ B"):
        assert re.search(row + r" +│ 1,000 │ +10% │ 2,500 │ +25% │ +2.50 │", text)


def test_a_gpu_is_asked_for_by_one_of_the_two(monkeypatch):
    now, asked = [0.0], []

    def spend(seconds):
        now[0] += seconds

    @contextlib.contextmanager
    def training(task, resources, config):
        asked.append((config.encoder, resources.num_gpus_per_learner))
        group = SimpleNamespace(
            foreach_env_runner=lambda call: spend(0.25), _worker_manager=SimpleNamespace(actor_ids=list)
        )
        step = 0.5 if resources.num_gpus_per_learner else 2.0
        yield (
            SimpleNamespace(training_step=lambda: spend(step), env_runner_group=group),
            SimpleNamespace(num_envs=64, num_steps=64),
        )

    monkeypatch.setattr(scaling, "_training", training)
    monkeypatch.setattr(scaling.time, "perf_counter", lambda: now[0])
    found = scaling.of_gpu(Task("Graft/Gather-v0"), "grid_cnn", 2)
    assert asked == [("grid_cnn", 0.0), ("grid_cnn", 1.0)]
    assert found == Compared((2048.0, 8192.0), (0.125, 0.5))


def test_the_largest_encoder_has_most_to_compute():
    layers = 4 * 64 + 64 * 64 + (64 * 64 + 64 * 2) + (64 * 64 + 64)  # of the encoder, of the policy, of the value
    assert scaling.cost(Task("CartPole-v1"), "mlp") == 2 * layers
    found = scaling.encoders()
    assert found["grid_cnn"] == Task("Graft/Gather-v0")
    costs = [scaling.cost(task, name) for name, task in found.items()]
    for view in VIEWS:
        task = Task("Graft/Gather-v0", {"view": view})
        assert scaling.cost(task, default_encoder(schemas(task).observation)) <= costs[-1]


@pytest.mark.parametrize(("what", "pinned"), [("scaling", False), ("backends", True)])
def test_only_scaling_has_all_cores(monkeypatch, what, pinned):
    calls = []
    monkeypatch.setattr(bench.os, "sched_setaffinity", lambda *_: calls.append("pinned"), raising=False)
    monkeypatch.setattr(bench.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(scaling, "bench_scaling", lambda console, rounds, most: calls.append((rounds, most)))
    monkeypatch.setattr(backends, "bench_backends", lambda console, rounds: calls.append(rounds))
    assert bench.main([what, "--rounds", "2", "--runners", "4"]) == 0
    assert calls == (["pinned", 2] if pinned else [(2, 4)])


@pytest.mark.slow  # starts processes
@pytest.mark.usefixtures("one_ray")
def test_the_first_runners_sample_and_are_trained_on(monkeypatch):
    task = Task(SLEEPING.id, {"seconds": 0.001})
    resources = scaling.Resources(num_env_runners=2)
    with scaling._training(task, resources, num_envs=2, num_steps=16) as (algorithm, _):
        gone = []
        for runners in (1, 2, 1):
            scaling.training(algorithm, runners)
            gone.append(algorithm.env_steps)
        assert gone == [16, 48, 64]
        asked = []
        original = algorithm.env_runner_group.foreach_env_runner
        monkeypatch.setattr(
            algorithm.env_runner_group, "foreach_env_runner", lambda call: asked.append(original(call)) or asked[-1]
        )
        scaling.sampling(algorithm, 2)
        scaling.sampling(algorithm, 1)
        assert [sum(fragment.env_steps for fragment in found) for found in asked] == [32, 16]
        assert algorithm.env_steps == 64
    sampled, trained = scaling.of_runners(task, (1, 2), 1, 1)
    assert sampled.keys() == trained.keys() == {1, 2}
    assert sampled[1].efficiency == trained[1].efficiency == 1.0
    assert all(0 < found.rate < 2 / 0.001 for found in (*sampled.values(), *trained.values()))
