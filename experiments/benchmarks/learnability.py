"""How many env steps PPO takes to learn each built-in game from scratch."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from graft.agents.checkpoints.files import replace_file
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.training.backend import Evaluation, TrainJob
from graft.envs.core.task import Task
from graft.envs.factory import bounds, schemas
from graft.errors import GraftError
from graft.experiments.benchmarks.reference import SEED
from graft.experiments.benchmarks.timing import bench_table

EVALUATION = Evaluation(every=50_000, episodes=256)


class Job(NamedTuple):
    """One training: of a game, with a seed, for at most so many env steps, until its score is ``share``."""

    game: str
    seed: int
    steps: int
    share: float

    @property
    def name(self) -> str:
        """Key of its result."""
        return f"{self.game} seed {self.seed}, {self.steps} steps, {self.share:g} of the expert"


class Reached(Exception):
    """Ends a training whose score is high enough."""


def learn(job: Job) -> dict[str, Any]:
    """Train with PPO's and the network's defaults.

    Returns:
        ``curve``: (env steps, score) of each evaluation, where 0 is the random policy and 1 the expert; ``reached``:
        env steps at the first score of ``share`` or more, None where there was none.
    """
    torch.set_num_threads(1)
    task = Task(job.game)
    scale = bounds(task)
    if scale is None:
        raise GraftError(f"{job.game} has no reference scores; see `graft reference`.")
    curve: list[tuple[int, float]] = []

    def record(env_steps: int, values: Mapping[str, float]) -> None:
        if "eval/return_mean" in values:
            curve.append((env_steps, round(scale.normalise(values["eval/return_mean"]), 4)))
            if curve[-1][1] >= job.share:
                raise Reached

    seed = SEED + 10_000 * (job.seed + 1)
    start = time.monotonic()
    with contextlib.suppress(Reached):
        network = PolicyNetwork(schemas(task), NetworkConfig(), seed)
        train(TrainJob(network, task, ALGORITHMS["ppo"](), job.steps, seed, record, EVALUATION))
    reached = curve[-1][0] if curve[-1][1] >= job.share else None
    return {"curve": curve, "reached": reached, "seconds": round(time.monotonic() - start)}


def learn_all(jobs: Sequence[Job], path: Path, workers: int, console: Console) -> dict[str, Any]:
    """Results of all jobs by name, written to ``path`` as they come; those that the file holds are not repeated.

    Where a training fails, the others still run to their end; then its error is raised.
    """
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise GraftError(f"{path} is not JSON ({error}); restore it, or remove it to begin anew.") from error
    missing = [job for job in jobs if job.name not in results]
    if len(missing) < len(jobs):
        console.print(f"{len(jobs) - len(missing)} of {len(jobs)} trainings are in {path} already")
    failed: BaseException | None = None
    # Ctrl-C ends a worker at once; as an exception it would only end the worker's job, and the next one would begin.
    ended_by_ctrl_c = (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, ended_by_ctrl_c) as pool:
        waiting = {pool.submit(learn, job): job for job in missing}
        for future in as_completed(waiting):
            job = waiting[future]
            if (raised := future.exception()) is not None:  # any, as the other trainings go on
                console.print(f"{job.game} seed {job.seed} failed: {type(raised).__name__}: {raised}", markup=False)
                failed = failed or raised
                continue
            results[job.name] = result = future.result()
            replace_file(path, (json.dumps(results, indent=1, sort_keys=True) + "\n").encode())
            end = result["curve"][-1]
            console.print(f"{job.game} seed {job.seed}: {end[1]:.2f} after {end[0]:,} steps, {result['seconds']:,} s")
    if failed is not None:
        raise failed
    return {job.name: results[job.name] for job in jobs}


def table(jobs: Sequence[Job], results: Mapping[str, Any]) -> Table:
    """Env steps that each seed of each game took."""
    title = f"Env steps to {jobs[0].share:.0%} of the expert's score, from scratch"
    seeds = [f"seed {seed}" for seed in sorted({job.seed for job in jobs})]
    made = bench_table(title, ["game", *seeds], text=["game"])
    for game in dict.fromkeys(job.game for job in jobs):
        mine = [results[job.name] for job in jobs if job.game == game]
        cells = [f"{r['reached']:,}" if r["reached"] else f"no: {max(s for _, s in r['curve']):.2f}" for r in mine]
        made.add_row(str(Task(game)), *cells)
    return made


def draw(jobs: Sequence[Job], results: Mapping[str, Any], path: Path) -> None:
    """A panel for each game, with the curve of every seed, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    games = list(dict.fromkeys(job.game for job in jobs))
    columns = min(4, len(games))
    rows = -(-len(games) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.2 * columns, 2.5 * rows), squeeze=False, sharey=True)
    for axis, game in zip(axes.flat, games, strict=False):
        for job in (job for job in jobs if job.game == game):
            steps, scores = zip(*results[job.name]["curve"], strict=True)
            axis.plot([s / 1e6 for s in steps], scores, label=f"seed {job.seed}")
        axis.axhline(jobs[0].share, color="0.5", linestyle="--", linewidth=1)
        axis.set_title(str(Task(game)), fontsize=10)
        axis.set_xlabel("million env steps", fontsize=8)
    for axis in list(axes.flat)[len(games) :]:
        axis.remove()
    for row in axes:
        row[0].set_ylabel("score (1 = expert)", fontsize=8)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
