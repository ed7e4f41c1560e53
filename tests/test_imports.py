"""What an import loads, and that every package can be the first; layers are checked by `make lint`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("from graft import envs; list(envs.ADAPTERS)", ["torch", "ray", "stable_baselines3"]),
        (
            "from graft import agents, envs, transfer; from graft.agents.networks.encoder import ENCODERS;"
            "list(envs.ADAPTERS), list(ENCODERS), list(transfer.METHODS)",
            ["ray", "stable_baselines3", "matplotlib"],
        ),
        ("import graft.experiments.run, graft.experiments.tune", ["ray", "optuna"]),
    ],
)
def test_what_is_not_needed_is_not_loaded(statement, absent):
    script = f"{statement}\nimport sys\nprint(*(name for name in {absent!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("entry", ["graft.transfer", "graft.envs.factory"])
def test_every_entry_can_be_the_first(entry):
    """No import works only because another came before it."""
    subprocess.run([sys.executable, "-c", f"import {entry}"], cwd=ROOT, check=True)
