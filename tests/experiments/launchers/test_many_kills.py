"""A sweep of twelve stages that is killed twenty times at random moments, and given the same command each time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import processes_of, ray_folder, wait_until
from support.tiny_experiment import write_config

ROOT = Path(__file__).parents[3]
STEPS = 512


def results_of(out: Path) -> str:
    """``results.json`` as text, without the seconds that stages took and what that cost."""
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    for part in (data, *data["stages"], *data["rows"]):
        part.pop("seconds", None)
        part.pop("cost", None)
    return json.dumps(data, indent=1, sort_keys=True)


def weights_of(out: Path) -> dict[str, bytes]:
    return {p.parts[-3]: p.read_bytes() for p in out.glob("stages/*/checkpoint/weights.safetensors")}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("options", [[], ["--launcher", "ray", "--address", "local"]], ids=["local", "ray"])
def test_its_results_are_those_of_an_undisturbed_run(tmp_path: Path, options: list[str]) -> None:
    methods = ["frozen", {"finetune": {"heads": "by_name"}}, {"finetune": {"heads": "fresh"}}]
    evaluation = {"every": STEPS // 4, "episodes": 8, "num_envs": 8}
    budgets = {"pretrain": {"steps": STEPS}, "transfer": {"steps": STEPS}}
    config = write_config(tmp_path, methods=methods, evaluation=evaluation, **budgets)
    kills, seed = int(os.environ.get("GRAFT_KILLS", "20")), int(os.environ.get("GRAFT_SEED", "0"))
    script, rest = ROOT / "tests/support/killed_sweep.py", ["--jobs", "2", *options]
    words = list(map(str, [sys.executable, script, config, tmp_path, kills, seed, *rest]))
    with ray_folder() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(folder)}
        said = subprocess.run(words, env=environment, text=True, stdout=subprocess.PIPE, check=True).stdout
        wait_until(lambda: not processes_of(folder), 30)
    print(f"seed {seed}\n{said}")
    assert "undisturbed: " in said
    assert said.count("exit code 0") == 2, said + (tmp_path / "log").read_text()
    came = re.search(r"(\d+) kills before its end", said)
    assert came is not None
    assert int(came[1]) >= kills // 2, "how many come before its end depends on the machine's speed"
    results = results_of(tmp_path / "killed")
    assert results == results_of(tmp_path / "undisturbed")
    assert len(json.loads(results)["stages"]) == 12
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "undisturbed")
