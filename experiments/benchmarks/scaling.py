"""Scaling of the RLlib backend with env runners, learners and a GPU: wall-clock time on all cores."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from graft.agents.networks.encoder import default_encoder
from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.agents.training.algorithm import PPOOptions
from graft.agents.training.backend import Resources
from graft.envs.builtin.engine.view import VIEWS
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.experiments.benchmarks.backends import build_rllib
from graft.experiments.benchmarks.timing import Round, bench_table, interleaved

GAME = "Graft/Gather-v0"

LATENCY = 0.02
"""Seconds that a step of `Sleeping` takes."""

PAIR = (1, 2)
"""Numbers of workers that play the game, as many as two cores."""

CPU, GPU = "CPU", "GPU"


class Sleeping(gym.Env[NDArray[np.float32], np.int64]):
    """Every step sleeps for ``seconds``: a stand-in for a game in another process or on another machine."""

    def __init__(self, seconds: float = LATENCY) -> None:
        self.observation_space, self.action_space = Box(-1.0, 1.0, (8,), np.float32), Discrete(4)
        self._seconds = seconds

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        time.sleep(self._seconds)
        return self._obs(), 0.0, False, False, {}

    def _obs(self) -> NDArray[np.float32]:
        return self.np_random.uniform(-1.0, 1.0, 8).astype(np.float32)


gym.register("Sleeping-v0", entry_point=Sleeping)  # type: ignore[arg-type]  # a class is a creator

SLEEPING = Task(f"{__name__}:Sleeping-v0")


class Scaled(NamedTuple):
    """Env steps per second of a number of workers, and the rate of each relative to that of one alone: medians."""

    rate: float
    efficiency: float


def counts(most: int) -> tuple[int, ...]:
    """1, 2, 4, 8 ... ``most``."""
    return (*(2**k for k in range((most - 1).bit_length())), most)


def scaled(seconds: Mapping[int, list[float]], steps: int) -> dict[int, Scaled]:
    """Of rounds in which ``n`` workers took ``n * steps`` env steps in ``seconds[n]``; ``seconds[1]`` must be there."""
    return {
        n: Scaled(
            statistics.median(n * steps / taken for taken in found),
            statistics.median(one / taken for one, taken in zip(seconds[1], found, strict=True)),
        )
        for n, found in seconds.items()
    }


@contextlib.contextmanager
def _training(
    task: Task, resources: Resources, config: NetworkConfig | None = None, **options: Any
) -> Iterator[tuple[Any, PPOOptions]]:
    """As of `build_rllib`; its processes end with the block."""
    algorithm, chosen = build_rllib(task, resources, config, **options)
    try:
        yield algorithm, chosen
    finally:
        algorithm.stop()


def sample(runner: Any) -> Any:
    """A rollout of one runner; a function of this module, so that other processes find it."""
    return runner.sample()


def sampling(algorithm: Any, runners: int) -> None:
    """A rollout of each of the first ``runners``, sent to this process; 0 where this process plays."""
    _use(algorithm, runners)
    algorithm.env_runner_group.foreach_env_runner(sample)


def training(algorithm: Any, runners: int) -> None:
    """As `sampling`, then an update on these samples and new weights for the runners."""
    _use(algorithm, runners)
    algorithm.training_step()


def _use(algorithm: Any, runners: int) -> None:
    """Make RLlib use the first ``runners`` processes only, by marking the others unhealthy; restarts take minutes."""
    manager = algorithm.env_runner_group._worker_manager
    for index in manager.actor_ids():
        manager.set_actor_state(index, healthy=index <= runners)


def of_runners(task: Task, numbers: tuple[int, ...], rounds: int, share: int) -> tuple[dict[int, Scaled], ...]:
    """Sampling, and training steps with a learner here, of ``numbers`` of env runners with ``share`` envs each."""
    most = numbers[-1]
    with _training(task, Resources(num_env_runners=most), num_envs=most * share) as (algorithm, options):
        measured = []
        for what in (sampling, training):
            found: dict[int, Round] = {n: partial(what, algorithm, n) for n in numbers}
            measured.append(scaled(interleaved(found, rounds, time.perf_counter), share * options.num_steps))
    return tuple(measured)


def of_learners(task: Task, numbers: tuple[int, ...], rounds: int, share: int) -> dict[int, Scaled]:
    """As `of_runners`: training steps with as many learners as env runners, each in a process."""
    with contextlib.ExitStack() as stack:
        found: dict[int, Round] = {}
        steps = 0
        for n in numbers:
            resources = Resources(num_env_runners=n, num_learners=n)
            algorithm, options = stack.enter_context(_training(task, resources, num_envs=n * share))
            found[n], steps = algorithm.training_step, share * options.num_steps
        return scaled(interleaved(found, rounds, time.perf_counter), steps)


def _print_table(console: Console, title: str, columns: Mapping[str, Mapping[int, Scaled]]) -> None:
    table = bench_table(title, ("workers", *(heading for column in columns for heading in (column, "efficiency"))))
    for n in next(iter(columns.values())):
        cells = [(f"{found[n].rate:,.0f}", f"{found[n].efficiency:.2f}") for found in columns.values()]
        table.add_row(str(n), *(cell for pair in cells for cell in pair))
    console.print(table)


def cost(task: Task, encoder: str) -> int:
    """Floating-point operations of a forward pass for one observation of ``task``."""
    network = build_network(schemas(task), NetworkConfig(encoder), 0)
    obs = torch.zeros(1, *network.schemas.observation.shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        network(obs)
    return int(counted.get_total_flops())


def encoders() -> dict[str, Task]:
    """Encoder -> task: the default one of the game, and of its views the default one with most operations."""
    views = [Task(GAME, {"view": view}) for view in VIEWS]
    fitting = [(default_encoder(schemas(view).observation), view) for view in views]
    largest, view = max(fitting, key=lambda pair: cost(pair[1], pair[0]))
    return {default_encoder(schemas(Task(GAME)).observation): Task(GAME), largest: view}


class Compared(NamedTuple):
    """Training with the learner on the CPU and on a GPU: env steps per second, and the share of time of sampling."""

    rates: tuple[float, float]
    shares: tuple[float, float]


def of_gpu(task: Task, encoder: str, rounds: int) -> Compared:
    """Learner and environments in this process."""
    with contextlib.ExitStack() as stack:
        found: dict[tuple[str, str], Round] = {}
        steps = 0
        for where, gpus in ((CPU, 0.0), (GPU, 1.0)):
            resources = Resources(num_gpus_per_learner=gpus)
            algorithm, options = stack.enter_context(_training(task, resources, NetworkConfig(encoder)))
            steps = options.num_envs * options.num_steps
            found[where, "all"] = algorithm.training_step  # ends with new weights for runners, so the GPU is done then
            found[where, "play"] = partial(sampling, algorithm, 0)
        measured = interleaved(found, rounds, time.perf_counter)
    seconds = {key: statistics.median(taken) for key, taken in measured.items()}
    cpu, gpu = seconds[CPU, "all"], seconds[GPU, "all"]
    return Compared((steps / cpu, steps / gpu), (seconds[CPU, "play"] / cpu, seconds[GPU, "play"] / gpu))


def bench_gpu(console: Console, rounds: int) -> None:
    """Print the table, or that there is no GPU."""
    if not torch.cuda.is_available():
        console.print("GPU: not measured (no GPU here)")
        return
    from graft.agents.ray_session.session import join

    join(Resources(num_gpus_per_learner=1.0))
    title = (
        f"Env steps trained on per second, learner on {torch.get_num_threads()} CPU threads and on one GPU\n"
        f"({torch.cuda.get_device_name()}; environments in the same process, {rounds} interleaved rounds)"
    )
    columns = ("encoder", "task", CPU, "of it sampling", GPU, "of it sampling", "times as fast")
    table = bench_table(title, columns, ("encoder", "task"))
    for encoder, task in encoders().items():
        with console.status(f"timing {encoder}, {rounds} rounds"):
            (cpu, gpu), shares = of_gpu(task, encoder, rounds)
        cells = (f"{cpu:,.0f}", f"{shares[0]:.0%}", f"{gpu:,.0f}", f"{shares[1]:.0%}", f"{gpu / cpu:.2f}")
        table.add_row(encoder, str(task), *cells)
    console.print(table)


def bench_scaling(console: Console, rounds: int, most: int) -> None:
    """Print the tables: a game with 1 and 2 workers, waiting with up to ``most``, and the GPU."""
    from graft.agents.ray_session.session import join

    usual = PPOOptions()
    join(Resources(num_env_runners=max(most, 2 * sum(PAIR))))
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # as in every process that Ray starts for us
        with console.status(f"timing {GAME}, {rounds} rounds"):
            sampled, trained = of_runners(Task(GAME), PAIR, rounds, usual.num_envs)
            together = of_learners(Task(GAME), PAIR, rounds, usual.num_envs)
        title = f"{Task(GAME)}: env steps per second, wall-clock, n workers = n env runners\n"
        title += f"({usual.num_envs} environments each, {usual.num_steps} steps, {rounds} interleaved rounds)"
        columns = {"sampled/s": sampled, "trained/s, 1 learner": trained, "trained/s, n learners": together}
        _print_table(console, title, columns)
        with console.status(f"timing {SLEEPING} with up to {most} env runners, {rounds} rounds"):
            sampled, trained = of_runners(SLEEPING, counts(most), rounds, 1)
    title = f"An environment that sleeps {LATENCY * 1000:.0f} ms a step: env steps per second\n"
    title += f"(n env runners of one each, {usual.num_steps} steps, {rounds} interleaved rounds)"
    _print_table(console, title, {"sampled/s": sampled, "trained/s, 1 learner": trained})
    bench_gpu(console, rounds)
