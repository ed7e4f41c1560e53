"""Speed of decisions for many NPCs a frame on one core, beside Stable-Baselines3's ``predict``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import plain
from graft.agents.serving.squad import Squad
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas
from graft.experiments.benchmarks.timing import bench_table

NPCS, FRAMES = 1000, 4
FEATURES, ACTIONS = 32, 6
GAME = Task("Graft/Gather-v0")  # its default view, `ego`, and the default encoder of that

REPEATS = {"squad": 100, "batch": 40, "loop": 1}
"""Frames of each subject in a round."""

Frame = Callable[[], NDArray[np.int64]]


class Times(NamedTuple):
    """Milliseconds of each frame: of the processor, and on the clock, which counts what else the machine does."""

    cpu: list[float]
    wall: list[float]


def _mlp() -> tuple[PolicyNetwork, NDArray[np.float32]]:
    """The network 32-64-64-6 and observations of all NPCs."""
    names = tuple(f"feature_{i}" for i in range(FEATURES))
    bound = (1.0,) * FEATURES
    seen = ObservationSchema("vector", names, ((),) * FEATURES, (FEATURES,), "float32", tuple(-b for b in bound), bound)
    actions = ActionSchema("discrete", tuple(f"action_{i}" for i in range(ACTIONS)))
    network = PolicyNetwork(Schemas(seen, actions), NetworkConfig("mlp", {"widths": (64, 64)}, head=()), 0).eval()
    with torch.no_grad():
        network.policy.out.weight.mul_(100)  # a fresh policy plays one action everywhere
    return network, np.random.default_rng(0).uniform(-1, 1, (NPCS, FEATURES)).astype(np.float32)


def _game() -> tuple[PolicyNetwork, NDArray[np.uint8]]:
    env = make(GAME, NPCS, 0)
    obs = np.array(env.reset()[0])
    env.close()
    return PolicyNetwork(schemas(GAME), NetworkConfig(), 0).eval(), obs


def subjects() -> dict[str, tuple[str, Frame]]:
    """Name -> its kind in `REPEATS`, and what it does in a frame."""
    network, obs = _mlp()
    space = plain.OwnSpaces(network.schemas.observation.space(), network.schemas.action.space(), lambda o: o)
    model = plain.plain_algorithm(network, space)
    mlp = Squad(Checkpoint.of(network, GAME), NPCS)
    ego, seen = _game()
    whole, spread = (Squad(Checkpoint.of(ego, GAME), NPCS, frames) for frames in (1, FRAMES))
    return {
        "mlp 64-64, Squad": ("squad", lambda: mlp.decide(obs)),
        "mlp 64-64, SB3 predict, one batch": ("batch", lambda: model.predict(obs, deterministic=True)[0]),
        "mlp 64-64, SB3 predict, a loop": (
            "loop",
            lambda: np.array([model.predict(row, deterministic=True)[0] for row in obs]),
        ),
        "ego, Squad": ("batch", lambda: whole.decide(seen)),
        f"ego, Squad over {FRAMES} frames": ("squad", lambda: spread.decide(seen)),
    }


def measure(timed: dict[str, tuple[str, Frame]], rounds: int) -> dict[str, Times]:
    """Times of every frame, interleaved: odd rounds run backwards, so that a drift of the machine cancels out."""
    found = {name: Times([], []) for name in timed}
    for _, frame in timed.values():
        frame()  # warms up; of a squad the first frame decides all
    for index in range(rounds):
        for name in list(timed) if index % 2 == 0 else reversed(timed):
            kind, frame = timed[name]
            for _ in range(REPEATS[kind]):
                wall, cpu = time.perf_counter(), time.process_time()
                frame()
                found[name].cpu.append(1000 * (time.process_time() - cpu))
                found[name].wall.append(1000 * (time.perf_counter() - wall))
    return found


def bench_npc(console: Console, rounds: int) -> None:
    """Print what a frame of 1,000 NPCs takes, and how many times faster a squad is than ``predict``."""
    torch.set_num_threads(1)
    timed = subjects()
    ours, batch, loop = list(timed)[:3]
    same = np.array_equal(timed[ours][1](), timed[batch][1]())
    times = measure(timed, rounds)
    table = bench_table(
        f"Milliseconds of a frame of {NPCS:,} NPCs on one core: {rounds} interleaved rounds",
        ("subject", "p50, processor", "p99, processor", "p50, clock", "p99, clock", "times the squad's"),
        text=("subject",),
        caption="On an idle core the processor's time and the clock's are the same; p99 needs 100 frames and more.",
    )
    middle = {name: statistics.median(found.cpu) for name, found in times.items()}
    for name, found in times.items():
        shown = [f"{value:.2f}" for values in found for value in np.quantile(values, (0.5, 0.99))]
        table.add_row(name, *shown, f"{middle[name] / middle[ours]:,.1f}" if name in (batch, loop) else "")
    console.print(table)
    console.print(f"Squad and predict play {'the same actions' if same else 'OTHER ACTIONS'} with the same weights.")
