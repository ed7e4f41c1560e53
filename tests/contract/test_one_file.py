"""A method, game, view, encoder or algorithm is one new file, a provider of environments one folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from graft.agents.checkpoints.checkpoint import Checkpoint

PACKAGE = Path(__file__).parents[2] / "graft"

METHOD = '''"""Decay: before each rollout the encoder moves part of the way back to the source."""

from dataclasses import dataclass

import torch

from graft.transfer.method import METHODS, FromSource
from graft.transfer.state import group, named


@METHODS.register("decay")
@dataclass(frozen=True, kw_only=True)
class Decay(FromSource):
    share: float = 0.1

    def init(self, network, source):
        return named("start", {name: p.detach().clone() for name, p in network.encoder.named_parameters()})

    @torch.no_grad()
    def schedule(self, network, state, progress):
        for name, start in group(state, "start").items():
            network.encoder.get_parameter(name).lerp_(start, self.share)
        return state
'''

GAME = '''"""Harvest: collect coins; where one was, a wall grows."""

from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.game import GAMES, Game
from graft.envs.builtin.engine.state import COIN, WALL, neighbour, paint_cells, place_player, scatter
from graft.envs.core.task import Bounds


@jit
def begin(s, i, p):
    scatter(s, i, COIN, 0.2)
    place_player(s, i)


@jit
def advance(s, i, action, p):
    r, c = neighbour(s.player[i, 0], s.player[i, 1], action, p.wrap)
    if s.cells[i, r, c] == WALL:
        return 0.0, False
    s.player[i, 0] = r
    s.player[i, 1] = c
    if s.cells[i, r, c] != COIN:
        return 0.0, False
    s.cells[i, r, c] = WALL
    return 1.0, False


GAMES.add(
    "Graft/Harvest-v0",
    Game(
        id="Graft/Harvest-v0",
        goal="Collect coins without walling yourself in.",
        things=("player", "wall", "hazard", "coin"),
        own={"wrap": False},
        begin=begin,
        advance=advance,
        paint=paint_cells,
        bounds=Bounds(0.0, 20.0, "made up"),
        max_steps=20,
    ),
)
'''

VIEW = '''"""Centres: a vector of where the middle of each kind of thing is."""

import numpy as np

from graft.envs.builtin.engine.state import SIZE
from graft.envs.builtin.engine.view import VIEWS, View
from graft.envs.core.schema import ObservationSchema


def schema(names):
    features = tuple(f"{name}.{axis}" for name in names for axis in ("row", "column"))
    count = len(features)
    return ObservationSchema("vector", features, ((),) * count, (count,), "float32", (0.0,) * count, (1.0,) * count)


def show(names, palette):
    def centres(planes, out):
        count = np.maximum(planes.sum((2, 3)), 1)
        for axis in (0, 1):
            along = planes.sum(3 - axis) @ np.arange(SIZE)
            out[:, axis::2] = along / count / SIZE

    return centres


VIEWS.add("centres", View("the middle of each kind of thing", schema, show))
'''

ENCODER = '''"""Residual MLP: fully connected layers whose inputs are added to their outputs."""

from torch import nn

from graft.agents.networks.encoder import ENCODERS, Encoder, Stem


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, hidden):
        return hidden + self.linear(hidden).relu()


@ENCODERS.register("residual_mlp")
class ResidualMLP(Encoder):
    kinds = ("vector",)

    def __init__(self, schema, width: int = 16, depth: int = 1):
        super().__init__()
        first = nn.Sequential(nn.Linear(schema.shape[0], width), nn.ReLU())
        self.blocks = nn.ModuleList([first, *(Residual(width) for _ in range(depth))])
        self.out_dim = width
        self.stems = (Stem.of("blocks.0.0.weight", 1, schema),)
'''

ALGORITHM = '''"""PPO with weight decay."""

from dataclasses import dataclass

from graft.agents.sb3.algorithm import ALGORITHMS
from graft.agents.sb3.algorithms.ppo import PPOAlgorithm


@ALGORITHMS.register("decayed_ppo")
@dataclass(frozen=True, kw_only=True)
class DecayedPPO(PPOAlgorithm):
    weight_decay: float = 0.0

    def learner(self, *args):
        learner = super().learner(*args)
        for parameters in learner.policy.optimizer.param_groups:
            parameters["weight_decay"] = self.weight_decay
        return learner
'''

PROVIDER = '''"""Walks on a line: reach the coin."""

import numpy as np

from graft.envs.adapters.spaces import ActionCodec, AdaptedVectorEnv, ObservationCodec
from graft.envs.core.schema import ActionSchema, ObservationSchema
from graft.envs.core.task import Adapter, Bounds
from graft.envs.factory import ADAPTERS
from graft.errors import unknown

NAMES = ("player.column", "coin.column")
OBSERVATION = ObservationSchema("vector", NAMES, ((),) * 2, (2,), "float32", (0.0,) * 2, (1.0,) * 2)
ACTION = ActionSchema("discrete", ("left", "right"))


class Walk(AdaptedVectorEnv):
    def reset(self, *, seed=None, options=None):
        self.rngs = [np.random.default_rng(s) for s in self._seeds(seed)]
        self.state, self.clock = self._drawn(), 0
        return self.state.copy(), {}

    def _drawn(self):
        return np.stack([rng.random(2, np.float32) for rng in self.rngs])

    def step(self, actions):
        self.clock += 1
        self.state[:, 0] = (self.state[:, 0] + 0.1 * (2 * np.asarray(actions) - 1)).clip(0, 1)
        rewards = -np.abs(self.state[:, 0] - self.state[:, 1]).astype(np.float64)
        ended, infos = np.full(self.num_envs, self.clock == 10), {}
        if ended.any():
            infos = {"final_obs": self.state.copy(), "_final_obs": ended}
            self.state, self.clock = self._drawn(), 0
        return self.state.copy(), rewards, np.zeros_like(ended), ended, infos


class WalkAdapter(Adapter):
    prefix = "walk/"

    def ids(self):
        return ["walk/Line-v0"]

    def make(self, task, options):
        if task.id not in self.ids():
            raise unknown("task", task.id, self.ids())
        return Walk(options, ObservationCodec(OBSERVATION, np.asarray), ActionCodec(ACTION, np.asarray))

    def bounds(self, task):
        return Bounds(-5.0, 0.0, "made up")


ADAPTERS.add("walk", WalkAdapter())
'''

NEW = {
    "transfer/methods/decay.py": METHOD,
    "envs/builtin/games/harvest.py": GAME,
    "envs/builtin/views/centres.py": VIEW,
    "agents/networks/encoders/residual_mlp.py": ENCODER,
    "agents/sb3/algorithms/decayed_ppo.py": ALGORITHM,
    "envs/adapters/walk/__init__.py": '"""Walks on a line."""\n',
    "envs/adapters/walk/adapter.py": PROVIDER,
}
"""All that is added: path within the package -> text."""

EXPERIMENT = {
    "name": "one_file",
    "sources": {"id": "Graft/Harvest-v0", "kwargs": {"view": "centres", "wrap": True}},
    "targets": "walk/Line-v0",
    "methods": {"decay": {"share": 0.5}},
    "seeds": 1,
    "pretrain": {"steps": 256},
    "transfer": {"steps": 256},
    "network": {"encoder": "residual_mlp", "options": {"width": 8, "depth": 2}, "head": [8]},
    "algorithm": {
        "name": "decayed_ppo",
        "weight_decay": 0.01,
        "num_envs": 8,
        "num_steps": 16,
        "minibatch": 64,
        "epochs": 1,
    },
    "evaluation": {"every": 128, "episodes": 8, "num_envs": 8},
}


def files(folder: Path) -> dict[str, bytes]:
    """Contents by path, without bytecode."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.timeout(600)  # imports everything in three processes
def test_each_of_them_runs_through_the_command(tmp_path):
    copy = tmp_path / "site" / "graft"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = files(copy)
    for path, text in NEW.items():
        (copy / path).parent.mkdir(exist_ok=True)
        (copy / path).write_text(text)
    (tmp_path / "one_file.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    command = [sys.executable, "-m", "graft", "run", "one_file.yaml", "--out", "out", "--jobs", "1"]
    environ = {**os.environ, "PYTHONPATH": str(copy.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(copy) == {**before, **{path: text.encode() for path, text in NEW.items()}}
    assert before.keys().isdisjoint(NEW)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [stage["status"] for stage in results["stages"]] == ["done"] * 4  # pretrained, two controls, the method
    decay = next(stage for stage in results["stages"] if stage["label"].startswith("decay(share=0.5)"))
    end = Checkpoint.load(tmp_path / "out" / "stages" / decay["id"] / "checkpoint")
    assert end.network.encoder == "residual_mlp"
    assert "start.blocks.1.linear.weight" in end.parts["method"]
