"""Speed of PPO by Graft beside plain Stable-Baselines3, RLlib, sbx-rl and rsl-rl-lib, and where the time goes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from graft.agents.training.backend import Evaluation
from graft.errors import GraftError
from graft.experiments.benchmarks.timing import bench_table
from graft.experiments.benchmarks.trainers import CASES, GRAFT, RSL, SB3, SBX, Case
from graft.experiments.environments.entries import Package
from graft.experiments.environments.venvs import Venvs

FOLDER = Path("runs/bench")
"""Where the virtual environment of the other libraries is."""

VENV = "train"
OTHERS = {SBX: "sbx-rl", RSL: "rsl-rl-lib"}  # library -> what is installed
PARTS = ("environment", "inference", "buffer", "update")

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "PYTHONWARNINGS": "ignore",
}


class Round(NamedTuple):
    """Processor seconds of a round: all, and by part; of one evaluation; operations of the update, and a second's of a
    large matrix product.
    """

    seconds: float
    parts: Mapping[str, float] = {}
    evaluation: float = 0.0
    flops: float = 0.0
    product: float = 0.0


class Worker:
    """A process that trains a round of a case when asked."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        # A pipe that nobody reads would fill up.
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environ, **ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def round(self) -> Round:
        """Raises GraftError with the process's last line where it has ended."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self._said.seek(0)
            said = self._said.read().strip().splitlines()
            raise GraftError(said[-1] if said else f"exit code {code}")
        return Round(**json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()


class Peers:
    """The other libraries in a virtual environment of their own."""

    def __init__(self, folder: Path) -> None:
        self._venvs = Venvs(folder)

    def place(self, library: str, case: Case) -> tuple[str, dict[str, str]]:
        """The Python that has ``library``, and its variables; raises GraftError where it can't be installed."""
        if library not in OTHERS:
            return sys.executable, {}
        needs = (OTHERS[library], *(["gymnasium[mujoco]"] if "HalfCheetah" in case.task.id else []))
        package = Package(field="training", released="", install=needs, venv=VENV)
        if reason := self._venvs.install(" ".join(needs), package):
            raise GraftError(reason)
        return str(self._venvs.python(package)), {"PYTHONPATH": str(self._venvs.graft_path())}


@contextmanager
def workers(console: Console, name: str, peers: Peers) -> Iterator[dict[str, Worker]]:
    """A worker for each library that can train the case, warmed up; why another can't is printed in a line."""
    module = "graft.experiments.benchmarks.trainers"
    with ExitStack() as stack:
        ready: dict[str, Worker] = {}
        for library in CASES[name].libraries:
            try:
                python, environ = peers.place(library, CASES[name])
                worker = Worker([python, "-m", module, name, library], environ)
                stack.callback(worker.close)
                worker.round()
            except GraftError as error:
                console.print(f"{name}: {library} left out: {error}", soft_wrap=True)
            else:
                ready[library] = worker
        yield ready


def measure(ready: Mapping[str, Worker], rounds: int) -> dict[str, list[Round]]:
    """Rounds of every library in turns, in both orders by turns, so that a drift of the machine cancels out."""
    found: dict[str, list[Round]] = {library: [] for library in ready}
    for index in range(rounds):
        for library in list(ready)[:: -1 if index % 2 else 1]:
            found[library].append(ready[library].round())
    return found


def ratio(found: Mapping[str, list[Round]], library: str) -> float:
    """How many times as fast as ``library`` Graft is: the median of the rounds."""
    pairs = zip(found[library], found[GRAFT], strict=True)
    return statistics.median(theirs.seconds / ours.seconds for theirs, ours in pairs)


def shares(rounds: list[Round], steps: int) -> list[str]:
    """The parts of a round and its share of an evaluation, in per cent of training: medians."""
    cells = [f"{statistics.median(r.parts[part] / r.seconds for r in rounds):.0%}" for part in PARTS]
    evaluation = statistics.median(r.evaluation * steps / Evaluation().every / r.seconds for r in rounds)
    return [*cells, f"+{evaluation:.0%}" if evaluation else ""]


def bench_train(console: Console, rounds: int, only: str = "", folder: Path = FOLDER) -> None:
    """Print the tables; ``only``: of cases whose names hold this."""
    chosen = [name for name in CASES if only.casefold() in name.casefold()]
    if not chosen:
        raise GraftError(f"--only '{only}' names none of: {', '.join(CASES)}.")
    peers, results = Peers(folder), {}
    for name in chosen:
        with console.status(f"timing {name}, {rounds} rounds"), workers(console, name, peers) as ready:
            if GRAFT in ready:
                results[name] = measure(ready, rounds)
    title = f"Env steps trained on per processor second of one core: medians of {rounds} interleaved rounds"
    speeds = bench_table(title, ("case", "library", "env steps/s", "Graft is x times as fast"), ("case", "library"))
    columns = ("case", "library", *PARTS, "evaluation", "GFLOP/s in updates", "in a matrix product")
    parts = bench_table("Where the time goes", columns, ("case", "library"))
    for name, found in results.items():
        steps = CASES[name].ppo.num_envs * CASES[name].ppo.num_steps
        for library, each in found.items():
            rate = statistics.median(steps / r.seconds for r in each)
            speeds.add_row(name, library, f"{rate:,.0f}", "" if library == GRAFT else f"{ratio(found, library):.2f}")
            if library in (GRAFT, SB3):
                parts.add_row(name, library, *shares(each, steps), *_rates(each))
    console.print(speeds)
    console.print(parts)


def _rates(rounds: list[Round]) -> list[str]:
    if not rounds[0].flops:
        return ["", ""]
    update = statistics.median(r.flops / r.parts["update"] for r in rounds)
    return [f"{update / 1e9:.1f}", f"{statistics.median(r.product for r in rounds) / 1e9:.1f}"]
