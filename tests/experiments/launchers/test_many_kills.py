"""A sweep that is killed twenty times at random moments, and given the same command each time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support.tiny_experiment import write_config

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("GRAFT_KILLS", "20"))

EAGER_RUN = """
import sys

import graft.agents.checkpoints.snapshotter
import graft.experiments.stages.resume
from graft.experiments.run import main

graft.agents.checkpoints.snapshotter.LARGEST_SHARE = 0.2
graft.experiments.stages.resume.SECONDS = 0.1
if __name__ == "__main__":
    sys.exit(main())
"""
"""The command with a snapshot every tenth of a second, in local workers as well, which import the file that was run."""


def results_of(out: Path) -> str:
    """``results.json`` as text, without what stages cost in seconds."""
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    for stage in data["stages"]:
        del stage["seconds"]
    return json.dumps(data, indent=1, sort_keys=True)


def weights_of(out: Path) -> dict[str, bytes]:
    return {p.parts[-3]: p.read_bytes() for p in out.glob("stages/*/checkpoint/weights.safetensors")}


def trains(out: Path, since: float) -> bool:
    """Whether a run that began ``since`` (the system's clock) writes metrics."""
    return any(path.stat().st_mtime > since for path in out.glob("stages/*/metrics.jsonl"))


def kill_at_a_random_moment(process: subprocess.Popen[str], out: Path, dice: random.Random, start_up: float) -> bool:
    """Kill a run, one in four before it trains, else within a second and a half of training; False where it ended."""
    began = time.time()
    if dice.random() < 0.25:
        time.sleep(dice.uniform(0, start_up))
    else:
        while process.poll() is None and not trains(out, began):
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 1.5))
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return not ended


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("launcher", [["--jobs", "2"], ["--launcher", "ray", "--address", "local", "--jobs", "2"]])
def test_the_results_are_those_of_an_undisturbed_run(tmp_path: Path, launcher: list[str]) -> None:
    steps = 4096
    three = ["frozen", {"finetune": {"heads": "by_name"}}, {"finetune": {"heads": "fresh"}}]
    evaluation = {"every": steps // 4, "episodes": 8, "num_envs": 8}
    budgets = {"pretrain": {"steps": steps}, "transfer": {"steps": steps}}
    config = write_config(tmp_path, methods=three, evaluation=evaluation, **budgets)
    script = tmp_path / "eager_run.py"
    script.write_text(EAGER_RUN)
    with tempfile.TemporaryDirectory(prefix="graft-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_TMPDIR": folder}

        def run(out: Path) -> subprocess.Popen[str]:
            words = [sys.executable, str(script), str(config), "--out", str(out), *launcher]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            return subprocess.Popen(words, **pipes, env=environment, start_new_session=True)  # type: ignore[call-overload, no-any-return]

        undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
        began = time.time()
        process = run(undisturbed)
        while process.poll() is None and not trains(undisturbed, began):
            time.sleep(0.02)
        start_up = time.time() - began
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
        assert "12 of 12 stages" in printed
        print(f"undisturbed: {time.time() - began:.0f} s, of which {start_up:.0f} s to start", flush=True)

        seed = random.randrange(10**6)
        dice, kills = random.Random(seed), 0
        while kills < KILLS and kill_at_a_random_moment(run(killed), killed, dice, start_up):
            kills += 1
            done = sum('"done"' in p.read_text() for p in killed.glob("stages/*/stage.json"))
            print(f"kill {kills} (seed {seed}), {done} stages are done", flush=True)
        process = run(killed)
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
    assert kills == KILLS, "it ended before it could be killed so often; give it more steps"
    assert results_of(killed) == results_of(undisturbed)
    assert weights_of(killed) == weights_of(undisturbed)
