"""What an import loads, and that every package can be the first; layers are checked by `make lint`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


STEPS = [
    ("from graft import envs; list(envs.ADAPTERS)", ["torch", "ray", "stable_baselines3"]),
    (
        "from graft import agents, envs, transfer; from graft.agents.networks.encoder import ENCODERS;"
        "list(envs.ADAPTERS), list(ENCODERS), list(transfer.METHODS)",
        ["ray", "stable_baselines3", "matplotlib"],
    ),
    ("import graft.experiments.run, graft.experiments.tune", ["ray", "optuna"]),
]
"""What is imported, one after the other, and what that must not load."""


def test_what_is_not_needed_is_not_loaded():
    checks = (f"print(*(name for name in {absent!r} if name in sys.modules))" for _, absent in STEPS)
    script = "\n".join(
        ["import sys", *(line for (step, _), check in zip(STEPS, checks, strict=True) for line in (step, check))]
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["graft.transfer", "graft.envs.factory"])
def test_every_entry_can_be_the_first(entry):
    """No import works only because another came before it."""
    subprocess.run([sys.executable, "-c", f"import {entry}"], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("transfer/state.py", "graft.transfer.regulariser"),  # between modules
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                ("experiments/config/options.py", "graft.experiments.stages.resume"),  # between folders
                ("envs/core/task.py", "graft.agents.checkpoints.files"),  # between packages
            )
        ),
    ],
)
def test_a_circle_of_imports_is_an_error_of_the_linter(tmp_path, module, imported):
    copy = tmp_path / "graft"
    shutil.copytree(ROOT / "graft", copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / module).open("a") as file:
        file.write(f"\nimport {imported}\n")
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--config", ROOT / "pyproject.toml"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "No circle between modules or folders BROKEN" in done.stdout
