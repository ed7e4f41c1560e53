"""A script: runs a sweep undisturbed, and one that is killed at random moments and given the same command each time.

It loads the libraries once and forks before each run of the command, whose workers are forked as well: a run would
spend most of its time loading them else, and most kills would come before any stage has begun.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import graft.agents.checkpoints.snapshotter
import graft.experiments.launchers.local as local
import graft.experiments.stages.resume
import graft.experiments.stages.run_stage
from graft.envs.core.task import Task
from graft.envs.factory import make
from graft.experiments.report import plots  # noqa: F401
from graft.experiments.run import main

SHARE = 6
"""A run is killed within this part of the time that the undisturbed one took."""


def start(words: list[str], log: Path) -> int:
    """Run the command in a process of its own; returns its id."""
    if process := os.fork():
        return process
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 70
    with contextlib.suppress(BaseException):
        code = main(words)
        sys.stdout.flush()
    os._exit(code)


def ended(process: int) -> int:
    """Waits until it has ended; returns its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def sweep(config: str, folder: Path, kills: int, seed: int, options: list[str]) -> int:
    """How many of the kills came before the sweep was done."""
    dice, log = random.Random(seed), folder / "log"
    began = time.monotonic()
    code = ended(start([config, "--out", str(folder / "undisturbed"), *options], log))
    took = time.monotonic() - began
    print(f"undisturbed: {took:.0f} s, exit code {code}", flush=True)
    command, came = [config, "--out", str(folder / "killed"), *options], 0
    for kill in range(kills):
        process = start(command, log)
        time.sleep(dice.uniform(0, took / SHARE))
        os.kill(process, signal.SIGKILL)
        came += ended(process) == -signal.SIGKILL
        found = [path.read_text() for path in (folder / "killed").glob("stages/*/stage.json")]
        begun, done = len(found), sum('"status": "done"' in text for text in found)
        print(f"kill {kill + 1}: {begun} stages have begun, {done} are done", flush=True)
    print(f"at last: exit code {ended(start(command, log))}", flush=True)
    return came


if __name__ == "__main__":
    graft.agents.checkpoints.snapshotter.LARGEST_SHARE = 0.5
    graft.experiments.stages.resume.SECONDS = 0.1
    local.multiprocessing.get_context = lambda _: multiprocessing.context.ForkContext()  # type: ignore[assignment]
    env = make(Task("Graft/Dodge-v0", {"slip": 0.3}), 8, 0)  # compiles the game
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    config, folder, kills, seed, *options = sys.argv[1:]
    print(f"{sweep(config, Path(folder), int(kills), int(seed), options)} kills before its end")
