"""An agent of another library as the source of a transfer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from support.tiny_tasks import discrete, vector
from torch import nn

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.importing.agent import import_agent
from graft.agents.importing.source import Request
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.transfer.transplant import transplant


def test_it_plays_on_where_observations_and_actions_are_added(tmp_path):
    torch.manual_seed(0)
    own = Schemas(vector(("a", "b", "c")), discrete("left", "right"))
    towers = {name: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, n)) for name, n in (("pi", 2), ("vf", 1))}
    torch.save({f"{n}.{k}": v for n, tower in towers.items() for k, v in tower.state_dict().items()}, tmp_path / "a.pt")
    names = {"kind": "categorical", "policy": "pi", "value": "vf"}
    network = import_agent(Request(tmp_path / "a.pt", own, names=names)).assembly.network
    Checkpoint.of(network, Task("made-up")).save(tmp_path / "source")

    actions = replace(own.action, names=("right", "wait", "left"))
    target = Schemas(vector(("c", "wind", "a", "b")), actions)
    moved, report = transplant(
        Checkpoint.load(tmp_path / "source"),
        target,
        heads="by_name",
        new_channels="zero",
        rename={},
        strict=False,
        seed=0,
    )
    obs = torch.tensor(np.random.default_rng(0).normal(size=(50, 4)), dtype=torch.float32)
    before = obs[:, [2, 3, 0]]  # a, b, c
    with torch.no_grad():
        found = moved(obs)
        torch.testing.assert_close(found.action[:, [2, 0]], towers["pi"](before))
        torch.testing.assert_close(found.value, towers["vf"](before).squeeze(1))
    assert set(report.lost) == {"wind", "wait"}
