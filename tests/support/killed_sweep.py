"""A script: runs a sweep undisturbed, and one that is killed at random moments and given the same command each time.

The first has the local launcher, the other may have another. The script loads the libraries once and forks before each
run of the command; so are the local launcher's workers. A run would spend most of its time loading them else, and most
kills would come before any stage has begun.
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

from torch import zeros
from torch.nn import Parameter
from torch.optim import Adam

import graft.experiments.launchers.local as local
import graft.experiments.launchers.ray as on_ray
from graft.agents.checkpoints import snapshotter
from graft.experiments.launchers.worker import WorkerInfo
from graft.experiments.report import plots  # noqa: F401
from graft.experiments.run import main
from graft.experiments.stages import resume, run_stage  # noqa: F401

MOST_WRITES = 16
"""A run is killed after its metrics files have changed so often at most, or some moment later."""


def snapshot_often() -> None:
    snapshotter.LARGEST_SHARE, resume.SECONDS = 0.5, 0.1


class Eager(on_ray._Actor):
    def prepare(self, token: str, file: str) -> WorkerInfo:
        info = super().prepare(token, file)
        snapshot_often()
        return info


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


def size_of(path: Path) -> int:
    """0 where it has been removed just now, as of a stage that starts over."""
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def kill_at_some_moment(process: int, out: Path, dice: random.Random) -> bool:
    """Kill a run that works in ``out``; whether that came before its end."""
    writes, sizes = dice.randrange(MOST_WRITES + 1), None
    while writes >= 0 and not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        now = {path: size_of(path) for path in out.glob("stages/*/metrics.jsonl")}
        writes, sizes = writes - (now != sizes), now
        time.sleep(0.005)
    time.sleep(dice.uniform(0, 0.2))
    os.kill(process, signal.SIGKILL)
    return ended(process) == -signal.SIGKILL


def sweep(config: str, folder: Path, kills: int, seed: int, options: list[str]) -> int:
    """How many of the kills came before the sweep was done."""
    dice, log = random.Random(seed), folder / "log"
    code = ended(start([config, "--out", str(folder / "undisturbed"), "--jobs", "2"], log))
    print(f"undisturbed: exit code {code}", flush=True)
    command, came, out = [config, "--out", str(folder / "killed"), *options], 0, folder / "killed"
    for kill in range(kills):
        came += kill_at_some_moment(start(command, log), out, dice)
        found = [path.read_text() for path in out.glob("stages/*/stage.json")]  # replaced, never removed
        begun, done = len(found), sum('"status": "done"' in text for text in found)
        print(f"kill {kill + 1}: {begun} stages have begun, {done} are done", flush=True)
    print(f"at last: exit code {ended(start(command, log))}", flush=True)
    return came


if __name__ == "__main__":
    snapshot_often()
    on_ray._Actor = Eager  # type: ignore[misc]
    local.multiprocessing.get_context = lambda _: multiprocessing.context.ForkContext()  # type: ignore[assignment]
    config, folder, kills, seed, *options = sys.argv[1:]
    main([config, "--dry-run"])  # loads and compiles what a run needs
    resume.code_hash()
    Adam([Parameter(zeros(1))])
    print(f"{sweep(config, Path(folder), int(kills), int(seed), options)} kills before its end")
