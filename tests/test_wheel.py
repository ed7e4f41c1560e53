"""Graft as a user installs it: from a wheel, in a folder whose own packages have the names of Graft's folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graft.agents.checkpoints.checkpoint import read_manifest
from graft.agents.pretrained import pretrained

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PARTS = ("graft", "envs", "agents", "transfer", "experiments", "pyproject.toml", "README.md", "LICENSE")

GAME = """
import gymnasium
import numpy as np


class Game(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, drift=0.0):
        self.drift = drift

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action):
        self.steps += 1
        return self.observe(), float(action) + self.drift, self.steps == 8, False, {}


gymnasium.register("MyGame-v0", entry_point=Game)
"""

CONFIG = """
name: mine
sources: "{game}"
targets: {{id: "{game}", kwargs: {{drift: 0.5}}, bounds: [4, 8]}}
methods: frozen
seeds: 1
pretrain: {{steps: 128}}
transfer: {{steps: 128}}
algorithm: {{name: ppo, num_envs: 8, num_steps: 8, minibatch: 32, epochs: 1}}
evaluation: {{every: 64, episodes: 4, num_envs: 4}}
recall: 4
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed in; it is built from a copy, as a build leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / "copy" / part, **({"symlinks": True} if copy is shutil.copytree else {}))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, folder / "copy"]
    subprocess.run(build, check=True)
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.fixture
def project(tmp_path):
    """A project with packages of its own, which nothing but `my_project` may import."""
    for name in ("envs", "agents", "transfer", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "__init__.py").touch()
    (tmp_path / "my_project" / "envs.py").write_text(GAME)
    (tmp_path / "mine.yaml").write_text(CONFIG.format(game="my_project.envs:MyGame-v0"))
    return tmp_path


def graft(installed, folder, *arguments):
    """The console command, run in a folder; returns what it printed."""
    environ = {**os.environ, "PYTHONPATH": str(installed), "RAY_ADDRESS": ""}
    words = [sys.executable, installed / "bin" / "graft", *arguments]
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--jobs", "2"],
        ["--jobs", "1", "--workers", "2"],
        ["--launcher", "ray", "--address", "local"],
        ["backend=rllib"],
    ],
)
def test_a_project_with_packages_of_the_same_names(installed, project, options):
    printed = graft(installed, project, "run", "mine.yaml", "--out", "out", *options)
    assert "[4/4]" in printed
    record = json.loads((project / "out" / "experiment.json").read_text())
    assert record["invocations"][0]["command"] == ["graft", "run", "mine.yaml", "--out", "out", *options]
    assert record["git"]["commit"] is None, "the user's repository is not Graft's"
    code = subprocess.run(
        [sys.executable, "-c", "import graft; print(graft.__file__)"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert code.stdout.startswith(str(installed))


def test_an_environment_in_the_projects_own_envs(installed, project):
    (project / "envs" / "__init__.py").write_text("")
    (project / "envs" / "my_game.py").write_text(GAME)
    (project / "mine.yaml").write_text(CONFIG.format(game="envs.my_game:MyGame-v0"))
    assert "[4/4]" in graft(installed, project, "run", "mine.yaml", "--jobs", "1")


def test_an_empty_folder(installed, tmp_path):
    small = [
        "pretrain.steps=4096",
        "transfer.steps=4096",
        "seeds=1",
        "targets=[{id: Graft/Dodge-v0, kwargs: {slip: 1}}]",
    ]
    graft(installed, tmp_path, "run", "quickstart", *small, "methods=[frozen]", "--out", "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rows"]


def test_checkpoints_that_come_with_it_are_whole(installed):
    for name in pretrained():
        folder = installed / "graft" / "agents" / "pretrained" / name
        assert {*read_manifest(folder)["files"], "README.md"} <= {path.name for path in folder.iterdir()}
